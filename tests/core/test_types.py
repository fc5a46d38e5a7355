"""Every word of mesh.yaml meets a value of every kind that YAML has: it is right, or an error of ours in its place.

What is asked of each error: a line and a column, a sentence without Python's spelling of a value, and no more of the
value than a person reads. Nothing else may come out of the parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshctl import cli
from meshctl.core import language, spelling
from meshctl.core.errors import Invalid
from meshctl.core.parse import parse
from meshctl.screen import Screen
from meshctl.shell import yamlfile

_LONG = 5000
VALUES = [
    *(
        "",
        "null",
        "~",
        "true",
        "False",
        "yes",
        "0",
        "1",
        "-1",
        "1.5",
        "1e999",
        ".inf",
        "-.inf",
        ".nan",
        "0o17",
        "2020-01-01",
    ),
    *("text", "''", "'it''s'", '"\\e[31m"', '"a\\nb"', "99999999999999999999", "9" * _LONG, f"0x{'f' * _LONG}"),
    *(f"r@a:{'9' * _LONG}", f"tcp/{'9' * _LONG}", "'" + "x" * _LONG + "'"),
    *("[]", "[null]", "[true]", "[1.5]", "[[]]", "[{}]", "[a, [b]]", "{}", "{a: 1}", "{a: null}", "{true: false}"),
    *("{null: null}", "{a: {b: {c: null}}}", "{1: 2}", "{? [a] : b}", "*x", "&a [b]"),
    *(
        "!!str 1",
        "!!int x",
        "!!float 1",
        "!!bool x",
        "!!null x",
        "!!binary aGk=",
        "!!set {a}",
        "!!omap [a: 1]",
        "!foo x",
    ),
    *(
        f"{{{word}: {value}}}"
        for word in ("users", "allow", "hub", "office")
        for value in ("true", "null", "[{}]", "1.5")
    ),
    *("{users: [[1]]}", "{hub: []}", f"{{users: 0x{'f' * _LONG}}}", f"{{allow: tcp/{'9' * _LONG}}}"),
    *("{latency: true}", "{latency: null, loss: []}", "{hosts: true}", "{hosts: {a: true}}"),
    *("{hosts: {a: {behind: true}}}", "{hosts: {a: {behind: null}}}", "{hosts: {a: {behind: [x]}}}"),
]
_TWO = "hosts: {a: root@a, b: root@b}"
# as Python writes values, types and its own errors, and pydantic its own
_PYTHON = re.compile(
    r"\b(True|False|None|dict|bool|NoneType|Value error|Input should|OrderedDict|Commented\w+)\b"
    r"|(?<!\.)\b(inf|nan)\b|\\x"
)


def _files(value: str) -> Iterator[tuple[str, str]]:
    """Every place of a mesh.yaml where a value stands, by name, with this value there."""
    for word in (*language.MeshFile.model_fields, "bogus"):
        lines = {"mesh": "mesh: prod", "hosts": _TWO} | {word: f"{word}: {value}"}
        yield word, "\n".join(lines.values())
    for word in (*language.Host.model_fields, "bogus"):
        ssh = "" if word == "ssh" else "    ssh: root@a\n"
        yield f"hosts.a.{word}", f"mesh: prod\nhosts:\n  a:\n{ssh}    {word}: {value}\n  b: root@b"
    for within, model in (("defaults", language.Defaults), ("lab", language.Lab), ("links", language.HubWords)):
        for word in (*model.model_fields, "bogus"):
            yield f"{within}.{word}", f"mesh: prod\n{_TWO}\n{within}:\n  {word}: {value}"
    yield "lab.hosts.a.behind", f"mesh: prod\n{_TWO}\nlab:\n  hosts:\n    a:\n      behind: {value}"
    yield "the file", value
    yield "hosts.a", f"mesh: prod\nhosts:\n  a: {value}\n  b: root@b"
    yield "links[0]", f"mesh: prod\n{_TWO}\nlinks:\n  - {value}"
    yield "a key", f"mesh: prod\nhosts:\n  ? {value}\n  : root@a"


@pytest.mark.parametrize("value", VALUES, ids=lambda value: spelling.short(value) or "empty")
def test_a_value_of_any_kind_is_right_or_an_error_in_its_place(value: str) -> None:
    for place, text in _files(value):
        try:
            parse(yamlfile.parse(f"{text}\n".encode(), "mesh.yaml"), "mesh.yaml")
        except Invalid as error:
            assert error.exit == 3
            for problem in error.problems:
                said = f"{problem.what} ({problem.hint})"
                told = f"{place}: {problem.where}: {said}"
                assert problem.where is not None and problem.where.line and problem.where.column, told
                ours = said.partition("(for example")[0].replace(value or "\0", "")  # the user's own word is theirs
                assert _PYTHON.search(ours) is None, told
                assert len(said) < 400, told


def test_values_are_spelt_as_yaml_does() -> None:
    spelt = {None: "an empty value", True: "true", False: "false", 7: "7", 1.5: "1.5", "it's": "'it''s'"}
    assert {value: spelling.value(value) for value in spelt} == spelt
    infinite = [float("inf"), float("-inf"), float("nan")]
    assert [spelling.value(value) for value in infinite] == [".inf", "-.inf", ".nan"]
    assert [spelling.value(value) for value in ({}, [1])] == ["a mapping", "a list"]
    assert spelling.text("a\x1b[31m\n") == '"a\\u001b[31m\\n"'
    assert spelling.text("x" * 61) == f"'{'x' * 59}…'"


def test_the_command_ends_with_3_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(f"mesh: prod\nhosts: {{a: root@a}}\nport: 0x{'f' * _LONG}\nlab: {{loss: null}}\n")
    assert cli.run(["check", str(file)], Screen()) == 3
    said = capsys.readouterr().err
    assert f"{file}:3:7: error: port is a whole number, not '0xfff" in said
    assert f"{file}:4:13: error: an empty value can't be read\n" in said
