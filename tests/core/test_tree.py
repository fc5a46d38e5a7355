"""Trees: merge keys, keys written twice, and where things stand."""

from __future__ import annotations

from meshctl.core import tree
from meshctl.core.errors import Where
from meshctl.shell import yamlfile


def load(text: str) -> tree.Tree:
    return yamlfile.parse(text.encode(), "f")


def test_merges_give_way_to_what_is_written_here() -> None:
    flat, problems = tree.flatten(load("base: &b {x: 1, y: 2}\nhere: {<<: *b, y: 3}\n"), "f")
    assert tree.plain(flat) == {"base": {"x": 1, "y": 2}, "here": {"x": 1, "y": 3}}
    assert problems == ()


def test_the_first_of_several_merges_wins() -> None:
    flat, _ = tree.flatten(load("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n"), "f")
    assert tree.plain(flat)["c"] == {"x": 1, "y": 2}


def test_only_mappings_are_merged() -> None:
    _, problems = tree.flatten(load("a: {<<: 3}\n"), "f")
    assert [p.code for p in problems] == ["type"]


def test_a_key_written_twice_keeps_the_first() -> None:
    flat, problems = tree.flatten(load("a: 1\nb: {c: 1, c: 2}\na: 3\n"), "f")
    assert tree.plain(flat) == {"a": 1, "b": {"c": 1}}
    assert [(p.code, p.where) for p in problems] == [("duplicate", Where("f", 2, 11)), ("duplicate", Where("f", 3, 1))]


def test_keys_are_text_as_written() -> None:
    flat, _ = tree.flatten(load("no: 1\n1: 2\n0x10: 3\nnull: 4\n"), "f")
    assert list(tree.plain(flat)) == ["no", "1", "0x10", "null"]


def test_what_is_missing_is_placed_where_it_should_be() -> None:
    document = load("a:\n  b: [x, y]\n")
    assert str(tree.locate(document, ("a", "b", 1), "f")) == "f:2:10"
    assert str(tree.locate(document, ("a", "b"), "f", key=True)) == "f:2:3"
    assert str(tree.locate(document, ("a", "nothing"), "f")) == "f:1:1"
    assert str(tree.locate(document, ("a", "b", 7), "f")) == "f:2:6"
