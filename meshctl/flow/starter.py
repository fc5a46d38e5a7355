"""Init: a first mesh.yaml, and git kept away from the private keys.

What is typed is judged as words of the command line, since there is no file yet whose line could be named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from meshctl.core import names, parse
from meshctl.core.errors import Failed
from meshctl.core.spec import SshAddress
from meshctl.shell import meshdir, yamlfile

_EXAMPLE = ("a=root@a.example.com", "b=root@b.example.com")
_PLAIN = re.compile(r"[A-Za-z0-9_.@-]+(:\d+)?")
_REST = """\

# Everybody is linked with everybody, unless you say otherwise:
# links: {hub: %(first)s}
# A host behind NAT, with a network behind it: c: {ssh: root@c.example.com, nat: true, lan: 192.168.20.0/24}
# All words: meshctl schema
"""


def write(file: Path, name: str, hosts: Sequence[str]) -> tuple[Path, ...]:
    """Write the file, and a .gitignore line for its keys; the paths written.

    `hosts` are `NAME=USER@ADDRESS`. Failed when the file is there already, or would not be right.
    """
    meshdir.new(file)
    if (fault := names.mesh_name_fault(name)) is not None:
        hint = f"for example {names.tidy(name, limit=15) or 'prod'}"
        if "=" in name or "@" in name:
            hint = f"name the mesh before its hosts: meshctl init prod {name}"
        raise Failed(fault, hint, "usage")
    named = [_host(word) for word in hosts or _EXAMPLE]
    _no_two_alike(hosts or _EXAMPLE, named)
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


def _no_two_alike(words: Sequence[str], named: Sequence[tuple[str, str]]) -> None:
    """Failed when two words of the command line name one host, or one machine."""
    by_name: dict[str, str] = {}
    by_address: dict[tuple[str, int | None], str] = {}
    for word, (host, _) in zip(words, named, strict=True):
        address = SshAddress.parse(word.partition("=")[2] or word)
        if (first := by_name.get(host)) is not None:
            raise Failed(f"{word}: {first} is called {host} too", "give each host a name of its own", "usage")
        if (first := by_address.get((address.host, address.port))) is not None:
            what = f"{word}: {first} has this SSH address too, and one machine is one host"
            raise Failed(what, "name each machine once", "usage")
        by_name[host] = by_address[address.host, address.port] = word


def _host(word: str) -> tuple[str, str]:
    """`NAME=USER@ADDRESS`, or an address whose first label is the name: both as mesh.yaml writes them."""
    host, equals, ssh = word.partition("=")
    if not equals:
        host, ssh = word.rpartition("@")[2].partition(".")[0], word
    try:
        SshAddress.parse(ssh)
    except ValueError as error:
        raise Failed(f"{word}: {error.args[0]}", "write it as NAME=USER@ADDRESS", "usage") from None
    if (fault := names.label_fault(host, "host")) is not None:
        raise Failed(fault, f"write it as NAME={ssh}", "usage")
    return host, ssh if _PLAIN.fullmatch(ssh) else json.dumps(ssh)  # a JSON string is a YAML double-quoted scalar
