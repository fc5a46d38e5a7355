"""Observe: one connection and one command a host say all that a plan needs (contracts §6).

The script is the collection's, so that Ansible's actions and meshctl see a host the same way; core/report.py reads its
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from meshctl.core import report
from meshctl.core.errors import HostError
from meshctl.core.report import Report
from meshctl.shell import assets
from meshctl.shell.completed import Completed
from meshctl.shell.ssh import Command, Pool

T = TypeVar("T")


def observe(
    pool: Pool, hosts: Iterable[str], name: str, on_done: Callable[[str], None] | None = None
) -> dict[str, Report | HostError]:
    """A Report, or the reason why there is none, for each host of the mesh `name`; all at once."""
    command = Command(f"sh -s -- {name}", assets.observe_script())

    def done(host: str, _: object) -> None:
        if on_done is not None:
            on_done(host)

    answers = pool.run_all(dict.fromkeys(hosts, command), done)
    return {host: answered(host, answer, partial(report.parse, host)) for host, answer in answers.items()}


def answered(host: str, answer: Completed | HostError, read: Callable[[str], T]) -> T | HostError:
    """What `read` makes of a command's output; a command that failed, or output it can't read, is that host's error."""
    if isinstance(answer, HostError):
        return answer
    if answer.exit != 0:
        said = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        return HostError(host, "report", said[-1] if said else f"the command ended with {answer.exit}")
    try:
        return read(answer.stdout)
    except HostError as error:
        return error
