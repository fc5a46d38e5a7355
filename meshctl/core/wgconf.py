"""WgConf: one interface in the language of contracts §1, as a value, and the text written into NAME.conf.

The language is wg-quick(8)'s INI dialect with keys of our own. wgread.py reads it back; canonical.py makes the public
form that plans compare. An absent interface is None and the empty text. Keys stay Secrets until `format`, whose text
is one too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from meshctl.core import ip
from meshctl.core.keys import PrivateKey, PublicKey, Secret, encode

Table = Literal["auto", "off"] | int


@dataclass(frozen=True, slots=True, order=True)
class HostLine:
    """One line of the marked block in the hosts file (hosts(5))."""

    address: ip.Addr
    names: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((ip.addr_text(self.address), *self.names))


@dataclass(frozen=True, slots=True)
class WgPeer:
    public_key: PublicKey
    name: str | None = None
    next_public_key: PublicKey | None = None
    preshared_key: Secret[bytes] | None = None
    next_preshared_key: Secret[bytes] | None = None
    allowed_ips: tuple[ip.Net, ...] = ()
    endpoint: ip.Endpoint | None = None
    keepalive_s: int = 0
    expires: str | None = None


@dataclass(frozen=True, slots=True)
class WgConf:
    """`private_key` is None when the file names another file that holds it (`private_key_file`)."""

    private_key: PrivateKey | None
    name: str | None = None
    private_key_file: str | None = None
    next_private_key: PrivateKey | None = None
    addresses: tuple[ip.Iface, ...] = ()
    listen_port: int = 0
    fwmark: int = 0
    mtu: int | None = None
    table: Table = "auto"
    namespace: str | None = None
    relay: bool = False
    forward: tuple[ip.Net, ...] = ()
    exit: bool = False
    hosts: tuple[HostLine, ...] = ()
    dns: tuple[str, ...] = ()
    kill_switch: bool = False
    kill_switch_allow: tuple[int, ...] = ()
    route_users: tuple[str, ...] = ()
    peers: tuple[WgPeer, ...] = ()


def format(conf: WgConf | None, header: str = "") -> Secret[str]:
    """The text of NAME.conf; `header` becomes comment lines above it. What has its default isn't written."""
    if conf is None:
        return Secret("")
    comment = [f"# {line}".rstrip() for line in header.splitlines()]
    sections = ["\n".join(["[Interface]", *_lines(_interface(conf))])]
    sections += ["\n".join(["[Peer]", *_lines(_peer(peer))]) for peer in conf.peers]
    return Secret("\n".join([*comment, "\n\n".join(sections)]) + "\n")


def _lines(words: Iterable[tuple[str, object]]) -> Iterator[str]:
    """`Key = value` for each word that has a value."""
    return (f"{key} = {value}" for key, value in words if value)


def _interface(conf: WgConf) -> Iterator[tuple[str, object]]:
    yield "Name", conf.name
    if conf.private_key is not None:
        yield "PrivateKey", encode(conf.private_key).reveal()
    yield "PrivateKeyFile", conf.private_key_file
    if conf.next_private_key is not None:
        yield "NextPrivateKey", encode(conf.next_private_key).reveal()
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
    yield "DNS", ", ".join(conf.dns)
    yield "KillSwitch", "on" if conf.kill_switch else None
    yield "KillSwitchAllow", services_text(conf.kill_switch_allow)
    yield "RouteUsers", ", ".join(conf.route_users)


def services_text(ports: Iterable[int]) -> str:
    """TCP services as the language writes them."""
    return ", ".join(f"tcp/{port}" for port in ports)


def _peer(peer: WgPeer) -> Iterator[tuple[str, object]]:
    yield "Name", peer.name
    yield "PublicKey", peer.public_key
    yield "NextPublicKey", peer.next_public_key
    if peer.preshared_key is not None:
        yield "PresharedKey", encode(peer.preshared_key).reveal()
    if peer.next_preshared_key is not None:
        yield "NextPresharedKey", encode(peer.next_preshared_key).reveal()
    yield "AllowedIPs", ", ".join(map(ip.net_text, peer.allowed_ips))
    yield "Endpoint", peer.endpoint
    yield "PersistentKeepalive", peer.keepalive_s
    yield "Expires", peer.expires
