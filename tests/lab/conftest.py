"""Labs for the tests: real ones, so they need root on Linux and say so."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshctl.shell import lab
from meshctl.shell.lab import LabHost

from .bench import Bench


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform.startswith("linux") and os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root") and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="a lab needs root on Linux"))


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A lab that is taken down whatever happened to it."""
    bench = Bench(f"test-{os.getpid()}")
    try:
        yield bench
    finally:
        lab.down(bench.name)


@pytest.fixture(scope="module")
def three() -> Iterator[Bench]:
    """a: root. b: admin, with sudo. c: behind a NAT box, with a site network."""
    bench = Bench(f"three-{os.getpid()}")
    hosts = (
        LabHost("a", names=("a.example.com",)),
        LabHost("b", user="admin", names=("198.51.100.77",)),
        LabHost("c", behind="home", lan=("192.168.20.0/24",)),
    )
    try:
        yield bench.up(*hosts)
    finally:
        lab.down(bench.name)
