"""Reach: which pairs of hosts can talk, judged from configurations alone.

The same function reads what is desired and what the hosts report, so that a plan can say which pairs gain or lose
reach. A host that didn't answer is unknown: a link to it is taken to exist when the other end has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from meshctl.core import ip
from meshctl.core.canonical import PublicConf, PublicPeer
from meshctl.core.keys import PublicKey
from meshctl.core.spec import Pair


@dataclass(frozen=True, slots=True)
class Identity:
    """How others name a host in their configurations."""

    public_key: PublicKey
    addresses: tuple[ip.Addr, ...]


def pairs(confs: Mapping[str, PublicConf | None], known: Mapping[str, Identity]) -> frozenset[Pair]:
    """The pairs of `known` hosts that can talk. A host that isn't in `confs` is unknown; None there is absent."""
    views = {name: _View(conf) for name, conf in confs.items() if name in known}
    net = _Net(views, known)
    return frozenset((a, b) for a, b in combinations(sorted(known), 2) if net.talk(a, b))


class _View:
    """A configuration, indexed."""

    def __init__(self, conf: PublicConf | None) -> None:
        peers = conf.peers if conf is not None else ()
        self.relay = conf is not None and conf.relay
        # while keys are being changed a peer has two, and either is the host's
        self.peers: dict[PublicKey | None, PublicPeer] = {p.next_public_key: p for p in peers}
        self.peers |= {p.public_key: p for p in peers}
        self.carrier = {net: p for p in peers for net in p.allowed_ips}
        self.wide = sorted((n for n in self.carrier if n.prefixlen < n.max_prefixlen), key=lambda n: -n.prefixlen)

    def through(self, addr: ip.Addr) -> PublicPeer | None:
        """The peer that packets to this address go through: the longest prefix."""
        single = ip.single(addr)
        if single in self.carrier:
            return self.carrier[single]
        return next((self.carrier[n] for n in self.wide if ip.inside(single, n)), None)


class _Net:
    def __init__(self, views: Mapping[str, _View], known: Mapping[str, Identity]) -> None:
        self._views, self._known = views, known
        # hosts that may relay: unknown ones never count, or one silent host would seem to join everybody
        self._relays = [name for name, view in views.items() if view.relay]

    def talk(self, a: str, b: str) -> bool:
        if self._linked(a, b) and self._sends(a, b, b) and self._sends(b, a, a):
            return True
        return any(
            hub not in (a, b)
            and self._linked(a, hub)
            and self._linked(b, hub)
            and self._sends(a, hub, b)
            and self._sends(b, hub, a)
            for hub in self._relays
        )

    def _linked(self, a: str, b: str) -> bool:
        """Each end that is known lists the other, and one of them has an endpoint."""
        ends = [(self._views[x], self._known[y].public_key) for x, y in ((a, b), (b, a)) if x in self._views]
        if not ends or not all(key in view.peers for view, key in ends):
            return False
        return len(ends) < 2 or any(view.peers[key].endpoint is not None for view, key in ends)

    def _sends(self, a: str, through: str, to: str) -> bool:
        view = self._views.get(a)
        if view is None:
            return True
        carrier = view.peers.get(self._known[through].public_key)
        return carrier is not None and any(view.through(addr) is carrier for addr in self._known[to].addresses)
