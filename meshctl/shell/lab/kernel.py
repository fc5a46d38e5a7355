"""The Linux calls a lab is made of: namespaces, mounts, processes held by a file descriptor.

Python 3.11 has no `unshare` and no `setns` (3.12 does), and none has `mount` or `pivot_root`, so these few go through
ctypes. Every call raises OSError with the kernel's errno. Nothing here knows what a lab is.

Sources: unshare(2), setns(2), mount(2), pivot_root(2), prctl(2), capabilities(7), proc(5), pidfd_open(2).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# <linux/sched.h>
NEW_MOUNTS = 0x00020000
NEW_UTS = 0x04000000
NEW_IPC = 0x08000000
NEW_PIDS = 0x20000000
NEW_NET = 0x40000000

# <linux/mount.h>
READ_ONLY = 0x1
NO_SUID = 0x2
NO_DEV = 0x4
NO_EXEC = 0x8
REMOUNT = 0x20
BIND = 0x1000
RECURSIVE = 0x4000
PRIVATE = 1 << 18
_DETACH = 0x2  # MNT_DETACH of umount2(2)

# <linux/prctl.h>, <linux/capability.h>
_CAPBSET_DROP = 24
CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME, CAP_MKNOD, CAP_SYSLOG = 16, 17, 22, 25, 27, 34

_SYS_PIVOT_ROOT = {
    "x86_64": 155,
    "aarch64": 41,
    "riscv64": 41,
    "armv7l": 218,
    "i686": 217,
    "ppc64le": 203,
    "s390x": 217,
}

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: object) -> None:
    if getattr(_libc, name)(*args) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _text(value: str | os.PathLike[str] | None) -> ctypes.c_char_p:
    return ctypes.c_char_p(None if value is None else os.fsencode(value))


def unshare(flags: int) -> None:
    """New namespaces for this thread; NEW_PIDS only for the children it makes from now on."""
    _call("unshare", ctypes.c_int(flags))


def setns(fd: int, flags: int) -> None:
    """Move this thread into the namespace of `fd`, or of the process whose pidfd that is (Linux 5.8)."""
    _call("setns", ctypes.c_int(fd), ctypes.c_int(flags))


def mount(
    source: str, target: str | os.PathLike[str], kind: str | None, flags: int = 0, options: str | None = None
) -> None:
    _call("mount", _text(source), _text(target), _text(kind), ctypes.c_ulong(flags), _text(options))


def bind(source: str | os.PathLike[str], target: str | os.PathLike[str], flags: int = 0) -> None:
    mount(os.fspath(source), target, None, BIND | flags)


def make_root(path: str | os.PathLike[str]) -> None:
    """Make the mount point `path` the root of this mount namespace and let go of the old one (pivot_root(2), NOTES)."""
    os.chdir(path)
    _call("syscall", ctypes.c_long(_SYS_PIVOT_ROOT[os.uname().machine]), b".", b".")
    _call("umount2", b".", ctypes.c_int(_DETACH))
    os.chdir("/")


def drop_from_bounding_set(capabilities: Sequence[int]) -> None:
    """What no program started from here on can have, root included."""
    zero = ctypes.c_ulong(0)
    for capability in capabilities:
        _call("prctl", ctypes.c_int(_CAPBSET_DROP), ctypes.c_ulong(capability), zero, zero, zero)


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """This thread is in the network namespace at the path `netns` for the length of the block."""
    there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(there, NEW_NET)
        try:
            yield
        finally:
            setns(home, NEW_NET)
    finally:
        os.close(home)
        os.close(there)


@dataclass(frozen=True, slots=True)
class Process:
    """One process for good: a pid alone may come to mean another one, a pid with its start time can't."""

    pid: int
    start: int  # clock ticks after boot (proc(5), /proc/PID/stat, field 22)

    @classmethod
    def of(cls, pid: int) -> Process:
        start = _start(pid)
        if start is None:
            raise ProcessLookupError(pid)
        return cls(pid, start)

    def alive(self) -> bool:
        return _start(self.pid) == self.start

    @contextmanager
    def held(self) -> Iterator[int | None]:
        """A pidfd of it, or None when it's gone."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Read after the descriptor is there: from now on the pid can't change its meaning.
            yield fd if self.alive() else None
        finally:
            os.close(fd)


def _start(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the program's name in parentheses, may hold anything.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def run_in_host(
    pidfd: int,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    dropped: Sequence[int],
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` in all namespaces of the process `pidfd`; a death by signal N is the exit status 128 + N."""

    def enter() -> None:
        setns(pidfd, NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NET)
        # Only a child is in the new pid namespace; the process in between hands its exit status on.
        child = os.fork()
        if child:
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            code = os.waitstatus_to_exitcode(_wait(child))
            os._exit(code if code >= 0 else 128 - code)
        os.chdir(env.get("HOME", "/"))
        drop_from_bounding_set(dropped)

    # Between fork and exec there are only system calls, so threads of ours elsewhere do no harm.
    return subprocess.Popen(
        argv,
        env=dict(env),
        preexec_fn=enter,  # noqa: PLW1509
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
    )


def _wait(child: int) -> int:
    while True:
        try:
            return os.waitpid(child, 0)[1]
        except KeyboardInterrupt:  # the child has had the same Ctrl-C from the terminal; it decides
            continue
