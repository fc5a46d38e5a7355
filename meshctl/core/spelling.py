"""A value of a file as a message shows it: in YAML's spelling, on one line, and never longer than a person reads.

It does not write YAML: what is shown may be cut, and a list or a mapping is called by its kind.
"""

from __future__ import annotations

import json
import math

_MOST = 60  # characters


def value(shown: object) -> str:
    """What YAML made of the file, as the file might have it: true, .inf, 'text'."""
    match shown:
        case None | dict() | list():
            return "an empty value" if shown is None else "a mapping" if isinstance(shown, dict) else "a list"
        case bool():
            return "true" if shown else "false"
        case float() if not math.isfinite(shown):
            return ".nan" if math.isnan(shown) else ".inf" if shown > 0 else "-.inf"
        case int() | float():
            return short(str(shown))
        case _:
            return text(str(shown))


def text(shown: str) -> str:
    """A text in quotes: single ones, or YAML's double ones (a JSON string is one) where something can't be seen."""
    cut = short(shown)
    return "'" + cut.replace("'", "''") + "'" if cut.isprintable() else json.dumps(cut)


def short(shown: str) -> str:
    """The beginning of a long text."""
    return shown if len(shown) <= _MOST else f"{shown[: _MOST - 1]}…"
