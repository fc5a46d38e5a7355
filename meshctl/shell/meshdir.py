"""The folder of a mesh: mesh.yaml, mesh.lock and mesh.keys beside it, and the run lock.

Strategy: a file is written whole or not at all (temporary file beside it, fsync, rename, fsync of the folder). A file
of another name has a lock and keys of its own name: prod.yaml, prod.lock, prod.keys. The run lock is an flock on a
file that says who holds it; the kernel frees it however the holder ends.

What it does not do: understand any of the files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from meshctl.core.errors import Failed, Invalid, Problem, Where

DEFAULT = Path("mesh.yaml")


@dataclass(frozen=True, slots=True)
class MeshDir:
    """The paths of one mesh. `yaml` is kept as the user wrote it, for messages; `aside` is the folder of a lock and
    keys that aren't the mesh's own, but a rehearsal's.
    """

    yaml: Path
    aside: Path | None = None

    @property
    def lock(self) -> Path:
        return self._state(".lock")

    @property
    def keys(self) -> Path:
        return self._state(".keys")

    @property
    def run_lock(self) -> Path:
        return self.yaml.with_name(f".{self.yaml.stem}.run")

    def _state(self, suffix: str) -> Path:
        beside = self.yaml.with_suffix(suffix)
        return beside if self.aside is None else self.aside / beside.name


def new(path: Path) -> MeshDir:
    """The mesh that this file is to begin. Failed when it is there, Invalid when it can't be called so."""
    _not_of_ours(path)
    if path.exists():
        raise Failed(f"{path} is there already", "edit it, or name another with --file", "exists")
    return MeshDir(path)


def find(path: Path | None, *, takes_limit: bool = False) -> MeshDir:
    """The mesh of this file, or of ./mesh.yaml; a folder means the mesh.yaml in it. Invalid when there is none."""
    chosen = path or DEFAULT
    if chosen.is_dir():
        chosen = chosen / DEFAULT
    _not_of_ours(chosen)
    if not chosen.is_file():
        where, hint = Where(str(chosen)), "make one with meshctl init, or name the file"
        if takes_limit and path is not None and path.name == str(path) and not path.suffix and DEFAULT.is_file():
            hint = f"leave it out for {DEFAULT}; for a host alone: --limit {path}"
        raise Invalid([Problem("there is no such file", where, hint, "missing")])
    return MeshDir(chosen)


def _not_of_ours(path: Path) -> None:
    """A mesh file called mesh.lock would be its own lock, and be written over by it."""
    if path.suffix in (".lock", ".keys"):
        hint = f"name the mesh's own file: {path.with_suffix('.yaml')}"
        raise Invalid([Problem(f"a file called {path.suffix} is written by meshctl", Where(str(path)), hint, "name")])


def write(path: Path, text: str | bytes, *, mode: int = 0o644) -> None:
    """Replace a file atomically and durably; nobody ever sees half of it. Failed when the folder doesn't let us.

    A symbolic link stays one: what it leads to is replaced, so that keys kept elsewhere stay there.
    """
    data = text.encode() if isinstance(text, str) else text
    temporary = None
    try:
        path = path.resolve() if path.is_symlink() else path
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise Failed(f"can't write {path}: {why}", "look at the folder's permissions and free space") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def copy(source: MeshDir, into: MeshDir) -> None:
    """The lock and the keys, as they are, into another place; a copy that is there stays."""
    if into.aside is not None:
        into.aside.mkdir(mode=0o700, exist_ok=True)
    for old, new, mode in ((source.keys, into.keys, 0o600), (source.lock, into.lock, 0o644)):
        if not new.exists():
            write(new, old.read_bytes(), mode=mode)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def run_lock(mesh: MeshDir) -> Iterator[None]:
    """Hold the run lock. Failed, saying who holds it, when another run does."""
    handle = _locked(mesh.run_lock)
    try:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # who holds it is only told; a full disk is said by what must be written
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(holder).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            mesh.run_lock.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int:
    """An open, locked descriptor of the file that `path` names (not of one that its holder has just removed)."""
    while True:
        try:
            handle = _opened(path)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Failed(f"can't make the run lock {path}: {why}", "meshctl writes beside mesh.yaml") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(handle, path):
                return handle
        except BlockingIOError:
            said = os.read(handle, 4096)
            os.close(handle)
            raise Failed(
                f"another run holds the run lock: {_holder(said)}",
                "wait until it has ended, then run this again",
                "run-lock",
            ) from None
        os.close(handle)


def _opened(path: Path) -> int:
    """The file, made if need be. One that another user's run has made is read: that is enough to lock it by."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError:
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        raise


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(said: bytes) -> str:
    try:
        holder = json.loads(said)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has just begun"
