"""Users of a host, as NAME.conf and mesh.yaml name them: a name, a user id, or a range of ids (`2000-2999`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}", re.ASCII)
_LAST_ID = 2**32 - 2
"""The one above it means "leave it" to chown(2)."""


def parse(text: str) -> str:
    """The user or range in its one spelling. ValueError holds a sentence and a hint; root is refused."""
    if text == "root" or re.match(r"0(-|$)", text):
        raise ValueError("what the kernel sends by itself counts as root's", "use the kill switch, or name other users")
    if not text[:1].isdecimal():
        if _NAME.fullmatch(text):
            return text
        raise ValueError("not a user", "use a name, a number or 2000-2999")
    first, dash, last = text.partition("-")
    ids = [_id(part) for part in ((first, last) if dash else (first,))]
    if ids != sorted(ids):
        raise ValueError("it ends before it begins", "write the lower number first")
    return "-".join(map(str, sorted(set(ids))))


def _id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= _LAST_ID:
        raise ValueError(f"not a number from 1 to {_LAST_ID}", f"write a number from 1 to {_LAST_ID}")
    return int(text)


def in_order(users: Iterable[str]) -> tuple[str, ...]:
    """Without doubles: user ids by number, then names."""

    def place(user: str) -> tuple[int, int, str]:
        first, _, last = user.partition("-")
        return (int(first), int(last or first), "") if user[0].isdecimal() else (1 << 32, 0, user)

    return tuple(sorted(set(users), key=place))
