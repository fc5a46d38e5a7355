"""The figures of the table: each takes a running pair and returns named numbers.

Units are in the names: gbit (10^9 bit/s), us, ms, mib (2^20 bytes), kpps, s_per_gb (CPU seconds per 10^9 bytes).
"""

import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .pair import Pair

GB = 1e9
# Linux's default, whatever this machine's is: what waits under load is the congestion control's doing.
CUBIC = ("-C", "cubic")
Values = dict[str, float]


@dataclass(frozen=True)
class Figure:
    """One measurement. `once`: not repeated (it is a size); `needs_daemon`: has no meaning on the bare veth."""

    name: str
    take: Callable[[Pair, int], Values]
    needs_daemon: bool = False
    once: bool = False


def _iperf(pair: Pair, seconds: int, *options: str) -> dict[str, Any]:
    server = pair.spawn(1, ["iperf3", "-s", "-1", "-p", "5999"])
    _wait_listening(pair, 5999)
    done = pair.run(0, ["iperf3", "-J", "-c", pair.far, "-p", "5999", "-t", str(seconds), *options])
    server.wait(5)
    return json.loads(done.stdout)["end"]


def _wait_listening(pair: Pair, port: int) -> None:
    deadline = time.monotonic() + 5
    while f":{port}" not in pair.run(1, ["ss", "-Hltn"]).stdout:
        if time.monotonic() > deadline:
            raise RuntimeError("iperf3 does not listen")
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
    times = sorted(float(t) * 1000 for t in re.findall(r"time=([\d.]+)", shown))
    if not times:
        raise RuntimeError("no ping was answered")
    return times


def _ping_idle(pair: Pair, seconds: int) -> Values:
    times = _pings(pair, 1000 * seconds, 0.001)
    return {"ping_p50_us": statistics.median(times), "ping_p99_us": times[int(len(times) * 0.99)]}


def _ping_loaded(name: str, *options: str) -> Callable[[Pair, int], Values]:
    def take(pair: Pair, seconds: int) -> Values:
        server = pair.spawn(1, ["iperf3", "-s", "-1", "-p", "5998"])
        _wait_listening(pair, 5998)
        load = pair.spawn(0, ["iperf3", "-c", pair.far, "-p", "5998", "-t", str(seconds + 1), *options])
        time.sleep(0.7)
        times = _pings(pair, 100 * seconds, 0.01)
        load.wait(seconds + 5)
        server.wait(5)
        return {f"{name}_p50_us": statistics.median(times), f"{name}_p99_us": times[int(len(times) * 0.99)]}

    return take


def _start(pair: Pair, _seconds: int) -> Values:
    return {"exec_to_handshake_ms": pair.handshake_ms, "idle_rss_mib": pair.usage().rss / 2 / 2**20}


def _many(pair: Pair, seconds: int) -> Values:
    """With 1000 peers. Idle: at most eight seconds, since ten after the ping the protocol's own timers look once."""
    took = pair.configure_many(1000)
    for end, link in enumerate(pair.links):
        # Else the kernel's own router solicitations come through the link now and then, and are counted.
        pair.run(end, ["sysctl", "-qw", f"net.ipv6.conf.{link}.disable_ipv6=1"])
    pair.run(0, ["ping", "-c1", "-W2", pair.far])
    time.sleep(1)
    before = pair.usage()
    idle = min(3 * seconds, 8)
    time.sleep(idle)
    after = pair.usage()
    busy = _tcp("peers1000_tcp1")(pair, seconds)
    return {
        "peers1000_setconf_ms": took,
        "peers1000_idle_wakeups": float(after.switches - before.switches),
        "peers1000_idle_cpu_percent": (after.cpu - before.cpu) / idle * 100,
        "peers1000_rss_mib": pair.resident(0) / 2**20,
        "peers1000_tcp1_gbit": busy["peers1000_tcp1_gbit"],
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
        Figure("many", _many, needs_daemon=True),
        Figure("size", _size, needs_daemon=True, once=True),
    )
}
