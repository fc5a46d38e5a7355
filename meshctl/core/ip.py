"""Addresses and networks: one order, one text form, and parsing that says what is wrong.

The order is that of contracts §2: IPv4 before IPv6, then by address, then by prefix length. The text is RFC 5952's;
Python's own differs from it (and from Rust's) for IPv4-mapped addresses, so it is made here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from meshctl.core import spelling

Addr = IPv4Address | IPv6Address
Net = IPv4Network | IPv6Network
Iface = IPv4Interface | IPv6Interface


# in a full mesh of n hosts each network is written and read about n² times; Python's ipaddress takes its time for each
_remembered = lru_cache(maxsize=1 << 16)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a peer's UDP socket is reached: a name or an address, and a port."""

    host: str
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> Endpoint:
        """With the host in its one form: RFC 5952 for an address, lower case and no final dot for a name."""
        return cls(_endpoint_host(host), port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@_remembered
def _endpoint_host(text: str) -> str:
    try:
        return addr_text(ip_address(text))
    except ValueError:
        return text.removesuffix(".").lower()


@_remembered
def addr_text(addr: Addr) -> str:
    """RFC 5952 text (section 5 for ::ffff:0:0/96)."""
    if isinstance(addr, IPv6Address) and addr.ipv4_mapped is not None:
        return f"::ffff:{addr.ipv4_mapped}"
    return str(addr)


@_remembered
def net_text(net: Net) -> str:
    return f"{addr_text(net.network_address)}/{net.prefixlen}"


def default(version: int) -> Net:
    """Everything there is, of one IP version."""
    return ip_network("0.0.0.0/0" if version == 4 else "::/0")


@_remembered
def iface_text(iface: Iface) -> str:
    return f"{addr_text(iface.ip)}/{iface.network.prefixlen}"


@_remembered
def net_key(net: Net) -> tuple[int, int, int]:
    return net.version, int(net.network_address), net.prefixlen


def iface_key(iface: Iface) -> tuple[int, int, int]:
    return iface.version, int(iface.ip), iface.network.prefixlen


def sort_nets(nets: Iterable[Net]) -> tuple[Net, ...]:
    """In the order of contracts §2, each network once."""
    return tuple(sorted(set(nets), key=net_key))


def sort_ifaces(ifaces: Iterable[Iface]) -> tuple[Iface, ...]:
    return tuple(sorted(set(ifaces), key=iface_key))


def inside(inner: Net, outer: Net) -> bool:
    """True when every address of `inner` is one of `outer`; networks of different versions never are."""
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and int(inner.network_address) >> (inner.max_prefixlen - outer.prefixlen)
        == int(outer.network_address) >> (outer.max_prefixlen - outer.prefixlen)
    )


def overlap(a: Net, b: Net) -> bool:
    return inside(a, b) or inside(b, a)


@_remembered
def single(addr: Addr) -> Net:
    """The network of this address alone: /32 or /128."""
    return ip_network(addr)


@_remembered
def parse_iface(text: str) -> Iface:
    """An address with its prefix length; without one it is the address alone. Netmasks and zones are refused.

    ValueError holds a sentence, and as its second argument a hint that can be typed; so do the other parsers here.
    """
    prefix = text.partition("/")[2]
    try:
        if "%" in text or ("/" in text and not (prefix.isascii() and prefix.isdigit())):
            raise ValueError
        return ip_interface(text)
    except ValueError:
        raise ValueError(
            f"{spelling.short(text)} is not an address", "write it as 10.20.0.1/32 or fd00:1::1/128"
        ) from None


def parse_net(text: str) -> Net:
    """A network; host bits that are set are a fault, since one of the two was meant otherwise."""
    try:
        iface = parse_iface(text)
    except ValueError:
        raise ValueError(
            f"{spelling.short(text)} is not a network", "write it as 192.168.20.0/24 or fd00:1::/64"
        ) from None
    if iface.ip != iface.network.network_address:
        raise ValueError(f"{text} has host bits set", f"did you mean {net_text(iface.network)}?")
    return iface.network


def parse_addr(text: str) -> Addr:
    """An address without prefix or zone."""
    try:
        addr = ip_address(text)
    except ValueError:
        raise ValueError(f"{spelling.short(text)} is not an IP address", "write it as 10.20.0.1 or fd00:1::1") from None
    if isinstance(addr, IPv6Address) and addr.scope_id is not None:
        raise ValueError(f"{text} has a zone", f"write {text.partition('%')[0]}")
    return addr
