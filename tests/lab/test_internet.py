"""The lab's internet as packets see it: NAT boxes, loss, site networks."""

from __future__ import annotations

import re
import subprocess
import time

import pytest

from meshctl.shell import lab
from meshctl.shell.lab import LabHost
from meshctl.shell.lab.state import StateDir

from .bench import Bench

pytestmark = pytest.mark.root

LISTEN = """\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[1])))
print("ready", flush=True)
s.settimeout(2)
data, sender = s.recvfrom(100)
print(*sender, flush=True)
s.sendto(b"answer", sender)
"""
SEND = """\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[3])))
s.settimeout(1)
for to in sys.argv[1].split(","):
    s.sendto(b"question", (to, int(sys.argv[2])))
try:
    print(s.recvfrom(100)[0].decode())
except TimeoutError:
    print("nothing")
"""


def listen(bench: Bench, host: str, port: int) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    process = lab.start(bench.name, host, ["python3", "-c", LISTEN, str(port)], stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def heard(process: subprocess.Popen[bytes]) -> tuple[str, int] | None:
    """Who sent the first packet, or None."""
    out, _ = process.communicate(timeout=20)
    address, _, port = out.decode().strip().partition(" ")
    return (address, int(port)) if port else None


def send(bench: Bench, host: str, to: str, port: int, source: int = 51820) -> str:
    return bench.says(host, f"python3 -c '{SEND}' {to} {port} {source}")


def test_a_packet_from_behind_a_box_comes_from_the_box_and_is_answered(three: Bench) -> None:
    listener = listen(three, "a", 7000)
    assert send(three, "c", three.hosts["a"].hostname, 7000) == "answer"
    assert heard(listener) == (three.hosts["c"].hostname, 51820)


def test_nobody_reaches_a_host_behind_a_box_unasked(three: Bench) -> None:
    listener = listen(three, "c", 51820)
    assert send(three, "a", three.hosts["c"].hostname, 51820) == "nothing"
    assert heard(listener) is None


def test_a_box_lets_only_the_asked_one_answer(three: Bench) -> None:
    """c asks b; a, at the very port that c uses at the box, is not let in (address-dependent filtering, RFC 4787 5)."""
    listener = listen(three, "b", 7001)
    assert send(three, "c", three.hosts["b"].hostname, 7001, 51821) == "answer"
    assert heard(listener) == (three.hosts["c"].hostname, 51821)
    behind = listen(three, "c", 51821)
    assert send(three, "a", three.hosts["c"].hostname, 51821) == "nothing"
    assert heard(behind) is None


def test_the_ssh_port_of_a_box_is_open_for_the_controller_alone(three: Bench) -> None:
    c = three.hosts["c"]
    connect = f"python3 -c \"import socket; socket.create_connection(('{c.hostname}', {c.port}), 1)\""
    assert three.run("a", connect).returncode != 0
    assert three.ssh("c", "true").returncode == 0


def test_a_symmetric_box_shows_each_destination_another_port(bench: Bench) -> None:
    bench.up(LabHost("a"), LabHost("b"), LabHost("c", behind="c"), symmetric_nat=True)
    at_a, at_b = listen(bench, "a", 7000), listen(bench, "b", 7000)
    send(bench, "c", f"{bench.hosts['a'].hostname},{bench.hosts['b'].hostname}", 7000)
    seen_a, seen_b = heard(at_a), heard(at_b)
    assert seen_a is not None
    assert seen_b is not None
    assert seen_a[0] == seen_b[0] == bench.hosts["c"].hostname
    assert len({seen_a[1], seen_b[1], 51820}) == 3


def test_hosts_of_one_site_see_each_other_directly(bench: Bench) -> None:
    bench.up(LabHost("b", behind="home"), LabHost("c", behind="home"))
    inside = bench.says("c", "ip -o -4 addr show eth0 | awk '{print $4}' | cut -d/ -f1")
    bench.says("b", f"ping -c1 -W2 {inside}")
    assert bench.hosts["b"].hostname == bench.hosts["c"].hostname


def test_a_host_with_a_site_network_has_a_machine_in_it(three: Bench) -> None:
    three.says("c", "ping -c1 -W2 192.168.20.2")
    assert three.run("a", "ping -c1 -W1 192.168.20.2").returncode != 0


def pings_lost(bench: Bench, host: str, to: str, count: int) -> int:
    said = bench.run(host, f"ping -q -c {count} -i 0.002 -W 1 {to}").stdout.decode()
    found = re.search(r"(\d+) received", said)
    assert found, said
    return count - int(found[1])


def test_loss_is_as_declared(bench: Bench) -> None:
    """Each of a ping's two crossings loses 10 %: 19 % of 1500. Five standard deviations are 76."""
    bench.up(LabHost("a"), LabHost("b"), loss=0.1)
    assert abs(pings_lost(bench, "a", bench.hosts["b"].hostname, 1500) - 285) <= 76
    assert bench.ssh("a", "echo through").stdout == "through\n"


def test_loss_of_one_host_spares_the_others(bench: Bench) -> None:
    bench.up(LabHost("a"), LabHost("b"), LabHost("c", loss=0.3))
    assert pings_lost(bench, "a", bench.hosts["b"].hostname, 300) == 0
    assert pings_lost(bench, "a", bench.hosts["c"].hostname, 300) > 80


def round_trip_ms(bench: Bench, host: str, to: str) -> float:
    """The shortest of twenty."""
    found = re.search(r"rtt [^=]*= ([\d.]+)/", bench.says(host, f"ping -q -c 20 -i 0.02 -W 2 {to}"))
    assert found
    return float(found[1])


def test_latency_is_one_way_and_for_everyone(bench: Bench) -> None:
    bench.up(LabHost("a"), LabHost("b"), LabHost("c", behind="c"), latency_ms=15)
    for host, to in (
        ("a", bench.hosts["b"].hostname),
        ("c", bench.hosts["a"].hostname),
        ("a", bench.hosts["b"].address6),
    ):
        assert 30 <= round_trip_ms(bench, host, str(to)) < 45
    assert bench.ssh("c", "echo through").stdout == "through\n"


def test_what_crosses_a_slow_internet_arrives_whole_and_in_order(bench: Bench) -> None:
    bench.up(LabHost("a"), LabHost("b"), latency_ms=5)
    digest = "sha256sum | cut -d' ' -f1"
    sent = bench.says("b", f"head -c 50000000 /dev/urandom | tee /tmp/sent | {digest}")
    key = bench.hosts["b"].identity.read_bytes()
    assert bench.run("a", "umask 077; cat > /tmp/key", key).returncode == 0
    options = "-o StrictHostKeyChecking=no -o BatchMode=yes -i /tmp/key"
    fetch = f"ssh {options} {bench.hosts['b'].hostname} cat /tmp/sent | {digest}"
    assert bench.says("a", f"{fetch} 2>/dev/null") == sent


def test_the_namespaces_are_there_for_people_with_nsenter(three: Bench) -> None:
    for node in ("a", "b", "c", "c-lan0", "controller", "internet", "nat-home"):
        netns = StateDir(three.name).ns / node
        subprocess.run(["nsenter", f"--net={netns}", "true"], check=True)


def test_addresses_are_usable_at_once(bench: Bench) -> None:
    """No wait for duplicate address detection."""
    began = time.monotonic()
    bench.up(LabHost("a"), LabHost("b"))
    bench.says("a", f"ping -c1 -W1 {bench.hosts['b'].address6}")
    assert time.monotonic() - began < 10
