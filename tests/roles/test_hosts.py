"""Two checkouts on one machine: no name, label or network of podman is that of both, and each takes away its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import hosts

FLEETS = ("roles", "molecule-default", "molecule-containers")


def test_checkouts_share_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[set[str]] = []
    for checkout in ("one", "two"):
        monkeypatch.setattr(hosts, "ROOT", tmp_path / checkout)
        monkeypatch.setattr(hosts, "STATE", tmp_path / checkout / "build" / "hosts")
        fleets = [hosts.plan(name, "a", "b:container", "c:bare") for name in FLEETS]
        found = {word for fleet in fleets for host in fleet.hosts for word in (host.container, host.address6)}
        assert len(found) == 2 * 3 * len(FLEETS)
        asked: list[str] = []

        def podman(*words: str, asked: list[str] = asked) -> str:
            asked += [word for word in words if word.startswith("label=")]
            return ""

        monkeypatch.setattr(hosts, "_podman", podman)
        for name in FLEETS:
            hosts.down(name)
        seen.append(found | set(asked))
    assert seen[0].isdisjoint(seen[1])


def test_a_fleet_has_an_address_for_each_host() -> None:
    fleet = hosts.plan("roles", *(f"h{number}" for number in range(20)))
    assert len({host.address for host in fleet.hosts}) == len({host.address6 for host in fleet.hosts}) == 20
    assert all(host.address.startswith(("198.18.", "198.19.")) for host in fleet.hosts)
