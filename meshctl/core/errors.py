"""What can go wrong, as data: where it is, what it is, and a hint that can be typed.

    Failure                      everything meshctl reports instead of a traceback
    ├── Invalid      exit 3      mesh.yaml, mesh.lock or mesh.keys is wrong; nothing was contacted
    ├── HostError    exit 4      one host failed or can't be reached; the others go on
    └── Failed       exit 1      everything else

Exceptions carry values only; screen.py alone turns them into sentences. `what` and `hint` follow MESSAGES.md: no
capital at the start, no full stop at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """A place in a file; line and column count from 1, and 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `code` is stable, for tests and for programs that read --json."""

    what: str
    where: Where | None = None
    hint: str | None = None
    code: str = "invalid"


class Failure(Exception):
    """The root of the tree above; `exit` is the exit code of a command that ends with it."""

    exit = 1


class Invalid(Failure):
    """A file of the user's is wrong. Holds every problem that was found, in the order of the file."""

    exit = 3

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: p.where or Where("")))
        super().__init__("; ".join(_line(p) for p in self.problems))


class HostError(Failure):
    """One host can't be done. `code` is one of contracts §7 (`no-tun`, `arch`, …) or of report.py (`report`)."""

    exit = 4

    def __init__(self, host: str, code: str, what: str, hint: str | None = None) -> None:
        self.host, self.code, self.what, self.hint = host, code, what, hint
        super().__init__(f"{host}: {what}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostError) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str, str, str | None]:
        return self.host, self.code, self.what, self.hint


class Failed(Failure):
    """A fault that belongs to no host and to no file."""

    def __init__(self, what: str, hint: str | None = None, code: str = "failed") -> None:
        self.what, self.hint, self.code = what, hint, code
        super().__init__(what)


def _line(problem: Problem) -> str:
    return f"{problem.where}: {problem.what}" if problem.where else problem.what
