"""Safekeeping: whether git would carry mesh.keys away in clear text.

`init` writes the .gitignore line; whoever wrote mesh.yaml by hand is told here. An encrypted file may be committed.
"""

from __future__ import annotations

import shlex

from meshctl.core.mesh import Finding
from meshctl.shell import git, keyring
from meshctl.shell.git import Kept
from meshctl.shell.keyring import VaultSource
from meshctl.shell.meshdir import MeshDir


def findings(mesh: MeshDir, vault: VaultSource) -> tuple[Finding, ...]:
    """What is to be said of mesh.keys, which this run may be about to write: nothing, or one finding."""
    there = mesh.keys.exists()
    if keyring.is_encrypted(mesh.keys) or (vault.given and not there):
        return ()
    seen, path = git.kept(mesh.keys), mesh.keys.resolve() if mesh.keys.is_symlink() else mesh.keys
    ignore = f"echo {shlex.quote(f'/{path.name}')} >> {shlex.quote(str(path.parent / '.gitignore'))}"
    if seen is Kept.TRACKED and there:
        what = f"{mesh.keys} is tracked by git with private keys in clear text: who has the repository has the keys"
        folder = f" -C {shlex.quote(str(path.parent))}" if str(path.parent) != "." else ""
        untrack = f"git{folder} rm --cached {shlex.quote(path.name)} && {ignore}"
        hint = f"{untrack}; its history keeps them, so change them then: meshctl rotate"
        return (Finding("keys-in-git", (), what, hint),)
    if seen in (Kept.OPEN, Kept.TRACKED) and not vault.given:
        holds = "holds" if there else "is to hold"
        what = f"{mesh.keys} {holds} private keys in clear text, and git doesn't ignore it"
        return (Finding("keys-in-git", (), what, f"{ignore}, or encrypt it: --ask-vault-pass"),)
    return ()
