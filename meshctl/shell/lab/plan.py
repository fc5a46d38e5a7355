"""The simulated internet as a plan: who has which address, and the text that `ip` and `nft` are given. Pure.

Every host, NAT box and the controller hangs on one router, `internet`, by a line of its own (a veth pair), as cloud
servers do: an address of its own without neighbours (/32, /128) and a default route to the router. A NAT box is a
router again: the same lines on its inside, masquerade on its outside, and one forwarded TCP port a host, open for the
controller alone, which is how a host behind it is reached by SSH. So no packet takes a way that it couldn't take in
the world.

Addresses: of the documentation networks (RFC 5737, RFC 3849), then of the benchmark network (RFC 2544). A host whose
SSH name or endpoint is an address has that very address. Behind NAT boxes: 172.29.BOX.HOST, no IPv6, as behind most
of them.

Not simulated: a second way to a host, IPv6 NAT and firewalls, a box that maps ports on request (UPnP, PCP).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain

from meshctl.shell.lab.wish import LabHost, Wish

INTERNET = "internet"
CONTROLLER = "controller"
SSH = 22

_CONTROLLER4, _CONTROLLER6 = "192.0.2.1", "2001:db8:ffff::1"
_GATEWAY4, _GATEWAY6 = "192.0.2.254", "fe80::1"  # the internet's router, on every line
_POOL4 = ("203.0.113.0/24", "198.51.100.0/24", "198.18.0.0/15")
_POOL6 = "2001:db8::/64"
_FORWARDED_FROM = 2200  # first TCP port of a NAT box that leads to an SSH server
_HEAD = "table inet lab {\n"


@dataclass(frozen=True, slots=True)
class Line:
    """A veth pair: `device` at `node` with these addresses, `port` at the router `upstream`."""

    node: str
    device: str
    upstream: str
    port: str
    address4: tuple[str, ...]
    address6: tuple[str, ...] = ()
    gateway4: str = _GATEWAY4

    def upstream_commands(self, node_netns: str) -> str:
        """For `ip -batch` in the router's namespace. `node_netns` is the path of the node's."""
        lines = [
            f"link add {self.port} type veth peer name {self.device} netns {node_netns}",
            f"link set {self.port} up alias {self.node}",
            f"addr add {_GATEWAY6}/64 dev {self.port} nodad",
            *(f"route add {a}/32 dev {self.port}" for a in self.address4),
            *(f"route add {a}/128 dev {self.port}" for a in self.address6),
        ]
        return _batch(lines)

    def node_commands(self) -> str:
        """For `ip -batch` in the node's namespace."""
        lines = [
            "link set lo up",
            f"link set {self.device} up",
            *(f"addr add {a}/32 dev {self.device}" for a in self.address4),
            f"route add {self.gateway4} dev {self.device} scope link",
            f"route add default via {self.gateway4} dev {self.device} src {self.address4[0]}",
            *(f"addr add {a}/128 dev {self.device} nodad" for a in self.address6),
        ]
        if self.address6:
            lines.append(f"route add ::/0 via {_GATEWAY6} dev {self.device} src {self.address6[0]}")
        return _batch(lines)


@dataclass(frozen=True, slots=True)
class Lan:
    """A site network behind a host: the host's `device` with the first address, one machine with the second."""

    node: str  # the machine
    host: str
    device: str
    network: str

    def commands(self, host_netns: str) -> tuple[str, str]:
        """For `ip -batch` in the machine's namespace, then in the host's."""
        network = ip_network(self.network)
        first, second = network[1], network[2]
        dad = " nodad" if network.version == 6 else ""
        machine = [
            f"link add eth0 type veth peer name {self.device} netns {host_netns}",
            "link set eth0 up",
            f"addr add {second}/{network.prefixlen} dev eth0{dad}",
        ]
        host = [f"addr add {first}/{network.prefixlen} dev {self.device}{dad}", f"link set {self.device} up"]
        # The far end has to be up before a route through it holds.
        return _batch(machine), _batch(host)

    def default_route(self) -> str:
        network = ip_network(self.network)
        return f"route add {'::/0' if network.version == 6 else 'default'} via {network[1]} dev eth0\n"


@dataclass(frozen=True, slots=True)
class Box:
    """A NAT box, and the hosts behind it with their SSH port on its outside."""

    name: str
    gateway4: str  # on its inside
    forwards: tuple[tuple[int, str], ...]
    symmetric: bool
    loss: str  # rules

    def ruleset(self) -> str:
        """For `nft -f`. Linux's masquerade keeps the port where it can; filtering is by address and port."""
        forwards = "".join(
            f"    ip saddr {_CONTROLLER4} tcp dport {p} dnat ip to {a}:{SSH}\n" for p, a in self.forwards
        )
        how = "masquerade fully-random" if self.symmetric else "masquerade"
        return (
            f"{_HEAD}"
            "  chain in { type nat hook prerouting priority dstnat;\n"
            f"    iifname != wan return\n{forwards}  }}\n"
            "  chain out { type nat hook postrouting priority srcnat;\n"
            f"    oifname wan {how}\n  }}\n"
            "  chain through { type filter hook forward priority filter;\n"
            f"{self.loss}    ct state established,related accept\n"
            "    ct status dnat accept\n"
            "    iifname wan counter drop\n  }\n}\n"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a host is found: `address:port` as the world sees it."""

    address: str
    address6: str | None
    port: int = SSH
    box: str | None = None
    site_address: str = ""  # as its site sees it: the same but for hosts behind a box


@dataclass(frozen=True, slots=True)
class Plan:
    """Lines are in an order in which each router is there before what hangs on it."""

    places: dict[str, Place]
    lines: tuple[Line, ...]
    boxes: tuple[Box, ...]
    lans: tuple[Lan, ...]
    hosts_file: str
    ruleset: str  # of the internet

    def gateways(self) -> dict[str, str]:
        """Each router and its own address."""
        return {INTERNET: _GATEWAY4, **{box.name: box.gateway4 for box in self.boxes}}

    def rulesets(self) -> dict[str, str]:
        """What each router is given as `nft -f`."""
        return {INTERNET: self.ruleset, **{box.name: box.ruleset() for box in self.boxes}}


@dataclass
class _Allotment:
    """Hands out addresses that nobody has."""

    taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._free4 = chain.from_iterable(IPv4Network(network).hosts() for network in _POOL4)
        self._free6 = iter(IPv6Network(_POOL6).hosts())
        self.taken |= {_CONTROLLER4, _GATEWAY4, _CONTROLLER6}

    def next4(self) -> str:
        return self._first(self._free4)

    def next6(self) -> str:
        return self._first(self._free6)

    def _first(self, free: Iterator[IPv4Address] | Iterator[IPv6Address]) -> str:
        address = next(a for a in map(str, free) if a not in self.taken)
        self.taken.add(address)
        return address

    def claim(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The addresses among `names` that can be had: the IPv4 ones, the IPv6 ones."""
        mine: tuple[list[str], list[str]] = ([], [])
        for address in filter(None, map(_address, names)):
            text = str(address)
            if text not in self.taken:
                self.taken.add(text)
                mine[address.version == 6].append(text)
        return tuple(mine[0]), tuple(mine[1])


def plan(wish: Wish) -> Plan:
    """The same wish gives the same plan."""
    allotment = _Allotment()
    boxes = {host.behind: f"nat-{host.behind}" for host in wish.hosts if host.behind is not None}
    # Addresses that the file gives come first, so that no other host is allotted one of them.
    claims = {host.name: allotment.claim(host.names) for host in wish.hosts}
    site_claims = {host.name: allotment.claim(host.site_names) for host in wish.hosts}

    lines = [Line(CONTROLLER, "eth0", INTERNET, "controller", (_CONTROLLER4,), (_CONTROLLER6,))]
    places: dict[str, Place] = {}
    made_boxes: list[Box] = []
    for index, (site, box) in enumerate(boxes.items(), start=1):
        members = [host for host in wish.hosts if host.behind == site]
        outside = tuple(a for host in members for a in claims[host.name][0]) or (allotment.next4(),)
        lines.append(Line(box, "wan", INTERNET, f"b{index}", outside))
        forwards, gateway = [], f"172.29.{index}.254"
        for number, host in enumerate(members, start=1):
            port, inside = _FORWARDED_FROM + number, site_claims[host.name][0] or (f"172.29.{index}.{number}",)
            forwards.append((port, inside[0]))
            places[host.name] = Place(outside[0], None, port, box, inside[0])
            lines.append(Line(host.name, "eth0", box, f"h{number}", inside, gateway4=gateway))
        loss = _loss(box, wish, lines)
        made_boxes.append(Box(box, gateway, tuple(forwards), wish.options.symmetric_nat, loss))

    for number, host in enumerate((h for h in wish.hosts if h.behind is None), start=1):
        four, six = claims[host.name]
        four, six = four or (allotment.next4(),), six or (allotment.next6(),)
        places[host.name] = Place(four[0], six[0], site_address=four[0])
        four, six = four + site_claims[host.name][0], six + site_claims[host.name][1]
        lines.append(Line(host.name, "eth0", INTERNET, f"h{number}", four, six))

    return Plan(
        places={host.name: places[host.name] for host in wish.hosts},
        lines=tuple(lines),
        boxes=tuple(made_boxes),
        lans=tuple(
            Lan(f"{host.name}-lan{i}", host.name, f"lan{i}", network)
            for host in wish.hosts
            for i, network in enumerate(host.lan)
            if ip_network(network).num_addresses >= 4
        ),
        hosts_file=_hosts_file(wish.hosts, places),
        ruleset=_ruleset(_loss(INTERNET, wish, lines)),
    )


def _hosts_file(hosts: tuple[LabHost, ...], places: dict[str, Place]) -> str:
    """What DNS would say, as lines of a hosts file. Each host adds its own name."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    for host in hosts:
        place, names = places[host.name], _dns_names(host.names)
        if names:
            lines += [f"{address}\t{' '.join(names)}" for address in (place.address, place.address6) if address]
        if site_names := [name for name in _dns_names(host.site_names) if name not in names]:
            lines.append(f"{place.site_address}\t{' '.join(site_names)}")
    return "\n".join(lines) + "\n"


def _dns_names(names: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(name for name in names if _literal(name) is None and name != "localhost"))


def _loss(router: str, wish: Wish, lines: list[Line]) -> str:
    """Rules for the router's `forward` hook: a share of what it forwards at all, and of what uses one host's line.

    A batch that the sender's kernel left unsegmented counts as one packet: it's lost as a whole or not at all.
    """
    rules = [_drop("", wish.options.loss)] if wish.options.loss and router == INTERNET else []
    share = {host.name: host.loss for host in wish.hosts if host.loss}
    for line in (line for line in lines if line.upstream == router and line.node in share):
        rules += [_drop(f"{way} {line.port} ", share[line.node]) for way in ("iifname", "oifname")]
    return "".join(f"    {rule}\n" for rule in rules)


def _ruleset(forward_rules: str) -> str:
    return f"{_HEAD}  chain through {{ type filter hook forward priority filter;\n{forward_rules}  }}\n}}\n"


def _drop(match: str, share: float) -> str:
    return f"{match}numgen random mod 1000000 < {round(share * 1_000_000)} counter drop"


def _literal(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """`name` where it's an address that a machine on the internet can have."""
    address = _literal(name)
    if (
        address is None
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    ):
        return None
    return address


def _batch(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
