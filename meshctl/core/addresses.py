"""Addresses: networks made of the mesh's name, and an allotment that moves nobody.

Strategy: each host gets a number, and its addresses are network + number. New hosts take the next number, in
alphabetical order; the lock keeps the addresses and the next number. So nothing depends on the order of the file,
adding or removing a host moves nobody, and a removed host's address isn't given to another one until the network is
used up (the numbers start again at the lowest free one then). Addresses the user chose are stepped over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from ipaddress import IPv4Network, IPv6Network, ip_network

from meshctl.core.errors import Invalid, Problem, Where
from meshctl.core.ip import Addr, Net, overlap, sort_nets

V4_PREFIX = 20
"""4094 hosts, and 4096 networks for meshes to miss one another in; a bigger mesh declares `network:`."""

# networks of 10/8 that hosts often have already: the derivation steps over them
_CROWDED = tuple(
    ip_network(n)
    for n in (
        "10.0.0.0/15",  # first private network of cloud providers' wizards; Canonical's microk8s pods are 10.1.0.0/16
        "10.8.0.0/20",  # OpenVPN's sample server.conf
        "10.42.0.0/15",  # k3s pods and services
        "10.88.0.0/16",  # podman's default network (containers-common, containers.conf)
        "10.96.0.0/12",  # kubeadm's services
        "10.244.0.0/16",  # flannel's pods
    )
)


@dataclass(frozen=True, slots=True)
class Allotment:
    """Who has which addresses (IPv4 first), and the number the next new host gets."""

    networks: tuple[Net, ...]
    addresses: Mapping[str, tuple[Addr, ...]]
    next: int


def derive(mesh: str) -> tuple[Net, ...]:
    """The IPv4 and the IPv6 network of a mesh of this name.

    IPv4 is a /20 of 10.0.0.0/8 (RFC 1918), IPv6 a /64 of a locally assigned fd00::/8 prefix (RFC 4193 section 3.2; the
    global ID is a hash of the name where the RFC suggests random bits, so that it needs no state).
    """
    attempt = 0
    while True:
        digest = blake2s(f"{mesh}\0{attempt}".encode(), key=b"meshctl network v1").digest()
        slot = int.from_bytes(digest[:2], "big") >> (16 - (V4_PREFIX - 8))
        v4 = IPv4Network(((10 << 24) | slot << (32 - V4_PREFIX), V4_PREFIX))
        if not any(overlap(v4, crowded) for crowded in _CROWDED):
            break
        attempt += 1
    v6 = IPv6Network((0xFD << 120 | int.from_bytes(digest[2:7], "big") << 80, 64))
    return v4, v6


def allot(
    networks: Sequence[Net],
    hosts: Mapping[str, Sequence[Addr]],
    before: Allotment | None,
    reserved: Iterable[Addr] = (),
    where: Where | None = None,
) -> Allotment:
    """Addresses for `hosts` (name → the addresses the user chose for it, mostly none).

    `before` is what the lock holds; `reserved` are the addresses of hosts on their way out. When a network changes,
    its hosts keep their number in the new one. Invalid (at `where`) when a network has no room left.
    """
    networks = sort_nets(networks)
    old = before or Allotment((), {}, 1)
    blocked = set(reserved) | {a for chosen in hosts.values() for a in chosen}
    given: dict[str, list[Addr]] = {name: [] for name in hosts}
    following = old.next
    homeless: dict[str, list[Net]] = {}
    for name in sorted(hosts):
        for net in networks:
            addr = _chosen(hosts[name], net) or _kept(old, name, net, blocked)
            if addr is None:
                homeless.setdefault(name, []).append(net)
            else:
                blocked.add(addr)
                given[name].append(addr)
    for name, nets in sorted(homeless.items()):
        free = _next_number(networks, following, blocked)
        if free is None:
            small = min(networks, key=lambda n: n.num_addresses)
            what = f"network {small} has no address left for {name}"
            raise Invalid([Problem(what, where, "declare a bigger network:", "network")])
        number, following = free, free + 1
        for net in nets:
            addr = net.network_address + number
            blocked.add(addr)
            given[name].append(addr)
    allotted = {name: tuple(sorted(a, key=lambda x: x.version)) for name, a in given.items()}
    return Allotment(networks, allotted, following)


def _chosen(chosen: Iterable[Addr], net: Net) -> Addr | None:
    return next((a for a in chosen if a.version == net.version), None)


def _kept(old: Allotment, name: str, net: Net, blocked: set[Addr]) -> Addr | None:
    """The host's address of before, moved along when its network did; None when it has none or it isn't free."""
    was = next((a for a in old.addresses.get(name, ()) if a.version == net.version), None)
    old_net = next((n for n in old.networks if n.version == net.version), None)
    if was is None or old_net is None or was not in old_net:
        return None
    number = int(was) - int(old_net.network_address)
    if not 1 <= number <= _last(net):
        return None
    addr = net.network_address + number
    return None if addr in blocked else addr


def _last(net: Net) -> int:
    """The highest number a host may have; IPv4's last address is the broadcast address."""
    return net.num_addresses - (2 if net.version == 4 else 1)


def _next_number(networks: Sequence[Net], start: int, blocked: set[Addr]) -> int | None:
    """A number whose addresses are free in every network, from `start` on; None when there is none."""
    last = min(_last(net) for net in networks)
    for number in _around(start, last, len(blocked) + 1):
        if not any(net.network_address + number in blocked for net in networks):
            return number
    return None


def _around(start: int, last: int, tries: int) -> Iterable[int]:
    """`start`, start + 1, …, and from 1 again after `last`: at most `tries` of them (one is free by then, or none)."""
    start = start if 1 <= start <= last else 1
    return ((start - 1 + i) % last + 1 for i in range(min(tries, last)))
