"""Faults of one host: a code, what is wrong, and a hint that can be typed (docs/reference/contracts.md §7).

Everything that can go wrong on a host becomes a Fault here, whether a script said it, meshd said it or Ansible raised
it. It decides nothing: callers turn a Fault into a failed task.
"""

from __future__ import annotations

import re

HINTS = {
    "no-root": "log in as root, or as a user that may use sudo, and set become: true",
    "no-sudo": "check the sudo password (--ask-become-pass) and that this user may use sudo",
    "no-tun": "load the module with `modprobe tun`, or give the container /dev/net/tun",
    "arch": "build meshd for it and put it into roles/daemon/files/bin/ARCH/",
    "disk-full": "free some space on the host and run this again",
    "port-taken": "free the port, or choose another with `port:`",
    "foreign-link": "rename or delete that link, or choose another name for the mesh",
    "bad-conf": "the bundle is not what `meshctl render` writes; render it again",
    "service": "read more with `journalctl -u meshd@NAME` or in /var/log/meshd-NAME.log on the host",
    "switch": "the host is back on its last confirmed configuration; run this again",
    "other": "put that right on the host and run this again",
}
NO_TTY = "take requiretty out of the sudoers there, or add a line: Defaults:USER !requiretty"


class Fault(Exception):
    """What is wrong with a host. `code` is a key of HINTS."""

    def __init__(self, code: str, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.hint = hint or HINTS[code]

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "what": self.what, "hint": self.hint}


def of_script(exit_code: int, stdout: str, stderr: str) -> Fault:
    """The fault of a script of ours: its `error CODE TEXT` line, else what the shell or sudo said on stderr."""
    for line in stdout.splitlines():
        verb, _, rest = line.partition(" ")
        code, _, text = rest.partition(" ")
        if verb == "error" and code in HINTS:
            return Fault(code, text)
    return _of_stderr(exit_code, stderr)


# `meshd: WHAT: WHY (HINT)`, contracts §3; a warning before it is not what failed
_MESHD = re.compile(r"^meshd: (?!warning: )(?P<what>.*?)(?: \((?P<hint>[^()]*)\))?$", re.MULTILINE)


def of_meshd(exit_code: int, stderr: str, otherwise: str) -> Fault:
    """The fault of a `meshd` command. Exit 3 is a bad configuration; else its sentence tells the causes apart."""
    said = _MESHD.search(stderr)
    if said is None:
        return _of_stderr(exit_code, stderr)
    what, hint = said["what"], said["hint"]
    if exit_code == 3:
        return Fault("bad-conf", what, hint)
    if "No space left" in what or "os error 28" in what:
        return Fault("disk-full", f"no space left for {what.partition(': ')[0]}")  # its own hint is for other causes
    if re.search(r"\bport\b", what):
        return Fault("port-taken", what, hint)
    if re.search(r"\bforeign\b|\bnot ours\b|\bnot meshd's\b", what):
        return Fault("foreign-link", what, hint)
    return Fault(otherwise, what, hint)


def of_become(message: str) -> Fault | None:
    """The fault behind a refused privilege escalation; None when the message is about something else."""
    if re.search(
        r"(missing|incorrect) sudo password|waiting for privilege escalation|a password is required", message, re.I
    ):
        return Fault("no-sudo", "sudo asks for a password that was not given or is wrong")
    if re.search(r"must have a tty", message, re.I):
        return Fault("no-sudo", "sudo there wants a terminal", NO_TTY)
    if re.search(r"not in the sudoers file|may not run sudo|not allowed to execute", message, re.I):
        return Fault("no-sudo", "this user may not use sudo")
    if re.search(r"sudo: (command )?not found|not found: sudo", message, re.I):
        return Fault("no-sudo", "sudo is not installed", "log in as root, or install sudo")
    return None


def _of_stderr(exit_code: int, stderr: str) -> Fault:
    if fault := of_become(stderr):
        return fault
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), f"exit {exit_code}").strip()
    if "No space left" in stderr or "quota exceeded" in stderr:
        return Fault("disk-full", "no space left on the host")
    if "tar: not found" in stderr or "tar: command not found" in stderr:
        return Fault("other", "the host has no tar", "install tar on the host")
    if "Permission denied" in stderr:
        return Fault("no-root", last)
    return Fault("other", last)
