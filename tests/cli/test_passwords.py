"""Passwords typed at a terminal: -K and --ask-vault-pass ask for them, and nobody who looks on reads them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from meshctl.shell import keyring, lab
from meshctl.shell.lab import LabHost

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

NAME = f"k{os.getpid()}"
SUDO, VAULT = "open sesame", "correct horse"
WITHIN = 300.0  # seconds


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mesh.yaml").write_text(f"mesh: {NAME}\nhosts:\n  a: admin@a.example.com\n")
    lab.up(NAME, (LabHost("a", user="admin", sudo_password=SUDO, names=("a.example.com",)),))
    try:
        yield tmp_path
    finally:
        lab.down(NAME)


def typed(folder: Path, words: Sequence[str], answers: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """meshctl at a terminal: its exit status and all that the terminal showed. Each answer waits for its question."""
    controller, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "meshctl", *words],
        cwd=folder,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(terminal)
    shown, seen, waiting, end = b"", 0, list(answers), time.monotonic() + WITHIN
    try:
        while time.monotonic() < end:
            if not select.select([controller], [], [], 1.0)[0]:
                continue
            try:
                piece = os.read(controller, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                break
            shown += piece
            if waiting and waiting[0][0].encode() in shown[seen:]:
                seen = len(shown)
                os.write(controller, waiting.pop(0)[1].encode() + b"\n")
        else:
            child.kill()
        return child.wait(), shown.decode(errors="replace")
    finally:
        os.close(controller)


def test_both_passwords_are_asked_for_and_not_shown(folder: Path) -> None:
    answers = [("BECOME password: ", SUDO), ("Vault password: ", VAULT), ("apply this? [y/N] ", "y")]
    status, shown = typed(folder, ["apply", "--lab", "-K", "--ask-vault-pass"], answers)
    assert status == 0, shown
    assert "+ a  created" in shown
    assert (SUDO in shown, VAULT in shown) == (False, False)
    assert keyring.is_encrypted(folder / "mesh.keys")
    assert keyring.read(folder / "mesh.keys", keyring.Secret(VAULT.encode())) is not None

    # the next run asks for each where it is needed, and says which one was wrong
    status, shown = typed(folder, ["plan", "--lab", "-K", "-J"], [answers[0], ("Vault password: ", "wrong")])
    assert (status, "the vault password does not open it" in shown) == (3, True), shown
    status, shown = typed(folder, ["status", "--lab", "-K"], [("BECOME password: ", "wrong")])
    assert (status, "sudo does not take this password" in shown) == (4, True), shown
    status, shown = typed(folder, ["status", "--lab", "-K"], [answers[0]])
    assert (status, SUDO in shown) == (0, False), shown
