"""YAML as core's tree: YAML 1.2's values, places that count from 1, and every fault at its place."""

from __future__ import annotations

from typing import Any

import pytest

from meshctl.core.errors import Invalid
from meshctl.core.tree import Map, Scalar, flatten, plain
from meshctl.shell.yamlfile import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("no: on", {"no": "on"}),
        (
            "a: [true, False, ~, null, 1, -2, 0x10, 0o14, 014, 1.5, .inf]",
            [True, False, None, None, 1, -2, 16, 12, 14, 1.5],
        ),
        ("a: 2001-01-01", "2001-01-01"),
        ("a: 1:30", "1:30"),
        ("a: '1'", "1"),
        ("a: &x {k: 1}\nb: {<<: *x, z: 2}", {"a": {"k": 1}, "b": {"k": 1, "z": 2}}),
        ("a: {}\nb: []", {"a": {}, "b": []}),
    ],
)
def test_values_are_yaml_1_2s(text: str, value: Any) -> None:
    got = plain(flatten(parse(text.encode(), "f"), "f")[0])
    if isinstance(got, dict) and not isinstance(value, dict):
        got = got["a"][:-1] if isinstance(value, list) else got["a"]
    assert got == value


def test_places_count_from_1() -> None:
    tree = parse(b"mesh: prod\nhosts:\n  a: root@a\n", "f")
    assert isinstance(tree, Map)
    hosts = tree.entries[1].value
    assert isinstance(hosts, Map)
    assert hosts.entries[0].key == Scalar("a", "a", 3, 3)
    assert (hosts.entries[0].value.line, hosts.entries[0].value.column) == (3, 6)


def test_a_key_written_twice_is_still_there() -> None:
    tree = parse(b"a: 1\na: 2", "f")
    assert isinstance(tree, Map)
    assert [e.key.line for e in tree.entries] == [1, 2]


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        (b"a: [1\nb: 2", "f:2:2", "expected ','"),
        (b"\ta: 1", "f:1:1", "a tab stands where the line is indented"),
        (b"a: &a [*a]", "f:1:4", "leads back into itself"),
        (b"a: !foo 1", "f:1:4", "tag !foo"),
        (b"a: !foo [1]", "f:1:4", "tag !foo"),
        (b"? [a]\n: 1", "f:1:3", "a key is a word"),
        (b"--- 1\n--- 2", "f:2:1", "another document"),
        (b"a: b\n\xff", "f:2:1", "not UTF-8"),
        (b"a: *nope", "f:1:4", "undefined alias"),
        (b"a: \0", "f:1:4", "special characters"),
        (b"b: 1\na: " + b"[" * 400 + b"]" * 400, "f:2:53", "nested too deep"),
        (b"- " * 60 + b"1", "f:1:101", "nested too deep"),
        (b'b: 1\na: "\\U00110000"', "f:2:1", "no character"),
        (b'a: "\\ud800"', "f:1:4", "half of a surrogate pair"),
    ],
)
def test_a_fault_is_told_at_its_place(text: bytes, place: str, word: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text, "f")
    (problem,) = caught.value.problems
    assert str(problem.where) == place
    assert word in problem.what


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(Invalid, match="beyond reason"):
        parse("\n".join(lines).encode(), "f")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (b"a:\n\tb: 1", "indent with spaces"),
        (b"a: [1, 2", "close the brackets"),
        (b"a: [1\nb: 2", "close the brackets that line 1 opens"),
        (b"a: {b: 1\nc: 2", "close the braces that line 1 opens"),
        (b"a: 'x\nb: 1", "close the quotes that line 1 opens"),
        (b"a: b: c", "write one KEY: value a line; put a value that holds a colon in quotes"),
        (b"h:\n  a:x\n\n  b: y", "put a space after the colon in line 2"),
        (b"m:n\nh:\n  a: x", "put a space after the colon in line 1"),
        (b"h:\n  a: x: y", "write one KEY: value a line; put a value that holds a colon in quotes"),
        (b"a: @x", "put the value in quotes"),
        (b"a: }", "put the value in quotes"),
        (b"h:\n  a: x\n b: y", "indent the lines that belong together alike"),
        (b"- a\nb: 1", "indent the lines that belong together alike"),
        (b"a: *x", "write &NAME before what it stands for, and above it"),
        (b"a: 1\n---\nb: 2", "keep one document, without --- between"),
        (b'a: "\\q"', "write the backslash twice, or use single quotes"),
        (b"a: \x01", "delete the control characters"),
        (b"&a &b c", "check the indentation and the quotes there"),
    ],
)
def test_every_fault_of_the_syntax_has_a_hint(text: bytes, hint: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text, "f")
    assert [problem.hint for problem in caught.value.problems] == [hint]


def test_gits_conflict_marks_are_said_to_be_such() -> None:
    text = b"mesh: m\nhosts:\n<<<<<<< HEAD\n  a: x\n=======\n  b: y\n>>>>>>> theirs\n"
    with pytest.raises(Invalid) as told:
        parse(text, "mesh.lock")
    (problem,) = told.value.problems
    assert (str(problem.where), "conflict" in problem.what, problem.hint) == (
        "mesh.lock:3:1",
        True,
        "keep one of the two sides, and delete the marks",
    )


def test_a_value_that_is_not_written_is_where_its_key_is() -> None:
    tree = parse(b"a:\nb: 1\n", "f")
    assert isinstance(tree, Map)
    assert (tree.entries[0].value.line, tree.entries[0].value.column) == (1, 1)
