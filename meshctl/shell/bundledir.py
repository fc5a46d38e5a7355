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
    memory = Path(os.environ.get("XDG_RUNTIME_DIR") or "/dev/shm")  # noqa: S108  mkdtemp makes it ours alone
    top = memory if os.access(memory, os.W_OK) and memory.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="meshctl-", dir=top))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
