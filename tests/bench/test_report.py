"""The table: what is compared with what, and which samples may join which."""

import json
from pathlib import Path

import pytest
from lib import peers, report
from lib.pair import Conditions
from lib.peers import Daemon

BARE = Daemon("bare", "-", None)
OURS = Daemon("meshd", "1 (abc)", None, ("meshd", "bare"))
THEIRS = Daemon("wireguard-go", "v2", None, ("wireguard",))


def _rows(samples: report.Samples, daemons: list[Daemon]) -> list[list[str]]:
    lines = report.as_markdown(samples, daemons, Conditions()).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_ratio_of_medians_and_number_of_samples() -> None:
    samples = report.Samples()
    for ours in (4.0, 9.0, 5.0):
        samples.add("meshd", {"tcp1_gbit": ours}, 0.0)
    for theirs in (2.0, 3.0):
        samples.add("wireguard-go", {"tcp1_gbit": theirs}, 0.0)
    head, row = _rows(samples, [BARE, OURS, THEIRS])
    assert head == ["figure", "bare", "meshd", "wireguard-go", "meshd / wireguard-go", "samples"]
    assert row == ["tcp1_gbit", "–", "5 (4–9)", "2.5 (2–3)", "2.00", "2–3"]


def test_no_ratio_to_nothing() -> None:
    samples = report.Samples()
    samples.add("meshd", {"lost": 1.0}, 0.0)
    samples.add("wireguard-go", {"lost": 0.0}, 0.0)
    assert _rows(samples, [OURS, THEIRS])[1][3] == "–"


def test_turns_are_compared_with_the_rival_and_with_the_first() -> None:
    turns = peers.in_turns([BARE, OURS, THEIRS], "MESHD_QUEUES", ["1", "2"])
    assert [d.name for d in turns] == ["bare", "meshd MESHD_QUEUES=1", "meshd MESHD_QUEUES=2", "wireguard-go"]
    assert [d.env for d in turns] == [{}, {"MESHD_QUEUES": "1"}, {"MESHD_QUEUES": "2"}, {}]
    assert _rows(report.Samples(), turns)[0][5:-1] == [
        "meshd MESHD_QUEUES=1 / wireguard-go",
        "meshd MESHD_QUEUES=2 / wireguard-go",
        "meshd MESHD_QUEUES=2 / meshd MESHD_QUEUES=1",
    ]


def test_many_peers_are_compared_with_as_many_and_with_one() -> None:
    both = peers.with_peers([BARE, OURS, THEIRS], 9)
    assert [(d.name, d.peers) for d in both] == [
        ("bare", 0),
        ("meshd", 0),
        ("meshd 9 peers", 9),
        ("wireguard-go", 0),
        ("wireguard-go 9 peers", 9),
    ]
    assert _rows(report.Samples(), both)[0][6:-1] == [
        "meshd / wireguard-go",
        "meshd 9 peers / wireguard-go 9 peers",
        "meshd 9 peers / meshd",
        "wireguard-go 9 peers / wireguard-go",
    ]


def test_samples_join_those_of_an_earlier_run(tmp_path: Path) -> None:
    earlier, samples = tmp_path / "tunnel.json", report.Samples()
    many = peers.with_peers([OURS], 9)
    for d in many:
        samples.add(d.name, {"tcp1_gbit": 1.0}, 0.0)
    earlier.write_text(report.as_json(samples, many, Conditions(plain=True)))
    joined = report.Samples()
    reported = report.take_up(joined, earlier, [OURS, THEIRS], Conditions(plain=True))
    assert [(d.name, d.peers) for d in reported] == [("meshd", 0), ("meshd 9 peers", 9), ("wireguard-go", 0)]
    joined.add("meshd", {"tcp1_gbit": 3.0}, 7.0)
    assert joined.others == [0.0, 0.0, 7.0]
    assert joined.values["tcp1_gbit"] == {"meshd": [1.0, 3.0], "meshd 9 peers": [1.0]}


@pytest.mark.parametrize(
    ("daemon", "without", "schema", "why"),
    [
        (OURS, Conditions(old_kernel=True), report.SCHEMA, "other conditions"),
        (Daemon("meshd", "1 (abd)", None), Conditions(), report.SCHEMA, "another meshd"),
        (Daemon("meshd", "1 (abc)", None, env={"MESHD_AEAD": "ring"}), Conditions(), report.SCHEMA, "another meshd"),
        (OURS, Conditions(), 1, "another bench"),
    ],
)
def test_what_differs_is_not_joined(tmp_path: Path, daemon: Daemon, without: Conditions, schema: int, why: str) -> None:
    earlier = tmp_path / "tunnel.json"
    document = json.loads(report.as_json(report.Samples(), [OURS], Conditions()))
    earlier.write_text(json.dumps(document | {"schema": schema}))
    with pytest.raises(ValueError, match=why):
        report.take_up(report.Samples(), earlier, [daemon], without)
