"""Transcripts against a real sshd on loopback: trust, pins, refusals. Nothing is changed there: only plans are made."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sshd import Sshd, keygen, ssh_agent
from transcript import play

from meshctl.flow.trust import fingerprint

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts" / "ssh").glob("*.txt"))


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ssh-agent of the test's own: the key that opens the servers is found as a user's would be."""
    socket = tmp_path / "agent"
    with ssh_agent(socket):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield socket


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=[path.stem for path in TRANSCRIPTS])
def test_trust(
    transcript: Path,
    tmp_path: Path,
    agent: Path,
    start_sshd: Callable[..., Sshd],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_sshd()
    subprocess.run(["ssh-add", "-q", str(server.identity)], check=True)
    folder = tmp_path / "mesh"
    folder.mkdir()
    key = server.host_keys["ed25519"]
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        play(
            transcript,
            folder,
            PORT=str(server.port),
            KEY=key,
            FINGERPRINT=fingerprint(key),
            OTHER=keygen(tmp_path / "other"),
        )
