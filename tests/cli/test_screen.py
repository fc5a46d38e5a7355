"""The screen on a real terminal: the work is drawn on it, and the answer goes where stdout goes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

LONG = "a line that is longer than the eighty columns of a terminal, as lines of a plan may be, and is not folded"
SHOW = f"""
from meshctl.screen import Screen
screen = Screen()
screen.phase("observe", ("a", "b"))
screen.step("a", "observe", "ok")
screen.data([(("add", "+ "), ("", {LONG!r}))])
screen.phase("probe", ("a", "b"))
screen.say("talk")
"""


def _on_a_terminal(program: str) -> tuple[bytes, bytes]:
    """What the program writes on a pipe as stdout, and on a terminal as stderr."""
    controller, terminal = pty.openpty()
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        )
        os.close(terminal)
        data, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        return data, _drained(controller)
    finally:
        os.close(controller)


def _drained(controller: int) -> bytes:
    talk = b""
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return talk
        if not piece:
            return talk
        talk += piece


def test_a_redirected_answer_is_whole_and_nowhere_else() -> None:
    data, talk = _on_a_terminal(SHOW)
    assert data.decode() == f"+ {LONG}\n"
    assert b"observe 0/2" in talk
    assert b"longer" not in talk
    assert b"talk\r\n" in talk
