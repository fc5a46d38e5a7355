"""Safekeeping: whether git would carry mesh.keys away in clear text.

`init` writes the .gitignore line; whoever wrote mesh.yaml by hand is told here. An encrypted file may be committed.
"""

from __future__ import annotations

import shlex

from meshctl.core.keys import KeyRing
from meshctl.core.lock import Lock
from meshctl.core.mesh import Finding
from meshctl.shell import git, keyring
from meshctl.shell.git import Kept
from meshctl.shell.keyring import VaultSource
from meshctl.shell.meshdir import MeshDir


def unlocked(known: Lock | None, ring: KeyRing | None) -> tuple[Finding, ...]:
    """A lock that got lost isn't missed by anything else: what it held is made anew, and differs."""
    if ring is None or not ring.private or (known is not None and (known.hosts or known.leaving)):
        return ()
    hosts = tuple(sorted(ring.private))
    what = f"mesh.keys has keys of {', '.join(hosts)}, and mesh.lock knows no host: addresses and ports begin anew"
    return (Finding("lock-lost", hosts, what, "if it was there before, restore mesh.lock from git"),)


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
