"""Views that take a fault to be seen: what they say of it, line by line."""

from __future__ import annotations

from meshctl import views
from meshctl.core.errors import HostError
from meshctl.core.plan import Action, HostPlan, Plan
from meshctl.core.status import HostStatus, LinkStatus, State, Status


def _text(status: Status, *, lab: bool) -> list[str]:
    return ["".join(text for _, text in line) for line in views.status(status, lab=lab)]


def test_the_hint_of_a_stopped_daemon_is_about_the_hosts_that_were_asked() -> None:
    stopped = Status("prod", (HostStatus("a", state="down", reason="meshd isn't running there"),), ())
    said = "! a  SSH answers, but meshd isn't running there"
    assert _text(stopped, lab=False) == [said, "  hint: meshctl apply"]
    assert _text(stopped, lab=True) == [said, "  hint: meshctl apply --lab"]


def test_a_mesh_without_links_has_a_sum_too() -> None:
    hosts = (HostStatus("a", state="running"), HostStatus("b", state="down", reason="meshd isn't running there"))
    for shown, said in ((hosts, "1 of 2 hosts up"), (hosts[:1], "1 of 1 host up"), (hosts[1:], "0 of 1 host up")):
        *_, last = views.health(Status("prod", shown, ()))
        assert "".join(text for _, text in last) == f"{said}; there is no link to probe"


def test_a_link_that_nobody_could_be_asked_about_is_not_said_never_to_have_been() -> None:
    links = (LinkStatus("a", "b", State.UNKNOWN), LinkStatus("a", "c", State.ALIVE, handshake_s=3.0, rtt_ms=0.5))
    assert _text(Status("prod", (), links), lab=False) == [
        "link       state    handshake  round trip",
        "a -- b  ~  unknown",
        "a -- c  =  alive    3 s ago    0.50 ms",
        "1 of 2 links alive",
    ]


def test_whom_to_ask_is_said_of_a_host_that_does_not_answer_too() -> None:
    silent = HostStatus("c", owner="Ada", note="the rack", error=HostError("c", "unreachable", "no way there", "try"))
    stopped = HostStatus("d", state="down", owner="Bob", reason="meshd isn't running there")
    assert _text(Status("prod", (silent, stopped), ()), lab=False) == [
        "! c  no way there",
        "  hint: try",
        "c: Ada  the rack",
        "! d  SSH answers, but meshd isn't running there",
        "  hint: meshctl apply",
        "d: Bob",
    ]


def test_what_the_file_says_of_a_host_is_no_result() -> None:
    known = Status(
        "prod",
        (
            HostStatus("a"),
            HostStatus("c", state="running", owner="Ada", note="the rack"),
        ),
        (),
    )
    assert _text(known, lab=False) == ["c: Ada  the rack"]


def test_a_removal_says_of_a_clean_host_that_it_is_clean() -> None:
    clean = Plan("prod", "0.1.0", (HostPlan("a", Action.NONE), HostPlan("b", Action.NONE)))
    said = ["".join(text for _, text in line) for line in views.plan(clean, removing=True)]
    assert said == [
        "= a  nothing of the mesh is there",
        "= b  nothing of the mesh is there",
        "Plan: nothing to do, nothing of the mesh is there",
    ]
