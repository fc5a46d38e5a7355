"""Transcripts of everything that contacts nobody: each must end as its file says, to the letter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transcript import play

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts" / "offline").glob("*.txt"))


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=[path.stem for path in TRANSCRIPTS])
def test_offline(transcript: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE", raising=False)
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        play(transcript, tmp_path, PYTHON=sys.executable)
