"""Bundles in a folder: DIR/HOST/{NAME.conf, hosts, manifest.json}, as the roles and air-gapped hosts want them.

Folders are 0700 and files 0600, made so from the start: a bundle holds a private key.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshctl.core.bundle import Bundle
from meshctl.core.errors import Failed

_PREFIX = "meshctl-run-"
_YOUNG = 60.0  # seconds
_LONGEST = 50  # bytes: Ansible's socket and ssh's suffix to it take another 50


def write(folder: Path, bundles: Iterable[Bundle]) -> None:
    """Write each bundle below `folder`. Failed when the disk or the permissions don't let us."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for bundle in bundles:
            own = folder / bundle.host
            own.mkdir(mode=0o700, exist_ok=True)
            own.chmod(0o700)
            for name, text in bundle.files().items():
                (own / name).unlink(missing_ok=True)
                handle = os.open(own / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(text.reveal().encode())
    except OSError as error:
        raise Failed(
            f"can't write {folder}: {(error.strerror or str(error)).lower()}", "choose another folder"
        ) from error


@contextmanager
def private_folder() -> Iterator[tuple[Path, int]]:
    """A 0700 folder that ends with the block; in memory where the system has such a place, so no key meets a disk.

    The descriptor says that somebody is at work in it: whoever else is must inherit it. A folder that a killed run has
    left, keys and all, goes with the next run on this machine.
    """
    place = _place() or Path(tempfile.gettempdir())
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    at_work = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(at_work, fcntl.LOCK_SH)
        yield folder, at_work
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(at_work)


def _sweep(place: Path) -> None:
    """Folders of ours that nobody is at work in, but none so young that its maker may not have said so yet."""
    for left in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            seen = left.lstat()
            if seen.st_uid != os.getuid() or not stat.S_ISDIR(seen.st_mode) or time.time() - seen.st_mtime < _YOUNG:
                continue
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)


def _place() -> Path | None:
    """In memory if we can; with a short name, since paths of sockets in it end at 104 bytes (unix(7))."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [*([Path(runtime)] if runtime else []), Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108  mkdtemp makes it ours alone
    fit = (place for place in places if len(os.fsencode(place)) <= _LONGEST and place.is_dir())
    return next((place for place in fit if os.access(place, os.W_OK | os.X_OK)), None)
