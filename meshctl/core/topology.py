"""Topology: which hosts are linked, and through whom the others reach one another. Names only; no addresses, no keys.

A link is a pair of hosts that are each other's peers. With hubs, every host is linked with each hub; what isn't linked
goes through the first one. The other hubs are reached at their own addresses only, so that no two peers of a host
claim the same destination.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshctl.core import names
from meshctl.core.spec import Full, Hub, Pair, Spec, pair


@dataclass(frozen=True, slots=True)
class Topology:
    """`via` is the hub for pairs without a link of their own, or None; `relays` are the hubs."""

    links: frozenset[Pair]
    via: str | None = None
    relays: frozenset[str] = frozenset()


def topology(spec: Spec) -> Topology:
    everybody = sorted(spec.hosts)
    match spec.links:
        case Full():
            return Topology(frozenset(pair(a, b) for a in everybody for b in everybody if a < b))
        case Hub(hubs):
            links = frozenset(pair(hub, other) for hub in hubs for other in everybody if other != hub)
            return Topology(links, hubs[0], frozenset(hubs))
        case lines:
            groups = spec.groups()

            def members(side: str) -> frozenset[str]:
                if side == names.ANY:
                    return frozenset(everybody)
                return groups.get(side, frozenset({side}))

            return Topology(
                frozenset(pair(a, b) for x, y in lines.lines for a in members(x) for b in members(y) if a != b)
            )
