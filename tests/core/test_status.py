"""Status: one verdict a link, from two ends that may disagree or be silent."""

from __future__ import annotations

from typing import Any

import pytest

from meshctl import views
from meshctl.core import status
from meshctl.core.errors import HostError
from meshctl.core.report import PeerVitals, Vitals
from meshctl.core.status import State

from .made import world

MESH = world("mesh: prod\nhosts: {a: {ssh: r@a, owner: Ada}, b: r@b}\n").mesh
SILENT = HostError("b", "unreachable", "no answer", "try ssh b")


def vitals(name: str, **peer: Any) -> Vitals:
    other = "b" if name == "a" else "a"
    seen = PeerVitals(other, str(MESH.hosts[other].public_key), **peer)
    return Vitals("prod", "0.1.0", "running", 1420, 5.0, peers=(seen,))


def link(a: Vitals | HostError | None, b: Vitals | HostError | None) -> status.LinkStatus:
    said = {n: v for n, v in (("a", a), ("b", b)) if v is not None}
    (found,) = status.judge(MESH, said).links
    return found


@pytest.mark.parametrize(
    ("a", "b", "state"),
    [
        (True, True, State.ALIVE),
        (True, None, State.ALIVE),
        (True, False, State.DOWN),
        (False, False, State.DOWN),
        (None, None, State.NEW),
    ],
)
def test_both_ends_are_heard(a: bool | None, b: bool | None, state: State) -> None:
    assert link(vitals("a", alive=a), vitals("b", alive=b)).state is state


def test_a_link_that_shook_hands_and_was_not_probed_is_unknown() -> None:
    assert link(vitals("a", latest_handshake_s=500.0), vitals("b")).state is State.UNKNOWN


def test_one_end_is_enough() -> None:
    found = link(vitals("a", alive=True, rtt_ms=2.0, latest_handshake_s=3.0), SILENT)
    assert (found.state, found.rtt_ms, found.handshake_s) == (State.ALIVE, 2.0, 3.0)


def test_without_an_end_nothing_is_known() -> None:
    assert link(SILENT, None).state is State.UNKNOWN
    assert link(None, None).state is State.UNKNOWN


def test_the_best_of_both_ends_is_told() -> None:
    found = link(
        vitals("a", alive=True, rtt_ms=2.0, latest_handshake_s=30.0, loss=0.0, rx_bytes=7),
        vitals("b", alive=True, rtt_ms=1.5, latest_handshake_s=29.0, loss=0.1, rx_bytes=9),
    )
    assert (found.rtt_ms, found.handshake_s, found.loss, found.rx_bytes) == (1.5, 29.0, 0.1, 7)
    assert found.reason is None


def test_reasons_name_who_gave_them() -> None:
    found = link(vitals("a", alive=False, reason="no answer from 192.0.2.1:51820"), vitals("b", alive=False))
    assert found.reason == "a: no answer from 192.0.2.1:51820"


def test_a_link_that_lost_every_ping_is_alive_and_says_so() -> None:
    lost, fine = {"alive": True, "loss": 1.0}, {"alive": True, "loss": 0.0, "rtt_ms": 2.0}
    found = link(vitals("a", **lost), vitals("b", **fine))
    assert (found.state, found.loss, found.rtt_ms) == (State.ALIVE, 1.0, 2.0)
    assert found.reason == "b answered no ping through the tunnel: check the firewall there"
    for both in (link(vitals("a", **lost), vitals("b", **lost)), link(vitals("a", **lost), SILENT)):
        assert (both.state, both.rtt_ms) == (State.ALIVE, None)
        assert both.reason is not None
    row = "".join(text for _, text in list(views.links(status.judge(MESH, {"a": vitals("a", **lost)})))[1])
    assert "=  alive" in row
    assert "100% lost  b answered no ping" in row


def test_a_ping_that_was_lost_is_no_reason() -> None:
    assert link(vitals("a", alive=True, loss=0.5, rtt_ms=2.0), SILENT).reason is None


def test_a_peer_that_is_not_there_is_down_with_a_hint() -> None:
    without = Vitals("prod", "0.1.0", "running")
    found = link(without, vitals("b", alive=None))
    assert found.state is State.DOWN
    assert found.reason == "a doesn't know b: run meshctl apply"


def test_a_stopped_daemon_is_down() -> None:
    assert link(Vitals("prod", "0.1.0", "down"), SILENT).state is State.DOWN


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("running", None),
        ("running, taken down", "its interface solo is down"),
        ("down", "meshd isn't running there"),
        ("absent", "meshd runs there without its interface solo"),
        ("odd", "meshd says there that it is odd"),
    ],
)
def test_a_host_alone_is_judged_by_what_its_meshd_says(state: str, words: str | None) -> None:
    alone = world("mesh: solo\nhosts: {a: r@a}\n").mesh
    state, _, taken_down = state.partition(", ")
    found = status.judge(alone, {"a": Vitals("solo", "0.1.0", state, link_up=not taken_down)})
    assert (found.healthy, found.hosts[0].reason) == (words is None, words)
    assert status.to_json(found)["hosts"][0]["reason"] == words


def test_who_was_not_asked_is_neither_well_nor_ill() -> None:
    three = world("mesh: prod\nhosts: {a: r@a, b: r@b, c: r@c}\n").mesh
    peers = tuple(PeerVitals(n, str(three.hosts[n].public_key), alive=True) for n in "bc")
    said = {"a": Vitals("prod", "0.1.0", "running", peers=peers)}
    whole = status.judge(three, said)
    part = status.asked(whole, said)
    assert (whole.healthy, part.healthy) == (False, True)
    assert ([h.host for h in part.hosts], [(x.a, x.b) for x in part.links]) == (["a"], [("a", "b"), ("a", "c")])


def test_health_needs_every_host_and_every_link() -> None:
    good = {"a": vitals("a", alive=True), "b": vitals("b", alive=True)}
    assert status.judge(MESH, good).healthy
    assert not status.judge(MESH, good | {"b": SILENT}).healthy
    assert not status.judge(MESH, good | {"b": vitals("b", alive=False)}).healthy


def test_the_json() -> None:
    told = status.to_json(status.judge(MESH, {"a": vitals("a", alive=True, rtt_ms=2.0), "b": SILENT}))
    assert told["links"][0]["state"] == "alive"
    assert told["hosts"][0]["owner"] == "Ada"
    assert told["hosts"][1]["error"] == {"code": "unreachable", "what": "no answer", "hint": "try ssh b"}
    assert told["healthy"] is False
