"""Status: how every link of the mesh is, judged from what both of its ends say.

A link is alive when an end had an answer through it and the other doesn't say otherwise; down when an end got none;
new when it has never shaken hands and nobody has probed it yet; unknown when neither end could be asked. The newest
handshake and the shortest round trip of the two ends count: both measure the same link. A link that is alive by its
handshake alone has a reason all the same: that no ping was answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from meshctl.core.errors import HostError
from meshctl.core.mesh import Finding, Mesh
from meshctl.core.report import PeerVitals, Report, Vitals
from meshctl.core.spec import Pair

SCHEMA = 1


class State(StrEnum):
    ALIVE = "alive"
    NEW = "new"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """`handshake_s` is the age of the last handshake in seconds, `rtt_ms` a round trip in milliseconds, None not
    known.
    """

    a: str
    b: str
    state: State
    handshake_s: float | None = None
    rtt_ms: float | None = None
    loss: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host; `error` says why it could not be asked, `reason` what is wrong with one that was. `state` is None when
    nobody asked. `notes` are what its daemon wants known.
    """

    host: str
    version: str | None = None
    state: str | None = None
    mtu: int | None = None
    uptime_s: float | None = None
    notes: tuple[str, ...] = ()
    owner: str | None = None
    note: str | None = None
    error: HostError | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    mesh: str
    hosts: tuple[HostStatus, ...]
    links: tuple[LinkStatus, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def healthy(self) -> bool:
        """Every host that was asked answered, its meshd has its interface up, and every link is alive."""
        well = all(h.error is None and h.reason is None for h in self.hosts)
        return well and all(link.state is State.ALIVE for link in self.links)


def judge(mesh: Mesh, vitals: Mapping[str, Vitals | HostError]) -> Status:
    """The status of each host and link. A host that isn't in `vitals` wasn't asked."""
    hosts = tuple(_host(mesh, name, vitals.get(name)) for name in sorted(mesh.hosts))
    links = tuple(_link(mesh, link, vitals) for link in mesh.links)
    return Status(mesh.name, hosts, links, mesh.findings)


def asked(judged: Status, hosts: Collection[str]) -> Status:
    """What there is to say of these hosts alone: nobody asked the others, and that is no fault of theirs."""
    links = tuple(link for link in judged.links if link.a in hosts or link.b in hosts)
    return replace(judged, hosts=tuple(h for h in judged.hosts if h.host in hosts), links=links)


def _host(mesh: Mesh, name: str, said: Vitals | HostError | None) -> HostStatus:
    host = mesh.hosts[name]
    if said is None or isinstance(said, HostError):
        return HostStatus(name, owner=host.owner, note=host.note, error=said)
    return HostStatus(
        name,
        said.version,
        said.state,
        said.mtu,
        said.uptime_s,
        said.notes,
        owner=host.owner,
        note=host.note,
        reason=trouble(said),
    )


def trouble(said: Vitals) -> str | None:
    """What is wrong with a host whose meshd says this of itself (contracts §5), links aside; None when nothing is."""
    if said.state == "running":
        return f"its interface {said.name} is down" if said.link_up is False else None
    words = {"down": "meshd isn't running there", "absent": f"meshd runs there without its interface {said.name}"}
    return words.get(said.state, f"meshd says there that it is {said.state}")


def unasked(seen: Report) -> str:
    """Why the meshd of this host can't be asked how it is: its program isn't there."""
    if seen.manifest is None:
        return "meshd is not installed there"
    if seen.link == "ours":  # nobody restarts it either: it would not come back
        return "meshd runs there, but its program was deleted: it can't be asked, and won't start again"
    return "meshd isn't running there: its program was deleted"


def _link(mesh: Mesh, link: Pair, vitals: Mapping[str, Vitals | HostError]) -> LinkStatus:
    a, b = link
    seen = (_seen(mesh, a, b, vitals), _seen(mesh, b, a, vitals))
    ends = [end for end in seen if isinstance(end, PeerVitals)]
    reasons = [end for end in seen if isinstance(end, str)]
    if not ends:
        return LinkStatus(a, b, State.DOWN if reasons else State.UNKNOWN, reason=next(iter(reasons), None))
    state = _state(ends) if not reasons else State.DOWN
    told = [
        f"{n}: {end.reason}" for n, end in zip(link, seen, strict=True) if isinstance(end, PeerVitals) and end.reason
    ]
    if state is State.ALIVE:
        told = list(_unanswered(link, seen))
    # one end counts the bytes of both directions; the first that answered is as good as the other
    return LinkStatus(
        a,
        b,
        state,
        handshake_s=_least(end.latest_handshake_s for end in ends),
        rtt_ms=_least(end.rtt_ms for end in ends),
        loss=max((end.loss for end in ends if end.loss is not None), default=None),
        rx_bytes=ends[0].rx_bytes,
        tx_bytes=ends[0].tx_bytes,
        reason="; ".join([*reasons, *told]) or None,
    )


def _unanswered(link: Pair, seen: tuple[PeerVitals | str | None, ...]) -> Iterator[str]:
    """What is to be known of a link that is alive although it lost every ping of an end.

    A firewall that drops pings and a tunnel that carries handshakes alone look the same from here, and a handshake is
    enough to be alive (contracts §5): this is said beside the state, and isn't counted as trouble.
    """
    silent = [
        peer
        for peer, end in zip(reversed(link), seen, strict=True)
        if isinstance(end, PeerVitals) and end.loss == 1.0 and end.rtt_ms is None
    ]
    if silent:
        yield f"{' and '.join(sorted(silent))} answered no ping through the tunnel: check the firewall there"


def _seen(mesh: Mesh, name: str, peer: str, vitals: Mapping[str, Vitals | HostError]) -> PeerVitals | str | None:
    """What `name` says of its link with `peer`; a reason when the link isn't there; None when nobody could be asked."""
    said = vitals.get(name)
    if not isinstance(said, Vitals):
        return None
    if (wrong := trouble(said)) is not None:
        return f"{name}: {wrong}"
    key = str(mesh.hosts[peer].public_key)
    return next(
        (p for p in said.peers if key in (p.public_key, p.next_public_key)),
        f"{name} doesn't know {peer}: run meshctl apply",
    )


def _state(ends: list[PeerVitals]) -> State:
    probes = [end.alive for end in ends]
    if False in probes:
        return State.DOWN
    if True in probes:
        return State.ALIVE
    return State.NEW if all(end.latest_handshake_s is None for end in ends) else State.UNKNOWN


def _least(values: Iterable[float | None]) -> float | None:
    return min((v for v in values if v is not None), default=None)


def to_json(status: Status) -> dict[str, Any]:
    """What `meshctl status --json` prints."""
    return {
        "schema": SCHEMA,
        "mesh": status.mesh,
        "healthy": status.healthy,
        "hosts": [
            {
                "host": h.host,
                "version": h.version,
                "state": h.state,
                "mtu": h.mtu,
                "uptime_s": h.uptime_s,
                "notes": list(h.notes),
                "owner": h.owner,
                "note": h.note,
                "error": {"code": h.error.code, "what": h.error.what, "hint": h.error.hint} if h.error else None,
                "reason": h.reason,
            }
            for h in status.hosts
        ],
        "links": [
            {
                "a": link.a,
                "b": link.b,
                "state": str(link.state),
                "handshake_s": link.handshake_s,
                "rtt_ms": link.rtt_ms,
                "loss": link.loss,
                "rx_bytes": link.rx_bytes,
                "tx_bytes": link.tx_bytes,
                "reason": link.reason,
            }
            for link in status.links
        ],
        "findings": [{"code": f.code, "hosts": list(f.hosts), "what": f.what, "hint": f.hint} for f in status.findings],
    }
