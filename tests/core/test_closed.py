"""Closed: which hosts would be shut to whoever mends them, as far as mesh.yaml and the way there tell."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from meshctl.core import closed
from meshctl.core.mesh import Place

from .made import world

TEXT = "mesh: m\nhosts:\n  x: {ssh: r@x, exit: true}\n"


def told(line: str, place: Place | None = None, more: str = "") -> tuple[list[str], list[str]]:
    """The codes of problems and findings of a host `h` that is written like this."""
    mesh = world(f"{more}{TEXT}  h: {{{line}}}\n").mesh
    places = {"h": place} if place is not None else {}
    return [p.code for p in closed.problems(mesh, places)], [f.code for f in closed.findings(mesh, places)]


REFUSED, ASKED, WELL = (["locked-out"], []), ([], ["locked-out"]), ([], [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ssh: r@198.51.100.7, route: all", REFUSED),
        ("ssh: r@198.51.100.7, kill_switch: true", REFUSED),
        ('ssh: "r@[2001:db8::7]:2222", kill_switch: true', REFUSED),
        ("ssh: r@h.example.com, route: all", ASKED),
        ("ssh: r@h.example.com, kill_switch: true", ASKED),
        # a forwarded port may be another one there, so that any is taken for the right one
        ("ssh: r@198.51.100.7, kill_switch: {allow: tcp/22}", WELL),
        ('ssh: "r@198.51.100.7:2222", kill_switch: {allow: tcp/22}', WELL),
        ("ssh: r@h.example.com, kill_switch: {allow: tcp/22}", WELL),
        ("ssh: r@192.168.7.7, kill_switch: true", WELL),
        ("ssh: r@127.0.0.1, kill_switch: true", WELL),
        ('ssh: "r@fd00::7", kill_switch: true', WELL),
        # whose the SSH server is only the host knows
        ("ssh: r@198.51.100.7, route: {users: bob}", WELL),
        ("ssh: r@198.51.100.7", WELL),
    ],
)
def test_what_an_address_tells(line: str, expected: tuple[list[str], list[str]]) -> None:
    assert told(line) == expected


def test_the_way_there_counts_not_the_alias() -> None:
    assert told("ssh: r@alias, route: all", Place("198.51.100.7")) == REFUSED
    assert told("ssh: r@alias, route: all", Place("10.1.2.3")) == WELL


def test_behind_a_jump_host_the_client_is_the_jump_host() -> None:
    line = "ssh: r@198.51.100.7, route: all, endpoint: h.example.com"
    assert told(line, Place("198.51.100.7", direct=False)) == ASKED


def test_of_a_mesh_of_one_ip_version_a_way_out_closes_that_one() -> None:
    v4 = "network: 10.7.0.0/24\n"
    assert told("ssh: r@198.51.100.7, route: all", more=v4) == REFUSED
    assert told('ssh: "r@2001:db8::7", route: all', more=v4) == WELL
    assert told('ssh: "r@2001:db8::7", route: all, kill_switch: true', more=v4) == REFUSED


def test_a_host_that_is_managed_over_the_mesh_is_answered_by_it() -> None:
    assert told("ssh: r@100.64.0.9, route: all", more="network: 100.64.0.0/24\n") == WELL
    assert told("ssh: r@100.64.1.9, route: all", more="network: 100.64.0.0/24\n") == REFUSED


def test_the_problem_names_the_host_and_the_word_of_the_file() -> None:
    (problem,) = closed.problems(world(f"{TEXT}  h: {{ssh: r@198.51.100.7, route: all}}\n").mesh, {})
    assert problem.where is not None
    assert (str(problem.where), problem.hint) == ("mesh.yaml:4:28", "write kill_switch: {allow: [tcp/22]} for h")
    assert problem.what.startswith("route: all would lock you out of h: ")
    text = TEXT.replace("hosts:", "defaults: {kill_switch: true}\nhosts:").replace("exit: true", "kill_switch: false")
    (problem,) = closed.problems(world(text + "  h: r@198.51.100.7\n").mesh, {})
    assert str(problem.where) == "mesh.yaml:2:12"


def test_a_client_of_the_mesh_or_of_its_sites_is_answered_by_the_mesh() -> None:
    mesh = world(
        "mesh: m\nnetwork: [100.64.0.0/24]\nhosts:\n  s: {ssh: r@s, lan: 203.0.113.0/24}\n"
        "  h: {ssh: r@h, kill_switch: true}\n"
    ).mesh
    host, (peer, *_) = mesh.hosts["h"], mesh.hosts["s"].addresses
    for client in (str(peer), "203.0.113.9", "127.0.0.1", "10.9.9.9", "fe80::1"):
        assert closed.refused(mesh, host, (ip_address(client), 22)) is None, client
    assert closed.refused(mesh, host, None) is None
    assert closed.refused(mesh, host, (ip_address("100.64.0.99"), 22)) is not None
