"""Fixtures of these tests: the server on loopback is the one of tests/shell."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shell"))

from sshd import start_sshd

__all__ = ["start_sshd"]
