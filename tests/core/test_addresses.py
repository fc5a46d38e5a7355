"""Networks made of names, and numbers that are given out once."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from meshctl.core.addresses import Allotment, allot, derive
from meshctl.core.errors import Invalid

SMALL = (ip_network("10.77.0.0/29"), ip_network("fd12::/64"))


def hosts(*names: str) -> dict[str, tuple[()]]:
    return dict.fromkeys(names, ())


def test_the_networks_of_a_name_never_change() -> None:
    """A release that derives others would renumber every mesh without a lock."""
    assert [str(n) for n in derive("prod")] == ["10.47.96.0/20", "fd9e:af25:aa9a::/64"]


def test_networks_are_private_and_miss_the_crowded_ones() -> None:
    crowded = [ip_network(n) for n in ("10.0.0.0/15", "10.42.0.0/15", "10.88.0.0/16", "10.96.0.0/12", "10.244.0.0/16")]
    for i in range(500):
        v4, v6 = derive(f"mesh{i}")
        assert v4.subnet_of(ip_network("10.0.0.0/8"))  # type: ignore[arg-type]
        assert v6.subnet_of(ip_network("fd00::/8"))  # type: ignore[arg-type]
        assert not any(v4.overlaps(c) for c in crowded)


def test_two_meshes_seldom_meet() -> None:
    v4 = {derive(f"mesh{i}")[0] for i in range(50)}
    assert len(v4) >= 48


def test_new_hosts_are_numbered_by_name() -> None:
    made = allot(SMALL, hosts("b", "a"), None)
    assert made.addresses == {
        "a": (ip_address("10.77.0.1"), ip_address("fd12::1")),
        "b": (ip_address("10.77.0.2"), ip_address("fd12::2")),
    }
    assert made.next == 3


def test_numbers_go_round_before_one_is_given_again() -> None:
    made = allot(SMALL, hosts("a"), None)
    for round_ in range(2, 7):
        made = allot(SMALL, hosts(f"h{round_}"), made)
        assert made.addresses[f"h{round_}"][0] == ip_address(f"10.77.0.{round_}")
    assert allot(SMALL, hosts("h7"), made).addresses["h7"][0] == ip_address("10.77.0.1")


def test_what_is_reserved_is_stepped_over() -> None:
    made = allot(SMALL, hosts("a"), None, reserved=[ip_address("fd12::1"), ip_address("10.77.0.2")])
    assert made.addresses["a"] == (ip_address("10.77.0.3"), ip_address("fd12::3"))


def test_a_chosen_address_is_kept_and_stepped_over() -> None:
    made = allot(SMALL, {"a": (), "z": (ip_address("10.77.0.1"),)}, None)
    assert made.addresses["z"][0] == ip_address("10.77.0.1")
    assert made.addresses["a"][0] == ip_address("10.77.0.2")
    assert len(made.addresses["z"]) == 2


def test_choosing_an_address_that_another_has_moves_the_other() -> None:
    before = allot(SMALL, hosts("a", "b"), None)
    made = allot(SMALL, {"a": (), "b": (ip_address("10.77.0.1"),)}, before)
    assert made.addresses["b"][0] == ip_address("10.77.0.1")
    assert made.addresses["a"][0] not in (ip_address("10.77.0.1"), ip_address("10.77.0.2"))


def test_another_network_keeps_the_numbers() -> None:
    before = allot(SMALL, hosts("a", "b", "c"), None)
    made = allot([ip_network("10.99.0.0/24"), SMALL[1]], hosts("a", "c"), before)
    assert made.addresses["c"] == (ip_address("10.99.0.3"), ip_address("fd12::3"))


def test_a_version_that_is_added_leaves_the_other_alone() -> None:
    before = allot(SMALL[:1], hosts("a", "b"), None)
    made = allot(SMALL, hosts("a", "b"), before)
    assert [a[0] for a in made.addresses.values()] == [ip_address("10.77.0.1"), ip_address("10.77.0.2")]
    assert all(len(a) == 2 for a in made.addresses.values())


def test_a_full_network_is_told() -> None:
    assert len(allot(SMALL, hosts(*"abcdef"), None).addresses) == 6
    with pytest.raises(Invalid, match="no address left for g"):
        allot(SMALL, hosts(*"abcdefg"), None)


def test_a_next_number_beyond_the_network_starts_again() -> None:
    before = Allotment(SMALL, {}, 10_000)
    assert allot(SMALL, hosts("a"), before).addresses["a"][0] == ip_address("10.77.0.1")
