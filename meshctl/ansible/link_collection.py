"""Make a checkout's roles and plugins visible to Ansible as the collection meshctl.mesh, by links.

    python meshctl/ansible/link_collection.py build/collections

Afterwards ANSIBLE_COLLECTIONS_PATH=build/collections finds them. A wheel needs none of this: pyproject.toml puts the
same files below ansible_collections/. Links that lead elsewhere are replaced, each at once: another Ansible may be
reading by them. A real file in their place is an error.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = {
    "galaxy.yml": HERE / "galaxy.yml",
    "README.md": HERE / "README.md",
    "meta": HERE / "meta",
    "playbooks": HERE / "playbooks",
    "plugins": HERE / "plugins",
    "roles": HERE.parents[1] / "roles",
}


def link(collections: Path) -> Path:
    """The collection's folder below `collections`, linked to this checkout. OSError when a real file is in the way."""
    folder = collections / "ansible_collections" / "meshctl" / "mesh"
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in PARTS.items():
        entry = folder / name
        if entry.is_symlink():
            if entry.readlink() == target:
                continue
            new = folder / f".{name}.{os.getpid()}"
            new.symlink_to(target)
            new.replace(entry)
        else:
            entry.symlink_to(target)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: link_collection.py DIRECTORY")
    link(Path(sys.argv[1]))
