"""Root on a host by sudo: the command line, and the conversation when sudo wants a password.

Strategy: the root shell prints a mark before it does anything, so "sudo refused" and "the command failed" can't be
taken for each other. The prompt is a mark too, and the password is sent when it shows and never otherwise: sudo doesn't
ask a user with a valid ticket, and a password sent unasked would be read by the program that runs next.
"""

from __future__ import annotations

import secrets
import shlex

from meshctl.core.errors import HostError
from meshctl.shell.completed import Completed


class Sudo:
    """One command run as root. Make a new one for each command: the marks are used once."""

    def __init__(self, host: str, command: str, password: bytes | None = None) -> None:
        token = secrets.token_hex(8)
        self._host = host
        self._password = password
        self._sent = False
        self._prompt = f"meshctl-password-{token}:"
        self._mark = f"meshctl-root-{token}"
        self.passed = False
        asking = ["-n"] if password is None else ["-S", "-p", self._prompt]
        inner = f"echo {self._mark} >&2; {command}"
        self.command = f"LC_ALL=C {shlex.join(['sudo', '-H', *asking, '--', 'sh', '-c', inner])}"

    @property
    def waits(self) -> bool:
        """Whether standard input must be held back until the root shell is there."""
        return self._password is not None and not self.passed

    def answer(self, stderr: bytes, stdin: bytes) -> bytes:
        """What to send next, given all of stderr so far. Raises HostError when sudo asks a second time."""
        if self._mark.encode() in stderr:
            self.passed = True
            return stdin
        asked = stderr.count(self._prompt.encode())
        if asked > 1:
            raise HostError(self._host, "no-sudo", "sudo does not take this password", "try again with -K")
        if asked == 1 and not self._sent and self._password is not None:
            self._sent = True
            return self._password + b"\n"
        return b""

    def finish(self, completed: Completed) -> Completed:
        """The command's own answer without our marks. Raises HostError when there never was a root shell."""
        stderr = completed.stderr.replace(self._prompt, "")
        if self._mark in stderr:
            return Completed(completed.exit, completed.stdout, stderr.replace(f"{self._mark}\n", "", 1))
        said = [line.strip() for line in stderr.splitlines() if line.strip()]
        why = said[-1].removeprefix("sudo: ") if said else "no reason given"
        if "not found" in why:
            raise HostError(
                self._host, "no-sudo", "the user is not root and there is no sudo", "connect as root, or install sudo"
            )
        hint = "give the password with -K, or allow this user sudo without one"
        if "tty" in why:  # sudoers(5), requiretty: we have no terminal there, and a password needs none
            hint = "take requiretty out of the sudoers there, or add a line: Defaults:USER !requiretty"
        raise HostError(self._host, "no-sudo", f"sudo refuses: {why}", hint)
