"""Spec: what mesh.yaml says, in types that can't be wrong.

Everything here was checked by parse.py, the one door; later stages ask nothing again. Hosts are kept by name, so that
their order in the file means nothing. What isn't written is None or empty: defaults that depend on other stages (port,
addresses, endpoint) are filled in by mesh.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from meshctl.core import ip, names, spelling
from meshctl.core.errors import Where
from meshctl.core.ip import Addr, Net

Pair = tuple[str, str]
"""Two host names in alphabetical order."""


def pair(a: str, b: str) -> Pair:
    return (a, b) if a < b else (b, a)


_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?")


def host_port(text: str, noun: str, example: str) -> tuple[str, int | None]:
    """HOST, HOST:PORT, V6, [V6] or [V6]:PORT. ValueError holds a sentence and, as its second argument, a hint."""
    bracket = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", text)
    if bracket:
        host, port = bracket[1], bracket[2]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, None
    if ":" in host:
        try:
            ip.parse_addr(host)
        except ValueError as fault:
            raise ValueError(f"{noun} {spelling.text(text)}: {fault.args[0]}", f"write it as {example}") from None
    elif bracket or not names.is_host_name(host.removesuffix(".")):
        raise ValueError(f"{spelling.text(text)} is not {noun}", f"write it as {example}")
    if port is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{spelling.text(port)} is not a port", "write a number from 1 to 65535")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class SshAddress:
    """`[user@]host[:port]` as the user wrote it; `host` may be an alias of ssh_config."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> SshAddress:
        """The address in `text`. ValueError holds a sentence and, as its second argument, a hint.

        Nothing passes that ssh could take for an option, or a shell or an ssh_config for more than a word.
        """
        user, at, rest = text.removeprefix("ssh://").rpartition("@")
        if at and _USER.fullmatch(user) is None:
            raise ValueError(f"{spelling.text(user)} is not a user name", "write ssh as user@host.example.com")
        host, port = host_port(rest, "an SSH address", "user@host.example.com:22")
        return cls(host, user or None, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True)
class EndpointWords:
    """`endpoint:` of a host; without a port it is the host's own listen port."""

    host: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class At:
    """`at:` of a host: the place it shares with others, and the address it has there (else its SSH host name)."""

    place: str
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """`kill_switch:` of a host that is closed; `allow` are the TCP ports whose services may answer past the mesh."""

    allow: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Users:
    """`route:` of a host: all of its traffic, or that of these users alone."""

    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """What a host sends through the exit `via`, and in no other way; `users` is empty for everything."""

    via: str
    users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostSpec:
    """`closed_at` is the word that lets nothing of this host out past the mesh, if there is one."""

    name: str
    ssh: SshAddress
    where: Where
    nat: bool = False
    endpoint: EndpointWords | None = None
    lan: tuple[Net, ...] = ()
    groups: frozenset[str] = frozenset()
    owner: str | None = None
    note: str | None = None
    at: At | None = None
    port: int | None = None
    mtu: int | None = None
    addresses: tuple[Addr, ...] = ()
    kill_switch: KillSwitch | None = None
    exit: bool = False
    route: Route | None = None
    closed_at: Where | None = None


@dataclass(frozen=True, slots=True)
class Full:
    """Everybody is linked with everybody."""


@dataclass(frozen=True, slots=True)
class Hub:
    """Every host is linked with each hub; traffic between the others goes through the first that both can use."""

    hubs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lines:
    """The links as written; a side is a host, a group or `*`."""

    lines: tuple[tuple[str, str], ...]


Links = Full | Hub | Lines


@dataclass(frozen=True, slots=True)
class LabSpec:
    """The simulated internet of `meshctl lab`: one-way latency in milliseconds, loss as a fraction of 1."""

    latency_ms: float = 0.0
    loss: float = 0.0
    behind_nat: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spec:
    """`networks` is what the user chose, at most one of each IP version, or empty: derived from the name."""

    mesh: str
    where: Where
    hosts: Mapping[str, HostSpec]
    networks: tuple[Net, ...] = ()
    links: Links = Full()
    lab: LabSpec = LabSpec()

    def groups(self) -> dict[str, frozenset[str]]:
        """The members of each group."""
        names = sorted({g for h in self.hosts.values() for g in h.groups})
        return {g: frozenset(n for n, h in self.hosts.items() if g in h.groups) for g in names}
