"""Init: a first mesh.yaml, and git kept away from the private keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meshctl.core import parse
from meshctl.core.errors import Failed
from meshctl.shell import meshdir, yamlfile

_EXAMPLE = ("a=root@a.example.com", "b=root@b.example.com")
_REST = """\

# Everybody is linked with everybody, unless you say otherwise:
# links: {hub: %(first)s}
# A host behind NAT, with a network behind it: c: {ssh: root@c.example.com, nat: true, lan: 192.168.20.0/24}
# All words: meshctl schema
"""


def write(file: Path, name: str, hosts: Sequence[str]) -> tuple[Path, ...]:
    """Write the file, and a .gitignore line for its keys; the paths written.

    `hosts` are `NAME=USER@ADDRESS`. Failed when the file is there already; Invalid when it would not be right.
    """
    if file.exists():
        raise Failed(f"{file} is there already", "edit it, or name another with --file", "exists")
    named = []
    for word in hosts or _EXAMPLE:
        host, equals, ssh = word.partition("=")
        if not equals:
            host, ssh = word.rpartition("@")[2].partition(".")[0], word
        named.append((host, ssh))
    lines = [f"mesh: {name}", "hosts:", *(f"  {host}: {ssh}" for host, ssh in named)]
    text = "\n".join(lines) + "\n" + _REST % {"first": named[0][0]}
    parse.parse(yamlfile.parse(text.encode(), str(file)), str(file))
    meshdir.write(file, text)
    ignore, line = file.with_name(".gitignore"), f"/{file.stem}.keys"
    kept = ignore.read_text().splitlines() if ignore.exists() else []
    if line in kept:
        return (file,)
    meshdir.write(ignore, "\n".join([*kept, line]) + "\n")
    return (file, ignore)
