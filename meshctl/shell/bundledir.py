"""Bundles in a folder: DIR/HOST/{NAME.conf, hosts, manifest.json}, as the roles and air-gapped hosts want them.

Folders are 0700 and files 0600, made so from the start: a bundle holds a private key.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshctl.core.bundle import Bundle
from meshctl.core.errors import Failed

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
def private_folder() -> Iterator[Path]:
    """A 0700 folder that ends with the block; in memory where the system has such a place, so no key meets a disk."""
    folder = Path(tempfile.mkdtemp(prefix="meshctl-", dir=_place()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place() -> Path | None:
    """In memory if we can; with a short name, since paths of sockets in it end at 104 bytes (unix(7))."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [*([Path(runtime)] if runtime else []), Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108  mkdtemp makes it ours alone
    fit = (place for place in places if len(os.fsencode(place)) <= _LONGEST and place.is_dir())
    return next((place for place in fit if os.access(place, os.W_OK | os.X_OK)), None)
