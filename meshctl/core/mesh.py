"""Mesh: the whole private network, resolved. Every host with its addresses, port and peers, as values.

resolve is deterministic and total: spec, lock, public keys and places in; Mesh and the next Lock out. It contacts
nobody, and who is a member never depends on who answered. What can't work (two hosts behind NAT with nothing between
them) is left out on both sides and said as a finding, so that no configuration holds a dead peer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from meshctl.core import ip, rotation
from meshctl.core.addresses import Allotment, allot, derive
from meshctl.core.errors import Invalid, Problem, Where
from meshctl.core.keys import PublicKey
from meshctl.core.lock import Lock, LockedHost
from meshctl.core.spec import HostSpec, KillSwitch, Pair, Route, Spec, SshAddress, pair
from meshctl.core.topology import Topology, topology

DEFAULT_PORT = 51820
KEEPALIVE_S = 25
"""Below the 30 s that is the shortest UDP mapping time in use (RFC 4787 REQ-5 asks for 120 s); wg(8) suggests 25 too.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """What ssh_config knows of a host: its HostName, whether it is reached directly (no ProxyJump, no ProxyCommand),
    and its SSH server's port.
    """

    endpoint_host: str | None = None
    direct: bool = True
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A link as one of its ends sees it. `endpoint` is None when only the other end can open it."""

    name: str
    public_key: PublicKey
    allowed_ips: tuple[ip.Net, ...]
    endpoint: ip.Endpoint | None
    keepalive_s: int = 0
    next_public_key: PublicKey | None = None


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    ssh: SshAddress
    public_key: PublicKey
    addresses: tuple[ip.Addr, ...]
    port: int
    peers: tuple[Peer, ...]
    mtu: int | None = None
    nat: bool = False
    relay: bool = False
    lan: tuple[ip.Net, ...] = ()
    groups: frozenset[str] = frozenset()
    owner: str | None = None
    note: str | None = None
    kill_switch: KillSwitch | None = None
    exit: bool = False
    route: Route | None = None
    next_public_key: PublicKey | None = None
    closed_at: Where | None = field(default=None, compare=False)  # a place in the file, and no part of the network


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that isn't wrong in the file and won't work all the same; apply goes on without it."""

    code: str
    hosts: tuple[str, ...]
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Mesh:
    """`links` are the pairs that are each other's peers; `reach` holds every pair that can talk: None directly, else
    the hub. `next_psk_epoch` is told beside `psk_epoch` while the pre-shared keys are being changed.
    """

    name: str
    networks: tuple[ip.Net, ...]
    hosts: Mapping[str, Host]
    links: tuple[Pair, ...]
    reach: Mapping[Pair, str | None]
    psk_epoch: int
    findings: tuple[Finding, ...] = ()
    next_psk_epoch: int | None = None

    def announced_to(self) -> frozenset[str]:
        """The hosts that are told a next key: their own, that of a peer, or a link's."""
        return frozenset(
            name
            for name, host in self.hosts.items()
            if host.next_public_key is not None
            or any(self.next_psk_epoch is not None or peer.next_public_key is not None for peer in host.peers)
        )

    def reached_by(self, name: str) -> tuple[str, ...]:
        """The other hosts that this one can talk with."""
        return tuple(sorted(n for n in self.hosts if n != name and pair(n, name) in self.reach))


def resolve(
    spec: Spec,
    lock: Lock | None,
    public_keys: Mapping[str, PublicKey],
    places: Mapping[str, Place],
    taken_ports: Mapping[str, frozenset[int]],
) -> tuple[Mesh, Lock]:
    """The mesh that `spec` describes, and the lock that keeps it so.

    `public_keys` holds a key for each host of spec; `places` what ssh_config says (a host that isn't in it is taken at
    its word); `taken_ports` the UDP ports that others use on a host, as far as known: a new host's port avoids them.
    Invalid when the lock belongs to another mesh, a network is full, or a host's endpoint can't be known.
    """
    before = lock or Lock(spec.mesh)
    _check_lock(spec, before, public_keys)
    allotted = _allot(spec, before)
    ports = {name: _port(host, before, taken_ports.get(name, frozenset())) for name, host in spec.hosts.items()}
    endpoints = _Endpoints(spec, places, ports)
    problems = [*_lan_problems(spec, allotted.networks), *endpoints.problems()]
    if problems:
        raise Invalid(problems)
    shape = topology(spec)
    live = tuple(sorted(link for link in shape.links if endpoints.open(*link)))
    if problems := _far_exits(spec, shape, live):
        raise Invalid(problems)
    reach = _reach(spec, shape, frozenset(live))
    linked = _linked(spec.hosts, live)
    following = before.next_public_keys()
    hosts = {
        name: Host(
            name=name,
            ssh=host.ssh,
            public_key=public_keys[name],
            addresses=allotted.addresses[name],
            port=ports[name],
            peers=_peers(
                host,
                spec=spec,
                linked=linked[name],
                reach=reach,
                allotted=allotted,
                endpoints=endpoints,
                public_keys=public_keys,
                following=following,
            ),
            mtu=host.mtu,
            nat=host.nat,
            relay=name in shape.hubs,
            lan=host.lan,
            groups=host.groups,
            owner=host.owner,
            note=host.note,
            kill_switch=host.kill_switch,
            exit=host.exit,
            route=host.route,
            next_public_key=following.get(name),
            closed_at=host.closed_at,
        )
        for name, host in sorted(spec.hosts.items())
    }
    findings = (*_no_paths(shape, live, reach), *_lans_of_ipv6(spec))
    coming = before.rotation.psk_epoch if before.rotation is not None else None
    mesh = Mesh(spec.mesh, allotted.networks, hosts, live, reach, before.psk_epoch, findings, coming)
    after = _next_lock(mesh, before, allotted)
    return replace(mesh, findings=(*findings, *changing(after))), after


def changing(lock: Lock) -> tuple[Finding, ...]:
    """A change of keys that is under way, as a finding."""
    said = rotation.said(lock)
    return () if said is None else (Finding("rotation", *said),)


def _check_lock(spec: Spec, lock: Lock, public_keys: Mapping[str, PublicKey]) -> None:
    if lock.mesh != spec.mesh:
        hint = f"write mesh: {lock.mesh}, or run meshctl remove with the old file before you rename it"
        raise Invalid([Problem(f"mesh.lock is of the mesh {lock.mesh}, not {spec.mesh}", spec.where, hint, "lock")])
    owner: dict[PublicKey, str] = {}
    problems = [
        Problem(f"{name} has the public key of {owner[key]}", spec.hosts[name].where, "restore mesh.keys", "keys")
        for name, key in sorted(public_keys.items())
        if name in spec.hosts and owner.setdefault(key, name) != name
    ]
    if problems:
        raise Invalid(problems)


def _allot(spec: Spec, lock: Lock) -> Allotment:
    """The networks are the user's, else those of the lock (so that no release can move a mesh), else derived."""
    networks = spec.networks or lock.networks or derive(spec.mesh)
    known = {name: host.addresses for name, host in (dict(lock.leaving) | dict(lock.hosts)).items()}
    before = Allotment(lock.networks, known, lock.next)
    reserved = [a for name, host in lock.leaving.items() if name not in spec.hosts for a in host.addresses]
    chosen = {name: host.addresses for name, host in spec.hosts.items()}
    return allot(networks, chosen, before, reserved, spec.where)


def _port(host: HostSpec, lock: Lock, taken: frozenset[int]) -> int:
    locked = lock.hosts.get(host.name) or lock.leaving.get(host.name)
    if host.port is not None:
        return host.port
    if locked is not None:
        return locked.port
    return next((p for p in range(DEFAULT_PORT, 65536) if p not in taken), DEFAULT_PORT)


def _lan_problems(spec: Spec, networks: tuple[ip.Net, ...]) -> list[Problem]:
    return [
        Problem(
            f"lan {lan} of {name} overlaps the mesh's own network {net}",
            host.where,
            "choose another network: for the mesh",
            "overlap",
        )
        for name, host in spec.hosts.items()
        for lan in host.lan
        for net in networks
        if not spec.networks and ip.overlap(lan, net)
    ]


class _Endpoints:
    """Where each host is reached from each other one."""

    def __init__(self, spec: Spec, places: Mapping[str, Place], ports: Mapping[str, int]) -> None:
        self._hosts, self._places, self._ports = spec.hosts, places, ports

    def same_place(self, a: str, b: str) -> bool:
        here, there = self._hosts[a].at, self._hosts[b].at
        return here is not None and there is not None and here.place == there.place

    def of(self, name: str, seen_from: str) -> ip.Endpoint | None:
        """The endpoint of `name`; None when it sits behind NAT, as seen from there."""
        host = self._hosts[name]
        if self.same_place(name, seen_from):
            private = (host.at.endpoint if host.at else None) or self._ssh_host(host)
            return ip.Endpoint.of(private, self._ports[name])
        if host.endpoint is not None:
            return ip.Endpoint.of(host.endpoint.host, host.endpoint.port or self._ports[name])
        return None if host.nat else ip.Endpoint.of(self._ssh_host(host), self._ports[name])

    def open(self, a: str, b: str) -> bool:
        """True when one of the two can open the link."""
        return self.of(a, b) is not None or self.of(b, a) is not None

    def keepalive_s(self, name: str, peer: str) -> int:
        """Behind NAT the way back closes when nothing is sent for a while; within one place there is no NAT."""
        needed = self._hosts[name].nat and not self.same_place(name, peer) and self.of(peer, name) is not None
        return KEEPALIVE_S if needed else 0

    def problems(self) -> list[Problem]:
        found = []
        for name, host in self._hosts.items():
            place = self._places.get(name, Place())
            if not place.direct and host.endpoint is None and not host.nat:
                what = f"{name} is reached through a jump host, so its endpoint isn't its SSH address"
                hint = f"add endpoint: to {name}, or nat: true when nobody can open a connection to it"
                found.append(Problem(what, host.where, hint, "endpoint"))
            for other, gateway in self._hosts.items():
                found += self._swallowed(host, gateway) if gateway.lan and name != other else []
        return found

    def _swallowed(self, host: HostSpec, gateway: HostSpec) -> list[Problem]:
        """An endpoint inside a lan that others route into the tunnel could never be reached: the tunnel would carry
        itself.
        """
        found = []
        for other in self._hosts:
            endpoint = self.of(host.name, other)
            if endpoint is None or other in (host.name, gateway.name) or self.same_place(other, gateway.name):
                continue
            try:
                addr = ip_address(endpoint.host)
            except ValueError:
                continue
            for lan in gateway.lan:
                if addr in lan:
                    what = f"the endpoint {addr} of {host.name} lies in lan {lan} of {gateway.name}"
                    hint = f"give {host.name} an endpoint: outside it, or the same at: as its neighbours"
                    problem = Problem(what, host.where, hint, "endpoint")
                    found += [problem] if problem not in found else []
        return found

    def _ssh_host(self, host: HostSpec) -> str:
        return self._places.get(host.name, Place()).endpoint_host or host.ssh.host


def _reach(spec: Spec, shape: Topology, live: Collection[Pair]) -> dict[Pair, str | None]:
    reach: dict[Pair, str | None] = dict.fromkeys(live)
    for hub in shape.hubs:
        spokes = [name for name in sorted(spec.hosts) if pair(name, hub) in live]
        for i, a in enumerate(spokes):
            for b in spokes[i + 1 :]:
                reach.setdefault((a, b), hub)
    return dict(sorted(reach.items()))


def _far_exits(spec: Spec, shape: Topology, live: Collection[Pair]) -> list[Problem]:
    """A hub can't stand in for the link to an exit: it would send its own traffic there too."""
    problems = []
    for name, host in sorted(spec.hosts.items()):
        if host.route is None or (link := pair(name, host.route.via)) in live:
            continue
        what = f"{name} can't leave by {host.route.via}: there is no direct link between the two"
        hint = f'add "{link[0]} -- {link[1]}" to links:, or choose a hub as the exit'
        if link in shape.links:
            hint = "both are behind NAT: give one of them endpoint:"
        problems.append(Problem(what, host.where, hint, "exit"))
    return problems


def _linked(hosts: Iterable[str], live: Iterable[Pair]) -> dict[str, list[str]]:
    """The other end of each link of each host."""
    found: dict[str, list[str]] = {name: [] for name in hosts}
    for a, b in live:
        found[a].append(b)
        found[b].append(a)
    return found


def _peers(
    host: HostSpec,
    *,
    spec: Spec,
    linked: Iterable[str],
    reach: Mapping[Pair, str | None],
    allotted: Allotment,
    endpoints: _Endpoints,
    public_keys: Mapping[str, PublicKey],
    following: Mapping[str, PublicKey],
) -> tuple[Peer, ...]:
    def networks(name: str) -> list[ip.Net]:
        own = [ip.single(a) for a in allotted.addresses[name]]
        # at the same place the lan is reached by its own wire, not through the mesh
        return own if endpoints.same_place(name, host.name) else own + list(spec.hosts[name].lan)

    behind: dict[str, list[ip.Net]] = {name: [] for name in linked}
    if host.route is not None:
        behind[host.route.via] += [ip.default(net.version) for net in allotted.networks]
    for name in spec.hosts:
        link = pair(name, host.name)
        if name != host.name and link in reach:
            behind[reach[link] or name] += networks(name)
    return tuple(
        Peer(
            name=name,
            public_key=public_keys[name],
            allowed_ips=ip.sort_nets(nets),
            endpoint=endpoints.of(name, host.name),
            keepalive_s=endpoints.keepalive_s(host.name, name),
            next_public_key=following.get(name),
        )
        for name, nets in sorted(behind.items())
    )


def _no_paths(shape: Topology, live: tuple[Pair, ...], reach: Mapping[Pair, str | None]) -> tuple[Finding, ...]:
    """A link that neither end can open and that no hub stands in for is no path."""
    return tuple(
        Finding(
            "no-path",
            (a, b),
            f"no path between {a} and {b}: both are behind NAT",
            "give one of them endpoint:, the same at: if they share a network, or write links: {hub: NAME}",
        )
        for a, b in sorted(shape.links - set(live))
        if (a, b) not in reach
    )


def _lans_of_ipv6(spec: Spec) -> tuple[Finding, ...]:
    """IPv6 has no switch for one link as IPv4 has: a host forwards for all links, and is a router to its neighbours
    then (Documentation/networking/ip-sysctl.rst, conf/all/forwarding). Whether to be one is its owner's decision.
    """
    return tuple(
        Finding(
            "lan-ipv6",
            (name,),
            f"lan {ip.net_text(net)} of {name}: meshd turns forwarding on for IPv4 only",
            f"if {name} is no IPv6 router yet: sysctl -w net.ipv6.conf.all.forwarding=1 there, "
            "and before it accept_ra=2 on the link where it learns its default route",
        )
        for name, host in sorted(spec.hosts.items())
        for net in host.lan
        if net.version == 6
    )


def _next_lock(mesh: Mesh, before: Lock, allotted: Allotment) -> Lock:
    hosts = {
        name: LockedHost(str(h.ssh), h.addresses, h.port, h.public_key, before.ssh_host_keys(name), h.next_public_key)
        for name, h in mesh.hosts.items()
    }
    known = dict(before.leaving) | dict(before.hosts)
    leaving = {name: h for name, h in sorted(known.items()) if name not in hosts}
    pins = {name: keys for name, keys in before.pins.items() if name not in hosts}
    under_way = rotation.members(before.rotation, before.hosts, hosts, mesh.announced_to())
    return replace(
        before,
        networks=mesh.networks,
        next=allotted.next,
        hosts=hosts,
        leaving=leaving,
        pins=pins,
        rotation=under_way,
    )
