"""Names, and the nearest known one."""

from __future__ import annotations

import pytest

from meshctl.core import names


@pytest.mark.parametrize("name", ["a", "no", "db-1", "a" * 63])
def test_host_names(name: str) -> None:
    assert names.label_fault(name, "host") is None


@pytest.mark.parametrize(
    "name", ["", "A", "1a", "-a", "a-", "a.b", "a_b", "a b", "a" * 64, "ä", "localhost", "all", "ungrouped", "a\n", "*"]
)
def test_what_names_no_host(name: str) -> None:
    assert names.label_fault(name, "host") is not None


@pytest.mark.parametrize("name", ["", "Prod", "lo", "all", "default", "a" * 16, "a.b", "../x", "a\n"])
def test_what_names_no_mesh(name: str) -> None:
    assert names.mesh_name_fault(name) is not None


@pytest.mark.parametrize(
    ("word", "made"), [("Web_1", "web-1"), ("9Lives!", "lives"), ("ÄÖ", None), ("LO", None), ("x" * 70, "x" * 63)]
)
def test_a_name_is_tidied_for_a_hint(word: str, made: str | None) -> None:
    assert names.tidy(word) == made


def test_did_you_mean() -> None:
    assert names.did_you_mean("adress", ["address", "at"]) == "did you mean address?"
    assert names.did_you_mean("zzz", ["address", "at"]) is None


@pytest.mark.parametrize("name", ["a", "a.b-c_d", "192.0.2.1", "0x1.example"])
def test_host_names_of_the_internet(name: str) -> None:
    assert names.is_host_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "-a", "1.2.3", "1.2.3.400", "a b", "a" * 64, "a;b", "a/b", "x." * 130]
)
def test_what_is_no_host_name(name: str) -> None:
    assert not names.is_host_name(name)
