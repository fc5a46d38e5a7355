"""A YAML document as plain values that remember where they were written.

The shell reads the file (ruamel.yaml, YAML 1.2) and hands over this tree; the core never sees a parser. A mapping is
kept as a tuple of entries, so that a key written twice is still there to be reported. A merge key (`<<`) is resolved
here, by `flatten`; aliases are expanded by the reader, which refuses recursive ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from meshctl.core.errors import Problem, Where

MERGE = "<<"


@dataclass(frozen=True, slots=True)
class Scalar:
    """`value` as YAML 1.2 resolves it, `text` as it was written (without quotes)."""

    value: str | int | float | bool | None
    text: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Seq:
    items: tuple[Tree, ...]
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Entry:
    key: Scalar
    value: Tree


@dataclass(frozen=True, slots=True)
class Map:
    entries: tuple[Entry, ...]
    line: int
    column: int

    def get(self, key: str) -> Entry | None:
        """The first entry with this key."""
        return next((e for e in self.entries if e.key.text == key), None)


Tree = Scalar | Seq | Map


def flatten(tree: Tree, file: str) -> tuple[Tree, tuple[Problem, ...]]:
    """The tree with merge keys carried out, and each key once; a key that is written twice is a problem."""
    problems: list[Problem] = []
    return _flatten(tree, file, problems), tuple(problems)


def _flatten(tree: Tree, file: str, problems: list[Problem]) -> Tree:
    match tree:
        case Seq(items, line, column):
            return Seq(tuple(_flatten(i, file, problems) for i in items), line, column)
        case Map(entries, line, column):
            own: dict[str, Entry] = {}
            merged: dict[str, Entry] = {}
            for entry in entries:
                value = _flatten(entry.value, file, problems)
                if entry.key.text == MERGE:
                    for source in _merge_sources(value, entry.key, file, problems):
                        for e in source.entries:
                            merged.setdefault(e.key.text, e)
                elif (first := own.get(entry.key.text)) is not None:
                    where = Where(file, entry.key.line, entry.key.column)
                    problems.append(
                        Problem(
                            f"{entry.key.text} is written twice here",
                            where,
                            f"the first is on line {first.key.line}; rename one or delete it",
                            "duplicate",
                        )
                    )
                else:
                    own[entry.key.text] = Entry(entry.key, value)
            return Map(tuple((merged | own).values()), line, column)
        case _:
            return tree


def _merge_sources(value: Tree, key: Scalar, file: str, problems: list[Problem]) -> Iterator[Map]:
    for source in value.items if isinstance(value, Seq) else (value,):
        if isinstance(source, Map):
            yield source
        else:
            where = Where(file, key.line, key.column)
            problems.append(Problem("<< merges mappings only", where, "write <<: *NAME of a mapping", "type"))


def plain(tree: Tree) -> Any:  # noqa: ANN401 - JSON-like data has no narrower type
    """The tree as dicts, lists and scalars. Keys are text as written: a host named `no` or `1` is a host."""
    match tree:
        case Scalar(value):
            return value
        case Seq(items):
            return [plain(i) for i in items]
        case Map(entries):
            return {e.key.text: plain(e.value) for e in entries}


def locate(tree: Tree, path: Sequence[str | int], file: str, *, key: bool = False) -> Where:
    """Where the value at `path` is written, or (key=True) its key.

    Steps that don't exist in the document are skipped: what is missing is reported where it should have been.
    """
    where = Where(file, tree.line, tree.column)
    for step in path:
        if isinstance(tree, Map) and (entry := tree.get(str(step))) is not None:
            tree = entry.value
            at: Scalar | Tree = entry.key if key or isinstance(tree, Map) else tree
            where = Where(file, at.line, at.column)
        elif isinstance(tree, Seq) and isinstance(step, int) and step < len(tree.items):
            tree = tree.items[step]
            where = Where(file, tree.line, tree.column)
    return where
