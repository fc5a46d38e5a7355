"""The whole river on lab hosts: real SSH, real Ansible, the real daemon. Each transcript has a lab of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transcript import play

from meshctl.shell import lab
from meshctl.shell.lab import LabHost

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts" / "lab").glob("*.txt"))


def _host(name: str, **faults: Any) -> LabHost:
    return LabHost(name, names=(f"{name}.example.com",), **faults)


# Hosts with faults that a mesh file has no words for; the other transcripts make their labs by themselves.
FAULTY = {
    "faults-of-hosts": (
        _host("good"),
        _host("also"),
        _host("no-sudo", user="admin", sudo=False),
        _host("no-tun", tun=False),
        _host("full", disk_mib=2),
    ),
    "sudo-password": (_host("a", user="admin", sudo_password="open sesame"), _host("b")),
}


@pytest.fixture
def name() -> Iterator[str]:
    made = f"t{os.getpid()}"
    yield made
    lab.down(made)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=[path.stem for path in TRANSCRIPTS])
def test_river(transcript: Path, tmp_path: Path, name: str) -> None:
    if transcript.stem in FAULTY:
        lab.up(name, FAULTY[transcript.stem])
    play(transcript, tmp_path, NAME=name)
