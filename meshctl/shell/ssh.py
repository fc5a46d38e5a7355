"""Pooled SSH connections to all hosts at once: one interface, whatever the road.

Strategy: one thread and one connection a host; paramiko where it can, the `ssh` command where it can't or stumbles.
The pins of the address are the only host keys accepted, and a host without a pin isn't contacted. Root by sudo where
the user isn't root: `sudo -n`, or with a password that is sent only when sudo asks for it. A fault is a returned
HostError.

What it does not do: retry, print, or know what the commands mean.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from meshctl.core.errors import HostError
from meshctl.shell.become import Sudo
from meshctl.shell.completed import Completed
from meshctl.shell.sshconfig import Road, unreachable

_log = logging.getLogger(__name__)
COMMAND_TIMEOUT = 120.0  # seconds
_MOST_AT_ONCE = 256  # threads; each costs a socket and a few hundred KiB
T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """A shell command line for one host, what it reads, and whether it needs root."""

    text: str
    stdin: bytes = b""
    root: bool = True
    timeout: float = COMMAND_TIMEOUT  # seconds


class Connection(Protocol):
    """What both roads offer."""

    @property
    def alive(self) -> bool: ...
    def run(self, command: str, stdin: bytes, timeout: float, sudo: Sudo | None = None) -> Completed: ...
    def close(self) -> None: ...


class Pool:
    """Connections by host name; a context manager, which closes them all at the end."""

    def __init__(self, addresses: Mapping[str, Road], *, become_password: bytes | None = None) -> None:
        self._addresses = dict(addresses)
        self._password = become_password
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, host: str, command: Command) -> Completed | HostError:
        """Run one command on one host, over the pooled connection or a new one."""
        address = self._addresses[host]
        try:
            connection = self._connect(host, address)
            if not command.root or address.user == "root":
                return connection.run(command.text, command.stdin, command.timeout)
            sudo = Sudo(host, command.text, self._password)
            return sudo.finish(connection.run(sudo.command, command.stdin, command.timeout, sudo))
        except HostError as error:
            return error
        except Exception as error:  # what a strange server makes the library stumble over is that host's fault alone
            return unreachable(host, address, f"{type(error).__name__}: {error}")

    def run_all(
        self, commands: Mapping[str, Command], on_done: Callable[[str, Completed | HostError], None] | None = None
    ) -> dict[str, Completed | HostError]:
        """Run a command on each host, all at once; `on_done` is called in this thread as each answer comes."""
        with self._closing_on_interrupt():
            return at_once(commands, lambda host: self.run(host, commands[host]), on_done)

    def fresh(self) -> Pool:
        """A pool for the same hosts without any of this one's connections, which end."""
        self.close()
        return Pool(self._addresses, become_password=self._password)

    def close(self) -> None:
        """End all connections; commands in flight come back as HostErrors."""
        with self._lock:
            self._closed = True
            connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            connection.close()

    @contextmanager
    def _closing_on_interrupt(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.close()
            raise

    def _connect(self, host: str, address: Road) -> Connection:
        with self._lock:
            held = self._connections.get(host)
        if held is not None and held.alive:
            return held
        if not address.host_keys:
            raise HostError(host, "host-key", "its SSH host key is not known yet", f"meshctl trust {host}")
        connection = _open(host, address)
        with self._lock:
            if not self._closed:
                self._connections[host] = connection
                return connection
        connection.close()
        raise HostError(host, "unreachable", "interrupted")


def at_once(
    hosts: Mapping[str, object], work: Callable[[str], T], on_done: Callable[[str, T], None] | None = None
) -> dict[str, T]:
    """Do the work for every host in threads of their own; the answers in the order of `hosts`.

    Daemon threads, so that Ctrl-C ends the program and not only its first thread. What `work` raises is raised here.
    """
    todo = queue.SimpleQueue[str]()
    done = queue.SimpleQueue[tuple[str, T | None, BaseException | None]]()
    for host in hosts:
        todo.put(host)

    def worker() -> None:
        while True:
            try:
                host = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((host, work(host), None))
            except BaseException as error:
                done.put((host, None, error))

    for _ in range(min(len(hosts), _MOST_AT_ONCE)):
        threading.Thread(target=worker, daemon=True).start()
    answers: dict[str, T] = {}
    for _ in hosts:
        host, answer, error = done.get()
        if error is not None:
            raise error
        answers[host] = answer  # type: ignore[assignment]  # None only beside an error
        if on_done is not None:
            on_done(host, answers[host])
    return {host: answers[host] for host in hosts}


def _open(host: str, address: Road) -> Connection:
    """paramiko first; the ssh command for what it can't do. Imported here: paramiko costs 0.2 s, help must not."""
    from meshctl.shell.sshcommand import CommandConnection  # noqa: PLC0415
    from meshctl.shell.sshparamiko import NotForParamiko, ParamikoConnection  # noqa: PLC0415

    if address.openssh_only:
        return CommandConnection(host, address)
    try:
        return ParamikoConnection(host, address)
    except HostError:
        raise
    except Exception as error:
        if not isinstance(error, NotForParamiko):
            _log.debug("%s: %s", host, error, exc_info=True)
        return CommandConnection(host, address)
