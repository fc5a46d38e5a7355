"""A lab that is up takes hosts more: those that are there don't move, and all of it ends as one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from meshctl.core.errors import Failed
from meshctl.shell import lab
from meshctl.shell.lab import LabHost
from meshctl.shell.lab.state import StateDir

from .bench import Bench
from .test_life import gone, in_use, namespaces, processes, wait_for

pytestmark = pytest.mark.root

FIRST = (LabHost("b", names=("b.example.com",)), LabHost("c", behind="home"))
MORE = (
    LabHost("a", user="admin", names=("a.example.com",)),
    LabHost("d", behind="home", names=("d.example.com",)),
    LabHost("e", behind="office", lan=("192.168.9.0/24",)),
)
# Adds host b, and dies when it has been made and nobody has been told.
KILLED = """\
import os, sys
from meshctl.shell import lab
lab._publish = lambda *_: os.kill(os.getpid(), 9)
lab.up(sys.argv[1], [lab.LabHost("a"), lab.LabHost("b")])
"""


@pytest.mark.parametrize("latency_ms", [0.0, 5.0])
def test_hosts_are_added_to_a_lab_that_is_up(bench: Bench, latency_ms: float) -> None:
    before = dict(bench.up(*FIRST, latency_ms=latency_ms).hosts)
    bench.says("b", "echo 10.1.1.1 of-meshd >> /etc/hosts")
    after = bench.up(*MORE, *FIRST, latency_ms=latency_ms).hosts
    assert {name: after[name] for name in before} == before
    assert list(after) == ["a", "b", "c", "d", "e"]
    for host in after:
        assert bench.ssh(host, "hostname").stdout == f"{host}\n"
    bench.says("b", f"grep -q of-meshd /etc/hosts && ping -c1 -W2 a.example.com && ping -c1 -W2 {after['e'].hostname}")
    bench.says("c", "ping -c1 -W2 b.example.com")
    bench.says("e", "ping -c1 -W2 a.example.com && ping -c1 -W2 192.168.9.2")
    assert bench.ssh("a", "sudo -n id -u").stdout == "0\n"


def test_what_was_added_ends_with_the_lab(bench: Bench) -> None:
    bench.up(*FIRST)
    bench.up(*FIRST, *MORE)
    pids = processes(bench.name)
    made = namespaces(pids)
    assert len(made) >= 5 * 5
    assert lab.down(bench.name)
    assert wait_for(lambda: gone(pids))
    assert not in_use(made)
    assert not StateDir(bench.name).path.exists()


def test_up_of_what_is_up_changes_nothing(bench: Bench) -> None:
    first = dict(bench.up(*FIRST).hosts)
    pids = processes(bench.name)
    assert bench.up(*FIRST).hosts == first
    assert bench.up(FIRST[0]).hosts == first  # a host that left the file stays, for apply to clear it
    assert set(processes(bench.name)) <= set(pids)


def test_what_cannot_be_added_is_refused_and_the_lab_goes_on(bench: Bench) -> None:
    bench.up(LabHost("a", names=("203.0.113.9",)))
    for other, options in (
        ((LabHost("a", user="admin"),), {}),
        ((LabHost("a", names=("203.0.113.9",)),), {"loss": 0.5}),
    ):
        with pytest.raises(Failed, match="made otherwise") as raised:
            bench.up(*other, **options)
        assert raised.value.code == "lab-up"
    with pytest.raises(Failed, match="another host's"):
        bench.up(LabHost("a", names=("203.0.113.9",)), LabHost("b", names=("203.0.113.9",)))
    assert bench.ssh("a", "hostname").stdout == "a\n"
    assert list(lab.addresses(bench.name)) == ["a"]


def test_an_up_that_is_killed_while_it_adds_leaves_the_lab_as_it_was(bench: Bench) -> None:
    bench.up(LabHost("a"))
    before = set(processes(bench.name))
    subprocess.run([sys.executable, "-c", KILLED, bench.name], check=False)
    assert wait_for(lambda: set(processes(bench.name)) <= before)
    assert list(lab.addresses(bench.name)) == ["a"]
    bench.up(LabHost("a"), LabHost("b"))
    assert bench.ssh("b", "hostname").stdout == "b\n"
