"""What a flow tells on its way, so that a screen (or nobody) can follow it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called in the flow's own thread, in order."""

    def phase(self, what: str, hosts: tuple[str, ...]) -> None:
        """A new part of the work begins, on these hosts."""

    def step(self, host: str, step: str, status: str) -> None:
        """Something about one host: `status` is a word of contracts §7, or `done`."""


class Silent:
    """A Progress that nobody watches."""

    def phase(self, what: str, hosts: tuple[str, ...]) -> None:
        """Nothing."""

    def step(self, host: str, step: str, status: str) -> None:
        """Nothing."""
