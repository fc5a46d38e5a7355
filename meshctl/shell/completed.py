"""A command that ran to its end on a host. The reason why one did not is core's HostError; both are values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Completed:
    """`exit` is the command's status as the host told it; both outputs are text, with what isn't UTF-8 replaced."""

    exit: int
    stdout: str
    stderr: str
