"""Rotate on lab hosts, seen from outside: what a numbered stream loses, and what is left by a run that is killed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshctl.core import lock as locks
from meshctl.core.lock import Lock
from meshctl.shell import keyring, lab, yamlfile

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

NAME = f"r{os.getpid()}"
MESH = f"""\
mesh: {NAME}
network: [10.20.0.0/24, "fd20::/64"]
hosts:
  a: root@a.example.com
  b: root@b.example.com
  c: {{ssh: root@c.example.com, nat: true}}
"""
MESHCTL = [sys.executable, "-m", "meshctl"]
RECEIVE = """\
import json, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
inbox = socket.socket(family, socket.SOCK_DGRAM)
inbox.bind((sys.argv[1], int(sys.argv[2])))
inbox.settimeout(20)
print("bound", flush=True)
seen = set()
while not (word := inbox.recv(64)).startswith(b"end"):
    seen.add(int(word))
print(json.dumps([int(word.split()[1]), len(seen)]), flush=True)
"""
# A number every 5 ms until standard input ends; then the sum, some times over.
SEND = """\
import select, socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
out = socket.socket(family, socket.SOCK_DGRAM)
sent = 0
while not select.select([sys.stdin], [], [], 0.005)[0]:
    out.sendto(str(sent).encode(), (sys.argv[1], int(sys.argv[2])))
    sent += 1
for _ in range(5):
    time.sleep(0.1)
    out.sendto(f"end {sent}".encode(), (sys.argv[1], int(sys.argv[2])))
"""
AT_THE_SECOND_PLAN = """
make_plan = safely.make_plan
def dies(session, files=None):
    if session.files.lock.rotation.stage == "move":
        os.kill(os.getpid(), 9)
    return make_plan(session, files)
safely.make_plan = dies
"""


class Stream:
    """Numbered datagrams from one host to an address of another."""

    def __init__(self, sender: str, receiver: str, address: str, port: int) -> None:
        pipe = subprocess.PIPE
        where = [address, str(port)]
        self._receiver = lab.start(NAME, receiver, ["python3", "-c", RECEIVE, *where], stdout=pipe)
        assert self._receiver.stdout is not None
        assert self._receiver.stdout.readline() == b"bound\n"
        self._sender = lab.start(NAME, sender, ["python3", "-c", SEND, *where], stdin=pipe)

    def end(self) -> tuple[int, int]:
        """How many were sent, and how many came."""
        self._sender.communicate(timeout=30)
        out, _ = self._receiver.communicate(timeout=30)
        sent, came = json.loads(out)
        return sent, came


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A mesh that was applied on three lab hosts, one of them behind NAT."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    try:
        meshctl(tmp_path, "lab", "up")
        meshctl(tmp_path, "apply", "--lab", "--yes")
        yield tmp_path
    finally:
        lab.down(NAME)


@contextmanager
def nothing_lost() -> Iterator[None]:
    streams = [
        Stream("a", "b", "10.20.0.2", 7001),
        Stream("b", "a", "fd20::1", 7002),
        Stream("a", "c", "fd20::3", 7003),
        Stream("c", "b", "10.20.0.2", 7004),
    ]
    try:
        yield
    finally:
        counts = [stream.end() for stream in streams]
    logging.getLogger(__name__).info("sent and received: %s", counts)
    assert all(sent == came and sent > 200 for sent, came in counts), counts


def test_keys_change_under_traffic_and_nothing_is_lost(folder: Path) -> None:
    before = {host: conf(host) for host in "abc"}
    with nothing_lost():
        done = meshctl(folder, "rotate", "--lab", "--yes", "--json")
    rotation, plan, first, second = (json.loads(line) for line in done.splitlines())
    assert (rotation["hosts"], rotation["psk_epoch"]) == (["a", "b", "c"], 2)
    assert plan["summary"]["change"] == 3
    assert (first["stage"], first["rotation"]) == ("announce", {"stage": "announce", "waits_for": []})
    assert (second["stage"], second["rotation"]) == ("move", None)
    changed(folder, before)


def test_a_run_that_is_killed_between_its_steps_is_gone_on_with(folder: Path) -> None:
    before = {host: conf(host) for host in "abc"}
    with nothing_lost():
        # when all hosts know the next keys, and have not been asked to take the old ones out
        killed(folder, "rotating.rotation.move = lambda *_: os.kill(os.getpid(), 9)")
        assert (lock_of_lab(folder).rotation, pending(folder)) == (
            locks.Rotation(locks.Stage.ANNOUNCE, 2, frozenset()),
            [],
        )
        said = meshctl(folder, "status", "--lab")
        assert "keys are being changed: every host knows the next ones\n" in said
        assert "hint: meshctl rotate --lab takes the old ones out\n" in said
        # when mesh.lock says that the old ones go, and no host has heard of it
        killed(folder, AT_THE_SECOND_PLAN)
        rotation = lock_of_lab(folder).rotation
        assert rotation == locks.Rotation(locks.Stage.MOVE, None, frozenset("abc"))
        assert len(pending(folder)) == 3
        done = meshctl(folder, "rotate", "--lab", "--yes")
    assert done.startswith("going on with a change of keys: the old ones go\n")
    assert "the keys are changed" in done
    changed(folder, before)


def changed(folder: Path, before: dict[str, dict[str, set[str]]]) -> None:
    """Every host has the keys of the lock and no other one, nobody has an old one, and there is nothing left to do."""
    lock = lock_of_lab(folder)
    assert (lock.rotation, lock.psk_epoch) == (None, 2)
    for host, was in before.items():
        now = conf(host)
        assert now.keys() == was.keys() == {"PrivateKey", "PublicKey", "PresharedKey"}
        assert all(now[word].isdisjoint(was[word]) for word in now)
        assert now["PublicKey"] == {str(h.public_key) for name, h in lock.hosts.items() if name != host}
    aside = lab.aside(NAME)
    ring = keyring.read(aside / "mesh.keys", None)
    assert ring is not None
    assert (ring.public(), ring.next_private) == (lock.public_keys(), {})
    assert pending(folder) == []
    assert "3 of 3 links alive" in meshctl(folder, "verify", "--lab")


def conf(host: str) -> dict[str, set[str]]:
    """The keys in a host's configuration."""
    shown = lab.start(NAME, host, ["cat", f"/etc/meshd/{NAME}.conf"], stdout=subprocess.PIPE).communicate(timeout=30)[0]
    found: dict[str, set[str]] = {}
    for line in shown.decode().splitlines():
        word, _, value = line.partition(" = ")
        if word.endswith("Key"):
            found.setdefault(word, set()).add(value)
    return found


def pending(folder: Path) -> list[str]:
    """The hosts that a plan would touch."""
    plan = json.loads(meshctl(folder, "plan", "--lab", "--json"))
    return [host["host"] for host in plan["hosts"] if host["action"] != "none"]


def lock_of_lab(folder: Path) -> Lock:
    path = lab.aside(NAME) / "mesh.lock"
    return locks.read(yamlfile.read(path, str(path)), str(path))


def meshctl(folder: Path, *words: str) -> str:
    done = subprocess.run([*MESHCTL, *words], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done
    return done.stdout


def killed(folder: Path, when: str) -> None:
    """`meshctl rotate`, and kill -9 when it gets there."""
    code = f"""
import os
from meshctl import cli
from meshctl.flow import rotating, safely
{when}
cli.main(["rotate", "--lab", "--yes"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done
