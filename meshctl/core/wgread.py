"""read: the text of a NAME.conf back into a WgConf. Every fault is reported with its line; nothing is skipped.

The counterpart of meshd's own reader; `read(format(conf)) == conf` is a law. Hooks (PreUp, …) are errors: a hook that
is silently ignored leaks what it was to keep in. An error never repeats a value that may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from ipaddress import IPv6Address
from typing import Any, TypeVar

from meshctl.core import ip, names, users
from meshctl.core.errors import Invalid, Problem, Where
from meshctl.core.keys import PublicKey, Secret, decode
from meshctl.core.wgconf import HostLine, Table, WgConf, WgPeer

HOOKS = frozenset({"preup", "postup", "predown", "postdown", "saveconfig"})
T = TypeVar("T")


def read(text: str, file: str) -> WgConf | None:
    """The configuration in `text`, or None for a file without a section (absent). Invalid holds every problem."""
    return _Reader(text, file).conf()


class _Section:
    """The keys of one section: lower-case name → values with their lines."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.values: dict[str, list[tuple[str, int]]] = {}


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.interface: _Section | None = None
        self.peers: list[_Section] = []
        section: _Section | None = None
        for number, raw in enumerate(text.split("\n"), 1):
            line = raw.partition("#")[0].strip()
            if line.startswith("["):
                section = self._open(line, number)
            elif line:
                self._key(section, line, number)

    def _open(self, line: str, number: int) -> _Section:
        section = _Section(number)
        match line.lower():
            case "[interface]" if self.interface is None:
                self.interface = section
            case "[interface]":
                self._add(number, "a second [Interface]", "one file describes one interface")
            case "[peer]":
                self.peers.append(section)
            case _:
                self._add(number, f"unknown section {line}", "known are [Interface] and [Peer]")
        return section

    def _key(self, section: _Section | None, line: str, number: int) -> None:
        key, equals, value = line.partition("=")
        name, value = key.strip().lower(), value.strip()
        if section is None or not equals:
            self._add(number, "this is neither a section nor Key = value", "start with [Interface]")
        elif name in HOOKS:
            self._add(number, f"{key.strip()} is refused: meshd runs no hooks", "take the line out")
        else:
            section.values.setdefault(name, []).append((value, number))

    def conf(self) -> WgConf | None:
        if self.interface is None:
            if self.peers:
                self._add(self.peers[0].line, "[Peer] without [Interface]", "start with [Interface]")
            if self.problems:
                raise Invalid(self.problems)
            return None
        words = self._values(self.interface, _INTERFACE)
        if ("private_key" in words) == ("private_key_file" in words):
            what = "an interface has exactly one of PrivateKey and PrivateKeyFile"
            self._add(self.interface.line, what, "add PrivateKey = (made by meshd genkey)")
        self._other_key(self.interface, words, "private_key")
        peers = self._peers()
        if self.problems:
            raise Invalid(self.problems)
        return WgConf(**{"private_key": None} | words, peers=peers)

    def _peers(self) -> tuple[WgPeer, ...]:
        peers = []
        owner: dict[ip.Net, int] = {}
        seen: dict[PublicKey, int] = {}
        for section in self.peers:
            fields = self._values(section, _PEER)
            self._other_key(section, fields, "preshared_key")
            key = fields.get("public_key")
            if key is None:
                if "publickey" not in section.values:
                    self._add(section.line, "a peer without PublicKey", "add PublicKey = (of meshd pubkey)")
                continue
            for known in (key, fields.get("next_public_key")):
                if known is None:
                    continue
                if known in seen:
                    self._add(section.line, f"the peer of line {seen[known]} again", "a public key belongs to one peer")
                seen[known] = section.line
            for net in dict.fromkeys(fields.get("allowed_ips", ())):
                if net in owner:
                    what = f"{net} belongs to the peer of line {owner[net]} too"
                    self._add(section.line, what, "give each network to one peer")
                owner[net] = section.line
            peers.append(WgPeer(**fields))
        return tuple(peers)

    def _other_key(self, section: _Section, fields: Mapping[str, Any], name: str) -> None:
        if name in fields and fields[name] == fields.get(f"next_{name}"):
            word = f"next{name.replace('_', '')}"
            line = section.values[word][0][1]
            self._add(line, f"{word} is the current key", "take the line out, or make a new key with meshd genkey")

    def _values(self, section: _Section, known: Mapping[str, _Key]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, values in section.values.items():
            key = known.get(name)
            if key is None:
                hint = names.did_you_mean(name, known) or f"known are {', '.join(sorted(known))}"
                self._add(values[0][1], f"unknown key {name}", hint)
                continue
            field, parse, many = key
            if len(values) > 1 and not many:
                self._add(values[1][1], f"{name} is given twice", "give it once")
            for value, line in values:
                try:
                    parsed = parse(value)
                except ValueError as fault:
                    hint = str(fault.args[1]) if len(fault.args) > 1 else "see wg-quick(8)"
                    self._add(line, f"{name}: {fault.args[0]}", hint)
                    continue
                found[field] = found.get(field, ()) + parsed if many else parsed
        return {field: value for field, value in found.items() if value is not None}

    def _add(self, line: int, what: str, hint: str) -> None:
        self.problems.append(Problem(what, Where(self.file, line, 1), hint, "bad-conf"))


_Key = tuple[str, Callable[[str], Any], bool]


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"not a number from {low} to {high}", f"write a number from {low} to {high}")
        return int(text)

    return parse


def _keepalive(text: str) -> int:
    return 0 if text.lower() == "off" else _number(0, 65535)(text)


def _mark(text: str) -> int:
    if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text):
        return int(text, 16)
    return 0 if text.lower() == "off" else _number(0, 2**32 - 1)(text)


def _table(text: str) -> Table:
    match text.lower():
        case "auto":
            return "auto"
        case "off":
            return "off"
        case _:
            return _number(1, 2**32 - 1)(text)


def _switch(text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ValueError("neither on nor off", "write on or off")
    return text.lower() == "on"


def _label(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise ValueError("not a label", "write 1 to 63 of letters, digits, '.', '_' and '-'")
    return text


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("not an absolute path", "start it with /")
    return text


def _preshared(text: str) -> Secret[bytes] | None:
    """All zeros is how WireGuard's tools write no key (wg(8))."""
    key = decode(text)
    return Secret(key) if any(key) else None


def _list(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(parse(item.strip()) for item in text.split(",") if item.strip())


def _host(text: str) -> tuple[HostLine, ...]:
    address, *labels = text.split() or [""]
    if not labels or not all(map(names.is_host_name, labels)):
        raise ValueError("an address and at least one name", "write Host = 10.20.0.1 a a.prod")
    return (HostLine(ip.parse_addr(address), tuple(labels)),)


def _endpoint(text: str) -> ip.Endpoint:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(IPv6Address(ip.parse_addr(host[1:-1])))
    elif not names.is_host_name(host.removesuffix(".")):
        raise ValueError("not HOST:PORT", "write 192.0.2.1:51820, [2001:db8::1]:51820 or vpn.example.com:51820")
    return ip.Endpoint.of(host, _number(1, 65535)(port))


def _service(text: str) -> int:
    kind, slash, port = text.lower().partition("/")
    if kind != "tcp" or not slash:
        raise ValueError("not a TCP service", "write it as tcp/22")
    return _number(1, 65535)(port)


def _expires(text: str) -> str:
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text):
            datetime.fromisoformat(text)
            return text
    except ValueError:
        pass
    raise ValueError("not an RFC 3339 time in UTC", "write it as 2026-11-23T12:00:00Z")


_INTERFACE: Mapping[str, _Key] = {
    "name": ("name", _label, False),
    "privatekey": ("private_key", lambda text: Secret(decode(text)), False),
    "privatekeyfile": ("private_key_file", _path, False),
    "nextprivatekey": ("next_private_key", lambda text: Secret(decode(text)), False),
    "address": ("addresses", _list(ip.parse_iface), True),
    "listenport": ("listen_port", _number(0, 65535), False),
    "fwmark": ("fwmark", _mark, False),
    "mtu": ("mtu", _number(1280, 65455), False),
    "table": ("table", _table, False),
    "namespace": ("namespace", _label, False),
    "relay": ("relay", _switch, False),
    "forward": ("forward", _list(lambda text: ip.parse_iface(text).network), True),
    "exit": ("exit", _switch, False),
    "host": ("hosts", _host, True),
    "dns": ("dns", _list(str), True),
    "killswitch": ("kill_switch", _switch, False),
    "killswitchallow": ("kill_switch_allow", _list(_service), True),
    "routeusers": ("route_users", _list(users.parse), True),
}
_PEER: Mapping[str, _Key] = {
    "name": ("name", _label, False),
    "publickey": ("public_key", PublicKey.parse, False),
    "nextpublickey": ("next_public_key", PublicKey.parse, False),
    "presharedkey": ("preshared_key", _preshared, False),
    "nextpresharedkey": ("next_preshared_key", _preshared, False),
    "allowedips": ("allowed_ips", _list(lambda text: ip.parse_iface(text).network), True),
    "endpoint": ("endpoint", _endpoint, False),
    "persistentkeepalive": ("keepalive_s", _keepalive, False),
    "expires": ("expires", _expires, False),
}
