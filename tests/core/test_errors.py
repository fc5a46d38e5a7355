"""The exception tree: exits, order, and equality of what hosts failed with."""

from __future__ import annotations

from meshctl.core.errors import Failed, HostError, Invalid, Problem, Where


def test_exits_are_those_of_the_contract() -> None:
    assert (Failed("x").exit, Invalid([]).exit, HostError("a", "other", "x").exit) == (1, 3, 4)


def test_problems_stand_in_the_order_of_the_file() -> None:
    later, first, nowhere = Problem("l", Where("f", 9, 1)), Problem("f", Where("f", 2, 7)), Problem("n")
    assert Invalid([later, first, nowhere]).problems == (nowhere, first, later)
    assert str(Invalid([later, first])) == "f:2:7: f; f:9:1: l"


def test_a_place_without_a_line_is_the_file() -> None:
    assert str(Where("mesh.keys")) == "mesh.keys"


def test_host_errors_are_values() -> None:
    assert HostError("a", "auth", "x") == HostError("a", "auth", "x")
    assert len({HostError("a", "auth", "x"), HostError("a", "auth", "x"), HostError("b", "auth", "x")}) == 2
