"""Topology: which hosts are linked, and through whom the others reach one another. Names only; no addresses, no keys.

A link is a pair of hosts that are each other's peers. With hubs, every host is linked with each hub; what isn't linked
goes through the first hub that both have a link with. Each pair has one such hub, so no two peers of a host ever
claim the same destination.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshctl.core import names
from meshctl.core.spec import Full, Hub, Pair, Spec, pair


@dataclass(frozen=True, slots=True)
class Topology:
    """`hubs` carry what has no link of its own, the first one first."""

    links: frozenset[Pair]
    hubs: tuple[str, ...] = ()


def topology(spec: Spec) -> Topology:
    everybody = sorted(spec.hosts)
    match spec.links:
        case Full():
            return Topology(frozenset(pair(a, b) for a in everybody for b in everybody if a < b))
        case Hub(hubs):
            links = frozenset(pair(hub, other) for hub in hubs for other in everybody if other != hub)
            return Topology(links, hubs)
        case lines:
            groups = spec.groups()

            def members(side: str) -> frozenset[str]:
                if side == names.ANY:
                    return frozenset(everybody)
                return groups.get(side, frozenset({side}))

            return Topology(
                frozenset(pair(a, b) for x, y in lines.lines for a in members(x) for b in members(y) if a != b)
            )
