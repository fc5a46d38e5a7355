"""shape: a tree becomes the words of the language, each with a value that it can have.

language.py checks words and single values. What is wrong is reported, taken out and left behind, so that one bad value
doesn't hide the next; the rules that need two places of the file are parse.py's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from meshctl.core import names, spelling, tree
from meshctl.core.errors import Problem, Where

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from meshctl.core import language
    from meshctl.core.language import MeshFile

Path = Sequence[str | int]


class Document:
    """A file's tree, and the problems that were found in it so far."""

    def __init__(self, document: tree.Tree, file: str) -> None:
        self.file = file
        self.tree, twice = tree.flatten(document, file)
        self.problems: list[Problem] = list(twice)

    def where(self, path: Path, *, key: bool = False) -> Where:
        return tree.locate(self.tree, path, self.file, key=key)

    def add(self, path: Path, what: str, hint: str, code: str, *, key: bool = False) -> None:
        problem = Problem(what, self.where(path, key=key), hint, code)
        if problem not in self.problems:
            self.problems.append(problem)


def words(document: Document) -> MeshFile | None:
    """What is right of the file; None when it can't be judged without what is wrong. The document has the problems."""
    return _Shape(document).words()


class _Shape:
    def __init__(self, document: Document) -> None:
        self.document = document

    def words(self) -> MeshFile | None:
        from pydantic import ValidationError  # noqa: PLC0415 - see language.py

        from meshctl.core.language import MeshFile  # noqa: PLC0415

        data = tree.plain(self.document.tree)
        # each round takes at least one faulty value out, so this ends
        while True:
            try:
                return MeshFile.model_validate(data)
            except ValidationError as error:
                found = error.errors(include_url=False)
            misspelt = {(d["loc"][:-1], *_nearest(d["loc"])) for d in found if d["type"] == "extra_forbidden"}
            for detail in found:
                if self._is_outdented(detail):
                    continue  # and that is said at hosts:
                if detail["type"] != "missing" or (detail["loc"][:-1], str(detail["loc"][-1])) not in misspelt:
                    self._report(detail)
            # every one is taken out before the answer is read
            judged = [_take_out(data, path) for path in sorted({_fault_path(d, data) for d in found})]
            if not all(judged):
                return None

    def _report(self, detail: ErrorDetails) -> None:
        from meshctl.core.language import NOT_YET  # noqa: PLC0415

        path, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
        word = str(path[-1]) if path else ""
        value = detail.get("input")
        match kind if "what" not in context else "ours":
            case "extra_forbidden" if word in NOT_YET:
                what = f"{word} is a word of the language that this version of meshctl doesn't carry out yet"
                self.document.add(path, what, f"take it out; {NOT_YET[word]}", "not-yet", key=True)
            case "extra_forbidden":
                known = _known_words(path)
                hint = names.did_you_mean(word, known) or f"known here: {', '.join(known)}"
                self.document.add(path, f"unknown word {word}", hint, "unknown-word", key=True)
            case "missing":
                hint = {
                    "mesh": "add mesh: NAME",
                    "hosts": "add hosts: with a line NAME: user@host for each",
                    "ssh": "add ssh: user@host.example.com",
                }.get(word, f"add {word}:")
                self.document.add(path[:-1], f"{word} is missing", hint, "missing", key=True)
            case "int_type" | "int_from_float" | "int_parsing":
                self.document.add(
                    path,
                    f"{word} is a whole number, not {spelling.value(value)}",
                    f"write it as {word}: {_usual(word)}",
                    "type",
                )
            case "greater_than_equal" | "less_than_equal":
                low, high = (1280, 65455) if word == "mtu" else (1, 65535)
                self.document.add(
                    path,
                    f"{word} is from {low} to {high}, not {spelling.value(value)}",
                    f"write {word}: {_usual(word)}",
                    "range",
                )
            case "bool_type" | "bool_parsing":
                self.document.add(
                    path, f"{word} is true or false, not {spelling.value(value)}", f"write {word}: true", "type"
                )
            case "string_type":
                self.document.add(path, f"{word} is a text, not {spelling.value(value)}", f'write {word}: "…"', "type")
            case "model_type" | "dict_type" | "model_attributes_type":
                self.document.add(
                    path, f"{word} is a mapping, not {spelling.value(value)}", _mapping(path, value), "type"
                )
            case "literal_error":
                hint = f"write {context.get('expected', '')}".replace("'", "")
                self.document.add(path, f"{word} can't be {spelling.value(value)}", hint, "type")
            case "too_short":
                self.document.add(path, f"{word} is empty", f"name at least one, or take {word} out", "missing")
            case _:
                what = str(context.get("what", detail["msg"]))
                hint = context.get("hint") or "meshctl schema describes every word"
                self.document.add(path, what, hint, kind, key=path[-1:] == ("[key]",))

    def _is_outdented(self, detail: ErrorDetails) -> bool:
        """Whether this unknown word is a host that stands beside an empty hosts: instead of below it."""
        path, root = detail["loc"], self.document.tree
        hosts = root.get("hosts") if isinstance(root, tree.Map) else None
        empty = hosts is not None and isinstance(hosts.value, tree.Scalar) and hosts.value.value is None
        return empty and len(path) == 1 and detail["type"] == "extra_forbidden" and not any(_nearest(path))


def _mapping(path: Path, value: object) -> str:
    """How the words below this one are written."""
    if isinstance(value, str) and re.match(r"[\w-]+:[^\s:/]", value) is not None:
        return "put a space after the colon"
    lines = "write each host on a line below it, indented: NAME: root@host.example.com"
    return lines if tuple(path) == ("hosts",) else f"write {path[-1]}: {{word: value}}"


def _usual(word: str) -> int:
    """A number to show how a word is written."""
    return 1420 if word == "mtu" else 51820


def _known_words(path: Path) -> list[str]:
    from meshctl.core import language  # noqa: PLC0415

    model: type[language.Words] = language.MeshFile
    match tuple(path):
        case ("hosts", _, _):
            model = language.Host
        case ("defaults", _):
            model = language.Defaults
        case ("links", *_):
            model = language.HubWords
        case ("lab", "hosts", _, _):
            model = language.LabHost
        case ("lab", _):
            model = language.Lab
    return sorted(model.model_fields)


def _nearest(path: Path) -> list[str]:
    """The known word that an unknown one was probably meant to be, if any."""
    return get_close_matches(str(path[-1]), _known_words(path), n=1)


def _fault_path(detail: ErrorDetails, data: object) -> tuple[str, ...]:
    """The path in `data` of what must be taken out so that the rest can be judged.

    It ends above the first list: all faults of a list are found in one round, and indices keep pointing at the tree.
    """
    path = [step for step in detail["loc"] if step != "[key]"]
    # what can't be left out takes its mapping along, else it would be missing in the next round
    lacks = detail["type"] == "missing" and "what" not in detail.get("ctx", {})
    if len(path) > 1 and (lacks or path[-1] in ("ssh", "hub")):
        path = path[:-1]
    real: list[str] = []
    for step in path:
        if isinstance(data, dict) and isinstance(step, str) and (step in data or path == ["mesh"]):
            data = data.get(step)
            real.append(step)
    return tuple(real)


def _take_out(data: object, path: tuple[str, ...]) -> bool:
    """Takes the value at `path` out; False when the file can't be judged without it."""
    if path in ((), ("hosts",)):
        return False
    place: Any = data
    for step in path[:-1]:
        place = place.get(step, {})
    if path == ("mesh",):
        place["mesh"] = "unnamed"  # never seen: a problem was reported, so no Spec is made
    else:
        place.pop(path[-1], None)
    return True
