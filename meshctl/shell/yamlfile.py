"""YAML text becomes core's tree: values that remember where they were written.

Strategy: ruamel.yaml's composer (YAML 1.2, so `no` is a word) gives nodes with marks; this file turns them into Scalar,
Seq and Map. Aliases are expanded here; recursive ones, and documents that expand beyond all reason, are refused. Keys
written twice and merge keys stay in the tree: core/tree.py reports and resolves them.

What it does not do: know any word of mesh.yaml, or write YAML.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from meshctl.core.errors import Invalid, Problem, Where
from meshctl.core.tree import Entry, Map, Scalar, Seq, Tree

if TYPE_CHECKING:
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.nodes import Node

_MOST_NODES = 200_000  # a mesh of 1000 hosts has about 10,000
_DEEPEST = 50  # nestings; the language has no more than six
_DEEP, _DEEP_HINT = "this is nested too deep", "no word of ours has that much below it: look for a bracket too many"
_MOST_BITS = 1024  # of a number; Python refuses to write one of more than 4300 digits
_HINTS = (  # words of ruamel.yaml's complaints (its scanner.py, parser.py, composer.py and reader.py), the first counts
    ("a tab stands", "indent with spaces"),
    ("cannot start any token", "put the value in quotes"),
    ("the node content", "put the value in quotes"),
    ("flow sequence", "close the brackets"),
    ("flow mapping", "close the braces"),
    ("unexpected end of stream", "close the quotes"),
    ("mapping values are not allowed", "write one KEY: value a line; put a value that holds a colon in quotes"),
    ("parsing a block", "indent the lines that belong together alike"),
    ("undefined alias", "write &NAME before what it stands for, and above it"),
    ("single document", "keep one document, without --- between"),
    ("escape character", "write the backslash twice, or use single quotes"),
    ("special characters", "delete the control characters"),
)
_TAG = "tag:yaml.org,2002:"


def read(path: Path, shown: str) -> Tree:
    """The tree of a file; `shown` is how messages call it. Raises Invalid when it can't be read or isn't YAML."""
    try:
        text = path.read_bytes()
    except OSError as error:
        what = f"can't read it: {(error.strerror or str(error)).lower()}"
        raise Invalid([Problem(what, Where(shown), code="unreadable")]) from error
    return parse(text, shown)


def parse(text: bytes, shown: str) -> Tree:
    """The tree of YAML text. An empty document is a null at 1:1."""
    # imported here: 50 ms that `meshctl --help` should not pay
    from ruamel.yaml import YAML  # noqa: PLC0415
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415

    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        problem = Problem("this is not UTF-8 text", Where(shown, line, 1), "save the file as UTF-8", "yaml")
        raise Invalid([problem]) from error
    if (marked := _conflict(decoded)) is not None:
        what, hint = "a merge left git's conflict marks here", "keep one of the two sides, and delete the marks"
        raise Invalid([Problem(what, Where(shown, marked, 1), hint, "yaml")])
    try:
        node = YAML(typ="rt", pure=True).compose(decoded)
    except MarkedYAMLError as error:
        raise Invalid([_syntax(error, shown, decoded.splitlines())]) from error
    except YAMLError as error:  # of its reader, which counts characters
        what = str(error).splitlines()[0].rstrip(".")
        before = decoded[: getattr(error, "position", 0)].split("\n")
        raise Invalid([Problem(what, Where(shown, len(before), len(before[-1]) + 1), _hint(what), "yaml")]) from error
    except RecursionError as error:
        raise Invalid([Problem(_DEEP, Where(shown, *_last_seen(decoded)), _DEEP_HINT, "yaml")]) from error
    except ValueError as error:  # of chr()
        what, hint = "the text that begins about here has an escape that is no character", "write the character itself"
        raise Invalid([Problem(what, Where(shown, *_last_seen(decoded)), hint, "yaml")]) from error
    return Scalar(None, "", 1, 1) if node is None else _Reader(shown).tree(node)


def _last_seen(text: str) -> tuple[int, int]:
    """Line and column of the last thing that the parser takes in, or of the one that is nested too deep."""
    from ruamel.yaml import YAML  # noqa: PLC0415

    line, column, depth = 1, 1, 0
    with contextlib.suppress(ValueError):
        for event in YAML(typ="rt", pure=True).parse(text):
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            kind = type(event).__name__
            depth += kind.endswith(("SequenceStartEvent", "MappingStartEvent"))
            depth -= kind.endswith(("SequenceEndEvent", "MappingEndEvent"))
            if depth > _DEEPEST:
                break
    return line, column


def _conflict(text: str) -> int | None:
    """The line where git's conflict begins (git-merge(1)); no text of ours can start a line so."""
    lines = text.splitlines()
    began = next((number for number, line in enumerate(lines, 1) if line.startswith("<<<<<<< ")), None)
    return began if any(line.startswith(">>>>>>> ") for line in lines) else None


def _syntax(error: MarkedYAMLError, shown: str, lines: list[str]) -> Problem:
    """The parser's complaint at its place: the place of the problem, else where the construct began."""
    mark = error.problem_mark or error.context_mark
    what = " ".join(filter(None, [error.context, error.problem])) or "this is not YAML"
    if "'\\t' that cannot start any token" in what:
        what = "a tab stands where the line is indented"
    hint, began = _hint(what), error.context_mark
    if began and mark and began.line < mark.line and hint.startswith("close "):
        hint += f" that line {began.line + 1} opens"
    if mark and "mapping values are not allowed" in what and (glued := _glued(lines[: mark.line])) is not None:
        hint = f"put a space after the colon in line {glued}"
    return Problem(what, Where(shown, mark.line + 1, mark.column + 1) if mark else Where(shown), hint, "yaml")


def _hint(what: str) -> str:
    """The way out of a complaint of the parser, known by its words."""
    return next((hint for words, hint in _HINTS if words in what), "check the indentation and the quotes there")


def _glued(lines: list[str]) -> int | None:
    """The last of these lines that says something, when it is `key:value` without the space that YAML wants there."""
    said = [(number, text) for number, text in enumerate(lines, 1) if text.strip()]
    return said[-1][0] if said and re.match(r"\s*[\w-]+:[^\s:/]", said[-1][1]) else None


class _Reader:
    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._open: set[int] = set()
        self._count = 0

    def tree(self, node: Node) -> Tree:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self._count += 1
        if self._count > _MOST_NODES:
            raise self._invalid(line, column, "the aliases expand beyond reason", "use fewer aliases")
        if not isinstance(node.value, list):
            return self._scalar(node, line, column)
        if id(node) in self._open:
            raise self._invalid(line, column, "an alias leads back into itself", "delete the alias")
        if len(self._open) >= _DEEPEST:
            raise self._invalid(line, column, _DEEP, _DEEP_HINT)
        self._open.add(id(node))
        try:
            if not str(node.tag or _TAG).startswith(_TAG):
                raise self._invalid(line, column, f"the tag {node.tag} is not known here", "delete it")
            if node.value and isinstance(node.value[0], tuple):
                return Map(tuple(self._entry(key, value) for key, value in node.value), line, column)
            if str(node.tag).endswith(":map"):
                return Map((), line, column)
            return Seq(tuple(self.tree(item) for item in node.value), line, column)
        finally:
            self._open.discard(id(node))

    def _entry(self, key: Node, value: Node) -> Entry:
        at = self.tree(key)
        if not isinstance(at, Scalar):
            raise self._invalid(at.line, at.column, "a key is a word, not a list or a mapping", "write KEY: value")
        held = self.tree(value)
        if isinstance(held, Scalar) and held.value is None and not held.text:
            held = Scalar(None, "", at.line, at.column)  # nothing is written: the parser's mark is at the next token
        return Entry(at, held)

    def _scalar(self, node: Node, line: int, column: int) -> Scalar:
        kind, text = str(node.tag).removeprefix(_TAG), str(node.value)
        if kind.startswith("!"):
            raise self._invalid(line, column, f"the tag {kind} is not known here", "delete it")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise self._invalid(line, column, "half of a surrogate pair is no character", "write the character itself")
        make = _VALUES.get(kind, str)
        try:
            return Scalar(make(text), text, line, column)
        except ValueError:
            return Scalar(text, text, line, column)

    def _invalid(self, line: int, column: int, what: str, hint: str) -> Invalid:
        return Invalid([Problem(what, Where(self._shown, line, column), hint, "yaml")])


def _int(text: str) -> int:
    """YAML 1.2 core schema, 10.3.2: decimal, 0o and 0x. One that Python would not write again stays a text."""
    plain = text.replace("_", "")
    number = int(plain, 0) if plain[:2] in ("0o", "0x") else int(plain, 10)
    if number.bit_length() > _MOST_BITS:
        raise ValueError
    return number


def _bool(text: str) -> bool:
    return text.lower() == "true"


def _null(_: str) -> None:
    return None


_VALUES: dict[str, Callable[[str], str | int | float | bool | None]] = {
    "int": _int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "bool": _bool,
    "null": _null,
}
