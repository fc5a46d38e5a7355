"""Reports: what a host says, read strictly, and harmless whatever it says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from meshctl.core import report
from meshctl.core.errors import HostError
from meshctl.core.report import Configured

from .made import THREE, observed, world

APPLIED = world(THREE).applied()["a"]
OUTPUT = observed(APPLIED)


def test_a_report_is_read() -> None:
    assert report.parse("a", OUTPUT) == APPLIED


def test_what_a_login_script_prints_is_skipped() -> None:
    assert report.parse("a", f"Welcome!\nuid 5\n{OUTPUT}bye\n") == APPLIED


def test_a_link_is_a_placed_file_too() -> None:
    digest = "ab" * 32
    seen = report.parse("a", OUTPUT.replace("service ", f"file {digest} link /usr/local/bin/meshd\nservice ", 1))
    assert seen.files[-1] == report.FileState("/usr/local/bin/meshd", "link", digest)


def test_a_path_may_hold_spaces() -> None:
    seen = report.parse("a", OUTPUT.replace("service ", "file missing - /etc/a b\nservice ", 1))
    assert seen.files[-1] == report.FileState("/etc/a b", "-", None)


def without(word: str) -> str:
    return "\n".join(line for line in OUTPUT.splitlines() if not line.startswith(word)) + "\n"


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("", "doesn't start with"),
        ("sh: not found\n", "doesn't start with"),
        (OUTPUT.replace("meshctl-observe 1", "meshctl-observe 2"), "doesn't start with"),
        (without("end"), "ends half-way"),
        (without("arch"), "arch is missing"),
        (without("report"), "report is missing"),
        (OUTPUT.replace("uid 0", "uid root"), "uid is not a number"),
        (OUTPUT.replace("tun yes", "tun maybe"), "tun is none of yes, no"),
        (OUTPUT.replace("init systemd", "init runit"), "init is none of"),
        (OUTPUT.replace("service active enabled", "service active"), "service has 1 words"),
        (OUTPUT.replace("uid 0", "uid 0\nuid 1"), "uid is said twice"),
        (OUTPUT.replace("ports ", "ports all"), "not a port"),
        (OUTPUT.replace("\nend\n", "\nssh 192.0.2.1\nend\n"), "not ADDRESS PORT"),
        (OUTPUT.replace("\nend\n", "\nssh a.example.com 22\nend\n"), "not ADDRESS PORT"),
        (OUTPUT.replace("0755 /usr", "/usr", 1), "not SHA256 MODE PATH"),
        (OUTPUT.replace('report {"schema":1', 'report {"schema":7'), "schema 7"),
        (OUTPUT.replace("report {", "report {{"), "not JSON"),
        (OUTPUT.replace('"state":"running"', '"state":"fine"'), "state is none of"),
        (OUTPUT.replace('"peers":[]', '"peers":[3]'), "not an object"),
        (OUTPUT.replace('"peers":[]', '"peers":' + "[" * 100_000), "not JSON"),
    ],
)
def test_anything_else_is_an_error_of_that_host(output: str, what: str) -> None:
    with pytest.raises(HostError) as caught:
        report.parse("a", output)
    assert (caught.value.host, caught.value.code, caught.value.exit) == ("a", "report", 4)
    assert what in caught.value.what


def test_a_configuration_of_another_age_is_no_error() -> None:
    daemon = APPLIED.daemon
    assert daemon is not None
    strange = replace(APPLIED, daemon=replace(daemon, running=Configured("[Interface]\nColour = blue\n")))
    seen = report.parse("a", observed(strange))
    assert seen.daemon is not None
    assert not seen.daemon.running.readable
    assert seen.daemon.conf.readable


STATUS = {
    "schema": 1,
    "version": "0.1.0",
    "name": "prod",
    "state": "running",
    "mtu": 1420,
    "uptime_s": 12.5,
    "features": ["gso"],
    "notes": ["a note"],
    "a word of a later version": {},
    "peers": [
        {
            "name": "b",
            "public_key": "x",
            "endpoint": "192.0.2.1:51820",
            "latest_handshake_s": 3.2,
            "rtt_ms": 0.41,
            "loss": 0.0,
            "rx_bytes": 1,
            "tx_bytes": 2,
            "alive": False,
            "reason": "no answer\x1b[2J from\n192.0.2.1",
        }
    ],
}


def test_vitals_are_read_and_cannot_move_the_cursor() -> None:
    vitals = report.vitals("a", "warning: something\n" + json.dumps(STATUS) + "\n")
    assert (vitals.mtu, vitals.uptime_s, vitals.notes) == (1420, 12.5, ("a note",))
    (peer,) = vitals.peers
    assert (peer.latest_handshake_s, peer.rtt_ms, peer.alive) == (3.2, 0.41, False)
    assert peer.reason == "no answer�[2J from�192.0.2.1"


@pytest.mark.parametrize(
    "change",
    [
        {"mtu": "1420"},
        {"mtu": True},
        {"mtu": -1},
        {"uptime_s": float("nan")},
        {"notes": [1]},
        {"link_up": "yes"},
        {"peers": {}},
        {"name": None},
    ],
)
def test_vitals_of_the_wrong_shape_are_an_error_of_that_host(change: dict[str, object]) -> None:
    with pytest.raises(HostError):
        report.vitals("a", json.dumps(STATUS | change))


@pytest.mark.parametrize(
    "output", ["", "\n", "null", "[]", "1e999", '{"schema": 1e999}', '{"schema": ' + "9" * 5000 + "}"]
)
def test_no_vitals(output: str) -> None:
    with pytest.raises(HostError):
        report.vitals("a", output)
