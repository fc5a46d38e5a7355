"""Fixtures of these tests."""

from __future__ import annotations

from sshd import start_sshd

__all__ = ["start_sshd"]
