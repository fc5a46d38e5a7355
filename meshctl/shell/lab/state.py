"""What a lab leaves on this machine: /run/meshctl-lab/NAME, plain files and no mount, and who may write there.

    lock      held (flock(2)) by `up` and then by the keeper, as long as either lives: "a lab is up"
    keeper    pid and start time of the keeper; when that process ends, the kernel ends everything in the lab
    wish.json what was asked for, so that hosts can be added
    growing   held while somebody adds hosts
    lab.json  docs/reference/contracts.md §9; written last, so a lab that has one is complete
    id_ed25519, id_ed25519.pub, known_hosts   the operator's key and the hosts' keys, of this lab alone
    ns/       links to the namespaces, for people with nsenter(1)
    log       what the keeper had to say

What it does not do: look into namespaces, or end processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshctl.shell.lab.kernel import Process
from meshctl.shell.lab.wish import Wish

HOME = Path("/run/meshctl-lab")


@dataclass(frozen=True, slots=True)
class StateDir:
    """The directory of one lab."""

    name: str

    @property
    def path(self) -> Path:
        return HOME / self.name

    @property
    def identity(self) -> Path:
        return self.path / "id_ed25519"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def ns(self) -> Path:
        return self.path / "ns"

    @property
    def mount_point(self) -> Path:
        return self.path / "mnt"

    def take(self) -> int | None:
        """Make the directory and take its lock: a descriptor to hold, or None when another has it."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _locked(fd) and self._is_current(fd):
            return fd
        os.close(fd)
        return None

    def held(self) -> bool:
        """Someone has the lock."""
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _locked(fd)
        finally:
            os.close(fd)

    def empty(self) -> None:
        """Take out what an earlier lab of this name has left, but the lock."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def remove(self) -> None:
        """Call it with the lock held. The directory of all labs goes with the last one."""
        shutil.rmtree(self.path)
        try:
            HOME.rmdir()
        except OSError:
            return  # another lab is in it

    def write_keeper(self, keeper: Process) -> None:
        self._write("keeper", f"{keeper.pid} {keeper.start}\n")

    def keeper(self) -> Process | None:
        try:
            pid, start = (self.path / "keeper").read_text(encoding="ascii").split()
        except FileNotFoundError:
            return None
        return Process(int(pid), int(start))

    def write_record(self, record: Mapping[str, Any]) -> None:
        self._write("lab.json", json.dumps(record, indent=1) + "\n")

    def record(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((self.path / "lab.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record

    def write_wish(self, wish: Wish) -> None:
        self._write("wish.json", json.dumps(wish.to_json(), indent=1) + "\n")

    def wish(self) -> Wish | None:
        try:
            return Wish.from_json(json.loads((self.path / "wish.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def growing(self) -> Iterator[None]:
        """One at a time adds hosts. FileNotFoundError when the lab goes at this moment."""
        fd = os.open(self.path / "growing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def write_known_hosts(self, text: str) -> None:
        self._write("known_hosts", text)

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        temporary.rename(self.path / name)

    def _is_current(self, fd: int) -> bool:
        """False when `remove` took the file away between our open and our lock."""
        try:
            return os.path.samestat(os.fstat(fd), (self.path / "lock").stat())
        except FileNotFoundError:
            return False


def names() -> list[str]:
    """The labs that have a directory."""
    return sorted(path.name for path in HOME.iterdir()) if HOME.is_dir() else []


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
