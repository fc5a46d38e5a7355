"""A way out on lab hosts: what the internet sees of a host, and of its users, whose traffic leaves by another host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshctl.shell import lab
from meshctl.shell.lab import LabHost

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

NAME = f"e{os.getpid()}"
BOB = 2001
MESH = f"""\
mesh: {NAME}
hosts:
  exit: {{ssh: root@exit.example.com, exit: true}}
  some: {{ssh: root@some.example.com, nat: true, route: {{users: {BOB}}}}}
  shut: {{ssh: root@shut.example.com, route: all, kill_switch: {{allow: tcp/22}}}}
"""
# Answers each datagram and each connection with the address it came from.
SERVER = """\
import selectors, socket
def open(kind):
    s = socket.socket(socket.AF_INET6, kind)
    s.bind(("::", 7000))
    return s
udp, tcp = open(socket.SOCK_DGRAM), open(socket.SOCK_STREAM)
tcp.listen()
events = selectors.DefaultSelector()
events.register(udp, selectors.EVENT_READ)
events.register(tcp, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in events.select():
        if key.fileobj is udp:
            _, sender = udp.recvfrom(100)
            udp.sendto(sender[0].encode(), sender)
        else:
            connection, sender = tcp.accept()
            with connection:
                connection.sendall(sender[0].encode())
"""
ASK = """\
import os, socket, sys
user, kind, address, patience = int(sys.argv[1]), *sys.argv[2:]
os.setgid(user)
os.setuid(user)
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(float(patience))
try:
    s.connect((address, 7000))
    if kind == "udp":
        s.send(b"who am I")
    print(s.recv(100).decode().removeprefix("::ffff:"))
except OSError as error:
    print("nothing:", error)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The mesh's hosts, and `net`, a server of the internet that knows nothing of it."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    hosts = [LabHost(n, names=(f"{n}.example.com",), behind="home" if n == "some" else None) for n in ("exit", "some")]
    lab.up(NAME, [*hosts, LabHost("shut", names=("shut.example.com",)), LabHost("net", names=("203.0.113.77",))])
    try:
        yield tmp_path
    finally:
        lab.down(NAME)


def says(host: str, script: str, *arguments: str) -> str:
    process = lab.start(NAME, host, ["sh", "-c", script, "sh", *arguments], stdout=subprocess.PIPE)
    return process.communicate(timeout=60)[0].decode().strip()


def seen(host: str, user: int, kind: str, address: str, patience: float = 5.0) -> str:
    """Which address `net` sees when this user asks it."""
    return says(host, 'python3 -c "$0" "$@"'.replace('"$0"', f"'{ASK}'"), str(user), kind, address, str(patience))


def meshctl(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "meshctl", *words, "--lab"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def addresses(host: str) -> dict[int, str]:
    """The addresses by which the internet knows a host, by IP version."""
    found = {}
    for version in (4, 6):
        line = says(host, f"ip -{version} -o addr show scope global | grep -v ' {NAME} ' | head -n 1")
        found[version] = line.split()[3].partition("/")[0] if line else ""
    return found


def test_what_the_internet_sees(folder: Path) -> None:
    out, net, own = addresses("exit"), addresses("net"), addresses("shut")
    box = lab.addresses(NAME)["some"].hostname
    server = lab.start(NAME, "net", ["python3", "-c", SERVER], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    before = says("exit", SYSCTLS)
    assert seen("shut", 0, "tcp", net[4]) == own[4]
    assert seen("some", BOB, "tcp", net[4]) == box

    meshctl(folder, "apply", "--yes")
    assert "nothing to do" in meshctl(folder, "apply", "--yes"), "SSH goes on, and so does everything else"
    for kind in ("tcp", "udp"):
        for version in (4, 6):
            assert seen("shut", 0, kind, net[version]) == out[version], (kind, version)
            assert seen("some", BOB, kind, net[version]) == out[version], (kind, version)
        assert seen("some", 0, kind, net[4]) == box, kind
        assert seen("exit", 0, kind, net[4]) == out[4], kind

    says("exit", f"meshd stop {NAME}")
    for host in ("shut", "some"):
        for version in (4, 6):
            assert seen(host, BOB, "udp", net[version], 1.0).startswith("nothing"), (host, version)
    assert seen("some", 0, "udp", net[4]) == box
    assert "stopped -> running" in meshctl(folder, "apply", "--yes")
    assert seen("shut", BOB, "tcp", net[4]) == out[4]

    (folder / "mesh.yaml").write_text(MESH.replace("route: all, kill_switch: {allow: tcp/22}", "note: by itself"))
    meshctl(folder, "apply", "--yes")
    assert seen("shut", 0, "tcp", net[4]) == own[4]
    assert seen("some", BOB, "tcp", net[4]) == out[4]

    meshctl(folder, "remove", "--yes")
    assert seen("some", BOB, "tcp", net[4]) == box
    assert says("exit", SYSCTLS) == before, "forwarding is as it was"
    assert "meshd" not in says("exit", "nft list tables")


SYSCTLS = "sysctl -a 2>/dev/null | grep -E '(forwarding|accept_ra) = ' | sort"
