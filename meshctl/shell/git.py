"""git, asked whether a file of ours would be carried away with the repository it lies in.

A machine without git, and a folder that is in no work tree (or in one that git doesn't trust), answer None: nothing is
said about what can't be known. Nothing is ever changed here.
"""

from __future__ import annotations

import subprocess
from enum import StrEnum
from pathlib import Path

_PATIENCE = 10.0  # seconds


class Kept(StrEnum):
    """How git sees a file: TRACKED is in the index, and so goes along with a commit; OPEN is one `git add .` away."""

    TRACKED = "tracked"
    OPEN = "open"
    IGNORED = "ignored"


def kept(path: Path) -> Kept | None:
    """How git sees this file, which may not be there yet; of a symbolic link, what it leads to."""
    real = path.resolve()
    if _git(real, "--literal-pathspecs", "ls-files", "--error-unmatch") == 0:
        return Kept.TRACKED
    return {0: Kept.IGNORED, 1: Kept.OPEN}.get(_git(real, "check-ignore", "--quiet"))


def _git(path: Path, *words: str) -> int:
    """The exit status: of check-ignore 0 ignored, 1 not, 128 no repository (git-check-ignore(1))."""
    command = ["git", "-C", str(path.parent), *words, "--", path.name]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 128
    return done.returncode
