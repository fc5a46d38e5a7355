"""What meshctl brings along: the collection and the daemon's binaries, in a checkout and in a wheel alike.

Strategy: an installed wheel holds the collection as ansible_collections/meshctl/mesh beside the package, where Ansible
finds it by itself. In a checkout the same tree is put together of links below build/collections, once.
"""

from __future__ import annotations

import os
from functools import cache
from hashlib import sha256
from pathlib import Path

from meshctl.core.errors import Failed

_PACKAGE = Path(__file__).resolve().parents[1]
_COLLECTION = Path("ansible_collections", "meshctl", "mesh")
_PARTS = ("galaxy.yml", "README.md", "meta", "playbooks", "plugins")  # of meshctl/ansible; roles come from the top


@cache
def collections() -> Path:
    """The folder that holds ansible_collections with our collection in it. Failed when there is none."""
    installed = _PACKAGE.parent
    if (installed / _COLLECTION / "galaxy.yml").is_file():
        return installed
    if not (installed / "roles").is_dir():
        raise Failed("meshctl's Ansible collection is missing", "pip install --force-reinstall meshctl")
    return _link(installed)


def observe_script() -> bytes:
    """The POSIX script that says what a host looks like (contracts §6)."""
    return (collections() / _COLLECTION / "plugins" / "plugin_utils" / "sh" / "observe.sh").read_bytes()


@cache
def binaries() -> dict[str, str]:
    """The carried daemons: architecture, as `uname -m` calls it, and the SHA-256 of the binary."""
    folder = collections() / _COLLECTION / "roles" / "daemon" / "files" / "bin"
    return {path.parent.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*/meshd"))}


def _link(checkout: Path) -> Path:
    """Links to a checkout's parts, laid out as a collection; safe when two runs make them at once."""
    top = checkout / "build" / "collections"
    folder = top / _COLLECTION
    targets = {name: _PACKAGE / "ansible" / name for name in _PARTS} | {"roles": checkout / "roles"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, target in targets.items():
            entry = folder / name
            if target.exists() and not (entry.is_symlink() and entry.readlink() == target):
                temporary = folder / f".{name}.{os.getpid()}"
                temporary.symlink_to(target)
                temporary.replace(entry)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise Failed(f"can't put the collection together in {folder}: {why}", "delete build/collections") from error
    return top
