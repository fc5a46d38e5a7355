"""The figures of the table: each takes a running pair and returns named numbers.

Units are in the names: gbit (10^9 bit/s), us, ms, mib (2^20 bytes), kpps, s_per_gb (CPU seconds per 10^9 bytes). CPU is
that of the daemons on all ends together.
"""

import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pair import Pair
from .peers import Daemon

GB = 1e9
# Linux's default, whatever this machine's is: what waits under load is the congestion control's doing.
CUBIC = ("-C", "cubic")
# A keepalive's ten seconds, five of waiting for its absence, and two for what is late; then how long is counted.
OWED_S, IDLE_S = 17, 10
MICE = Path(__file__).resolve().parent / "mice.py"
Values = dict[str, float]


@dataclass(frozen=True)
class Figure:
    """One measurement. `once`: not repeated (it is a size); `needs_daemon`: has no meaning on the bare veth, nor with
    silent peers of the daemon's own; `others`: ends beside end 0.
    """

    name: str
    take: Callable[[Pair, int], Values]
    needs_daemon: bool = False
    once: bool = False
    others: int = 1

    def is_for(self, daemon: Daemon) -> bool:
        """Whether it says anything of this one."""
        return not (self.needs_daemon and (daemon.is_bare or daemon.peers))


def _iperf(pair: Pair, seconds: int, *options: str) -> dict[str, Any]:
    return _iperfs(pair, [1], seconds, *options)[0]


def _iperfs(pair: Pair, ends: Sequence[int], seconds: int, *options: str) -> list[dict[str, Any]]:
    """From end 0 to each of `ends` at the same time (`-R`: the other way); what each says at its end."""
    servers = [pair.spawn(end, ["iperf3", "-s", "-1", "-p", "5999"]) for end in ends]
    for end in ends:
        _wait_listening(pair, 5999, end)
    command = ["iperf3", "-J", "-p", "5999", "-t", str(seconds), *options, "-c"]
    clients = [pair.spawn(0, [*command, pair.address(end)], stdout=subprocess.PIPE) for end in ends]
    results = [json.loads(client.communicate(timeout=seconds + 20)[0]) for client in clients]
    for end, result in zip(ends, results, strict=True):
        if "error" in result:
            raise RuntimeError(f"iperf3 to end {end}: {result['error']}")
    for server in servers:
        server.wait(5)
    return [result["end"] for result in results]


def _wait_listening(pair: Pair, port: int, end: int = 1, kind: str = "t") -> None:
    deadline = time.monotonic() + 5
    while f":{port}" not in pair.run(end, ["ss", f"-Hln{kind}"]).stdout:
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens at port {port}")
        time.sleep(0.01)


def _tcp(name: str, *options: str) -> Callable[[Pair, int], Values]:
    def take(pair: Pair, seconds: int) -> Values:
        before = pair.usage()
        received = _iperf(pair, seconds, *CUBIC, *options)["sum_received"]
        after = pair.usage()
        volume = received["bytes"] / GB
        values = {
            f"{name}_gbit": volume * 8 / float(received["seconds"]),
            f"{name}_machine_s_per_gb": (after.machine - before.machine) / volume,
        }
        if pair.processes:
            values[f"{name}_cpu_s_per_gb"] = (after.cpu - before.cpu) / volume
            values[f"{name}_rss_mib"] = after.rss / 2 / 2**20
        return values

    return take


def _udp(size: int) -> Callable[[Pair, int], Values]:
    """Received packets. The receiver's buffer is large: a merged run of packets overflows the default one, and the
    figure would be that of the receiver.
    """

    def take(pair: Pair, seconds: int) -> Values:
        before = pair.usage()
        end = _iperf(pair, seconds, "-u", "-b", "0", "-l", str(size), "-w", "4M")
        after = pair.usage()
        got = end["sum_received"]
        packets = got["packets"] - got["lost_packets"]
        values = {f"udp{size}_kpps": packets / got["seconds"] / 1000}
        if pair.processes and packets:
            values[f"udp{size}_cpu_us"] = (after.cpu - before.cpu) * 1e6 / packets
        return values

    return take


def _pings(pair: Pair, count: int, interval: float) -> list[float]:
    shown = pair.run(0, ["ping", "-i", str(interval), "-c", str(count), "-W", "1", pair.far], check=False).stdout
    times = [float(t) * 1000 for t in re.findall(r"time=([\d.]+)", shown)]
    if not times:
        raise RuntimeError("no ping was answered")
    return times


def _ping_idle(pair: Pair, seconds: int) -> Values:
    times = _pings(pair, 1000 * seconds, 0.001)
    return {"ping_p50_us": statistics.median(times), "ping_p99_us": _p99(times)}


@contextmanager
def _elephant(pair: Pair, seconds: float, *options: str) -> Iterator[None]:
    """One TCP stream beside what is done within, which may take `seconds`; it has been under way for a moment."""
    server = pair.spawn(1, ["iperf3", "-s", "-1", "-p", "5998"])
    _wait_listening(pair, 5998)
    load = pair.spawn(0, ["iperf3", "-c", pair.far, "-p", "5998", "-t", str(math.ceil(seconds + 1)), *options])
    time.sleep(0.7)
    yield
    load.wait(seconds + 10)
    server.wait(5)


def _ping_loaded(name: str, *options: str) -> Callable[[Pair, int], Values]:
    def take(pair: Pair, seconds: int) -> Values:
        with _elephant(pair, seconds, *options):
            times = _pings(pair, 100 * seconds, 0.01)
        return {f"{name}_p50_us": statistics.median(times), f"{name}_p99_us": _p99(times)}

    return take


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def _mice(pair: Pair, seconds: int) -> Values:
    """A hundred flows that ask five times a second each, alone and then beside one TCP stream."""
    pair.spawn(1, [sys.executable, MICE, "answer", "5997"])
    _wait_listening(pair, 5997, kind="u")
    values = _ask(pair, "mice", seconds)
    with _elephant(pair, seconds + 1, *CUBIC):
        return values | _ask(pair, "mice_elephant", seconds)


def _ask(pair: Pair, name: str, seconds: int) -> Values:
    shown = pair.run(0, [sys.executable, MICE, "ask", pair.far, "5997", "100", "5", str(seconds)]).stdout
    said = json.loads(shown)
    times = said["us"]
    if not times:
        raise RuntimeError("no mouse was answered")
    return {
        f"{name}_p50_us": statistics.median(times),
        f"{name}_p99_us": _p99(times),
        f"{name}_lost_percent": (1 - len(times) / said["asked"]) * 100,
        f"{name}_own_cpu_us": said["cpu_us"] / said["asked"],
    }


def _hub(name: str, *options: str) -> Callable[[Pair, int], Values]:
    """One TCP flow to each peer of a hub, by the slowest flow's clock."""

    def take(pair: Pair, seconds: int) -> Values:
        before = pair.usage()
        received = [end["sum_received"] for end in _iperfs(pair, range(1, len(pair.ends)), seconds, *CUBIC, *options)]
        after = pair.usage()
        flows = sorted(float(r["bytes"]) * 8 / GB for r in received)
        values = {
            f"{name}_gbit": sum(flows) / max(float(r["seconds"]) for r in received),
            f"{name}_slowest_of_mean": flows[0] / statistics.mean(flows),
        }
        if pair.processes:
            values[f"{name}_cpu_s_per_gb"] = (after.cpu - before.cpu) / sum(flows) * 8
        return values

    return take


def _start(pair: Pair, _seconds: int) -> Values:
    return {"exec_to_handshake_ms": pair.handshake_ms, "idle_rss_mib": pair.usage().rss / 2 / 2**20}


def _many(pair: Pair, seconds: int) -> Values:
    """With 1000 peers on one end."""
    took = pair.configure_many(1000)
    pair.run(0, ["ping", "-c1", "-W2", pair.far])
    busy = _tcp("peers1000_tcp1")(pair, seconds)
    return {
        "peers1000_setconf_ms": took,
        "peers1000_rss_mib": pair.resident(0) / 2**20,
        "peers1000_tcp1_gbit": busy["peers1000_tcp1_gbit"],
    }


def _idle(pair: Pair, _seconds: int) -> Values:
    """With 1000 peers on both ends and a session between them, after all that a packet obliges to: a keepalive ten
    seconds after an answer came, if nothing was said since, and for five seconds more the watch for one that doesn't
    come (the WireGuard paper, 6.5; KEEPALIVE_TIMEOUT and REKEY_TIMEOUT). Next would be a session's end, minutes later.
    """
    for end, link in enumerate(pair.links):
        pair.configure_many(1000, end)
        # Else the kernel's own router solicitations come through the link now and then, and are counted.
        pair.run(end, ["sysctl", "-qw", f"net.ipv6.conf.{link}.disable_ipv6=1"])
    pair.run(0, ["ping", "-c1", "-W2", pair.far])
    time.sleep(OWED_S)
    before = pair.usage()
    time.sleep(IDLE_S)
    after = pair.usage()
    return {
        f"idle{IDLE_S}s_wakeups": float(after.switches - before.switches),
        "idle_cpu_percent": (after.cpu - before.cpu) / IDLE_S * 100,
    }


def _size(pair: Pair, _seconds: int) -> Values:
    assert pair.daemon.binary is not None
    return {"binary_mib": pair.daemon.binary.stat().st_size / 2**20}


ALL = {
    f.name: f
    for f in (
        Figure("tcp1", _tcp("tcp1")),
        Figure("tcp4", _tcp("tcp4", "-P", "4")),
        Figure("reverse", _tcp("reverse", "-R")),
        Figure("udp64", _udp(64)),
        Figure("udp1372", _udp(1372)),
        Figure("ping", _ping_idle),
        Figure("loaded", _ping_loaded("ping_loaded", *CUBIC)),
        Figure("loaded_bbr", _ping_loaded("ping_loaded_bbr", "-C", "bbr")),
        Figure("start", _start, needs_daemon=True),
        Figure("mice", _mice),
        Figure("hub8", _hub("hub8"), others=8),
        Figure("hub8_reverse", _hub("hub8_reverse", "-R"), others=8),
        Figure("many", _many, needs_daemon=True),
        Figure("idle", _idle, needs_daemon=True),
        Figure("size", _size, needs_daemon=True, once=True),
    )
}
