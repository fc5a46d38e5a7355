"""The canonical form: a configuration without its secrets, as a value and as a text that two programs write alike.

PublicConf is the one shape of what is desired, what is on disk and what runs; a plan compares two of them. Its text is
contracts §2, byte for byte what meshd's conf/canonical.rs writes; tests/cases/canonical holds both to it. Private keys
appear as public ones, pre-shared keys as fingerprints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshctl.core import ip, users
from meshctl.core.keys import PublicKey, Secret, psk_fingerprint, public_of
from meshctl.core.wgconf import Table, WgConf, WgPeer, services_text


@dataclass(frozen=True, slots=True)
class PublicPeer:
    public_key: PublicKey
    name: str | None = None
    next_public_key: PublicKey | None = None
    preshared_key: str | None = None
    next_preshared_key: str | None = None
    allowed_ips: tuple[ip.Net, ...] = ()
    endpoint: str | None = None
    keepalive_s: int = 0
    expires: str | None = None


@dataclass(frozen=True, slots=True)
class PublicConf:
    """Lists are in canonical order, peers by public key. Pre-shared keys are fingerprints, `endpoint` is the configured
    text.
    """

    name: str | None = None
    public_key: PublicKey | None = None
    next_public_key: PublicKey | None = None
    addresses: tuple[ip.Iface, ...] = ()
    listen_port: int = 0
    fwmark: int = 0
    mtu: int | None = None
    table: Table = "auto"
    namespace: str | None = None
    relay: bool = False
    forward: tuple[ip.Net, ...] = ()
    exit: bool = False
    hosts: tuple[str, ...] = ()
    kill_switch: bool = False
    kill_switch_allow: tuple[int, ...] = ()
    route_users: tuple[str, ...] = ()
    routes: tuple[ip.Net, ...] = ()
    peers: tuple[PublicPeer, ...] = ()


def public(conf: WgConf | None) -> PublicConf | None:
    """The public form of a configuration; None for an absent interface."""
    if conf is None:
        return None
    return PublicConf(
        name=conf.name,
        public_key=public_of(conf.private_key) if conf.private_key is not None else None,
        next_public_key=public_of(conf.next_private_key) if conf.next_private_key is not None else None,
        addresses=ip.sort_ifaces(conf.addresses),
        listen_port=conf.listen_port,
        fwmark=conf.fwmark,
        mtu=conf.mtu,
        table=conf.table,
        namespace=conf.namespace,
        relay=conf.relay,
        forward=ip.sort_nets(conf.forward),
        exit=conf.exit,
        hosts=tuple(sorted(set(map(str, conf.hosts)))),
        kill_switch=conf.kill_switch,
        kill_switch_allow=tuple(sorted(set(conf.kill_switch_allow))),
        route_users=users.in_order(conf.route_users),
        routes=_routes(conf),
        peers=tuple(sorted(map(_public_peer, conf.peers), key=lambda p: p.public_key)),
    )


def _public_peer(peer: WgPeer) -> PublicPeer:
    return PublicPeer(
        public_key=peer.public_key,
        name=peer.name,
        next_public_key=peer.next_public_key,
        preshared_key=_fingerprint(peer.preshared_key),
        next_preshared_key=_fingerprint(peer.next_preshared_key),
        allowed_ips=ip.sort_nets(peer.allowed_ips),
        endpoint=str(peer.endpoint) if peer.endpoint is not None else None,
        keepalive_s=peer.keepalive_s,
        expires=peer.expires,
    )


def _fingerprint(key: Secret[bytes] | None) -> str | None:
    return psk_fingerprint(key) if key is not None else None


def _routes(conf: WgConf) -> tuple[ip.Net, ...]:
    """Every allowed-IP network that the kernel doesn't route already because of an address with a shorter prefix."""
    if conf.table == "off":
        return ()
    onlink = [a.network for a in conf.addresses if a.network.prefixlen < a.max_prefixlen]
    nets = (net for peer in conf.peers for net in peer.allowed_ips)
    return ip.sort_nets(net for net in nets if not any(ip.inside(net, own) for own in onlink))


def format(conf: PublicConf | None) -> str:
    """The canonical text; empty for an absent interface."""
    if conf is None:
        return ""
    sections = ["\n".join(["[Interface]", *_lines(_interface(conf))])]
    sections += ["\n".join(["[Peer]", *_lines(_peer(peer))]) for peer in conf.peers]
    return "\n\n".join(sections) + "\n"


def _lines(words: Iterable[tuple[str, object]]) -> Iterator[str]:
    """`Key = value` for each word that has a value."""
    return (f"{key} = {value}" for key, value in words if value)


def _interface(conf: PublicConf) -> Iterator[tuple[str, object]]:
    yield "Name", conf.name
    yield "PublicKey", conf.public_key
    yield "NextPublicKey", conf.next_public_key
    yield "Address", ", ".join(map(ip.iface_text, conf.addresses))
    yield "ListenPort", conf.listen_port
    yield "FwMark", f"{conf.fwmark:#x}" if conf.fwmark else None
    yield "MTU", conf.mtu
    yield "Table", conf.table if conf.table != "auto" else None
    yield "Namespace", conf.namespace
    yield "Relay", "on" if conf.relay else None
    yield "Forward", ", ".join(map(ip.net_text, conf.forward))
    yield "Exit", "on" if conf.exit else None
    for line in conf.hosts:
        yield "Host", line
    yield "KillSwitch", "on" if conf.kill_switch else None
    yield "KillSwitchAllow", services_text(conf.kill_switch_allow)
    yield "RouteUsers", ", ".join(conf.route_users)
    yield "Routes", ", ".join(map(ip.net_text, conf.routes))


def _peer(peer: PublicPeer) -> Iterator[tuple[str, object]]:
    yield "Name", peer.name
    yield "PublicKey", peer.public_key
    yield "NextPublicKey", peer.next_public_key
    yield "PresharedKey", peer.preshared_key
    yield "NextPresharedKey", peer.next_preshared_key
    yield "AllowedIPs", ", ".join(map(ip.net_text, peer.allowed_ips))
    yield "Endpoint", peer.endpoint
    yield "PersistentKeepalive", peer.keepalive_s
    yield "Expires", peer.expires


def read(text: str) -> PublicConf | None:
    """A canonical text back into its value. ValueError when it isn't one: anything may come from a host."""
    if text == "":
        return None
    interface: dict[str, list[str]] | None = None
    peers: list[dict[str, list[str]]] = []
    section: dict[str, list[str]] = {}
    for line in text.split("\n"):
        if line == "[Interface]" and interface is None:
            section = interface = {}
        elif line == "[Peer]" and interface is not None:
            section = {}
            peers.append(section)
        elif " = " in line and interface is not None:
            key, _, value = line.partition(" = ")
            section.setdefault(key, []).append(value)
        elif line:
            raise ValueError("neither a section nor Key = value")
    if interface is None:
        raise ValueError("no [Interface]")
    return _read_interface(_Words(interface), tuple(_read_peer(_Words(p)) for p in peers))


class _Words:
    """The keys of a section; each is taken once, and what is left at the end is a fault."""

    def __init__(self, words: dict[str, list[str]]) -> None:
        self._words = words

    def lines(self, key: str) -> tuple[str, ...]:
        return tuple(self._words.pop(key, ()))

    def text(self, key: str) -> str | None:
        values = self.lines(key)
        if len(values) > 1:
            raise ValueError(f"{key} twice")
        return values[0] if values else None

    def number(self, key: str, base: int = 10) -> int | None:
        text = self.text(key)
        return None if text is None else int(text, base)

    def items(self, key: str) -> list[str]:
        text = self.text(key)
        return [] if text is None else text.split(", ")

    def key(self, name: str) -> PublicKey | None:
        text = self.text(name)
        return None if text is None else PublicKey.parse(text)

    def end(self) -> None:
        if self._words:
            raise ValueError(f"unknown key {sorted(self._words)[0]}")


def _read_interface(words: _Words, peers: tuple[PublicPeer, ...]) -> PublicConf:
    table = words.text("Table") or "auto"
    conf = PublicConf(
        name=words.text("Name"),
        public_key=words.key("PublicKey"),
        next_public_key=words.key("NextPublicKey"),
        addresses=ip.sort_ifaces(map(ip.parse_iface, words.items("Address"))),
        listen_port=words.number("ListenPort") or 0,
        fwmark=words.number("FwMark", 16) or 0,
        mtu=words.number("MTU"),
        table="auto" if table == "auto" else "off" if table == "off" else int(table),
        namespace=words.text("Namespace"),
        relay=words.text("Relay") == "on",
        forward=ip.sort_nets(map(_network, words.items("Forward"))),
        exit=words.text("Exit") == "on",
        hosts=tuple(sorted(words.lines("Host"))),
        kill_switch=words.text("KillSwitch") == "on",
        kill_switch_allow=tuple(sorted(int(item.removeprefix("tcp/")) for item in words.items("KillSwitchAllow"))),
        route_users=users.in_order(words.items("RouteUsers")),
        routes=ip.sort_nets(map(_network, words.items("Routes"))),
        peers=tuple(sorted(peers, key=lambda p: p.public_key)),
    )
    words.end()
    return conf


def _network(text: str) -> ip.Net:
    return ip.parse_iface(text).network


def _read_peer(words: _Words) -> PublicPeer:
    public_key = words.key("PublicKey")
    if public_key is None:
        raise ValueError("a peer without PublicKey")
    peer = PublicPeer(
        public_key=public_key,
        name=words.text("Name"),
        next_public_key=words.key("NextPublicKey"),
        preshared_key=words.text("PresharedKey"),
        next_preshared_key=words.text("NextPresharedKey"),
        allowed_ips=ip.sort_nets(map(_network, words.items("AllowedIPs"))),
        endpoint=words.text("Endpoint"),
        keepalive_s=words.number("PersistentKeepalive") or 0,
        expires=words.text("Expires"),
    )
    words.end()
    return peer
