"""Reading JSON that a host sent: typed look-ups that end in a ValueError with a sentence, never in a traceback.

Text is made harmless on the way in: a host must not be able to move the operator's cursor. What a newer meshd adds is
ignored; what this version needs and doesn't find is a fault.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NoReturn

MAX_BYTES = 8 * 1024 * 1024


def load(text: str) -> Json:
    """The JSON object in `text`. ValueError for anything else."""
    if len(text) > MAX_BYTES:
        raise ValueError("more than 8 MiB")
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    return Json(value, "it")


def clean(text: str) -> str:
    """The text with every character that isn't printable replaced, so that none can act on a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


class Json:
    """A JSON object; `place` names it in a fault."""

    def __init__(self, value: object, place: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{clean(place)} is not an object")
        self._value: Mapping[str, object] = value

    def has(self, key: str) -> bool:
        return self._value.get(key) is not None

    def text(self, key: str) -> str:
        return clean(self.lines(key))

    def lines(self, key: str) -> str:
        """A text that may hold line ends; the caller parses it before anybody sees it."""
        value = self._value.get(key)
        if not isinstance(value, str):
            raise ValueError(f"{key} is not a text")
        return value

    def text_or_none(self, key: str) -> str | None:
        return self.text(key) if self.has(key) else None

    def number(self, key: str) -> float:
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key} is not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"{key} is out of range")
        return number

    def number_or_none(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def whole(self, key: str) -> int:
        return int(self.number(key))

    def whole_or_none(self, key: str) -> int | None:
        return self.whole(key) if self.has(key) else None

    def truth_or_none(self, key: str) -> bool | None:
        value = self._value.get(key)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{key} is neither true nor false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        if not all(isinstance(v, str) for v in values):
            raise ValueError(f"{key} holds something that is not a text")
        return tuple(clean(str(v)) for v in values)

    def objects(self, key: str) -> tuple[Json, ...]:
        return tuple(Json(value, f"an item of {key}") for value in self._list(key))

    def _list(self, key: str) -> list[object]:
        value = self._value.get(key, [])
        if not isinstance(value, list):
            raise ValueError(f"{key} is not a list")
        return value
