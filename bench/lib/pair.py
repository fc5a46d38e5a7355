"""The ends of a tunnel: namespaces, veths, daemons, configuration, measurement of processes.

End 0 has a veth, and in the tunnel a peer, for each other end: one other is a pair, eight make end 0 a hub. Everything
lives in namespaces of its own (names carry this process's id) and is taken down on exit. Peers are configured only
through `wg`, as a user of any of these daemons would.
"""

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .peers import Daemon

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
OLD_KERNEL = Path(__file__).resolve().parent / "old_kernel.py"


@dataclass(frozen=True)
class Usage:
    """CPU seconds (user + system) and resident bytes of all daemons together, and the machine's busy seconds."""

    cpu: float
    rss: int
    machine: float
    switches: int


@dataclass(frozen=True)
class Conditions:
    """What the ends do without: offloads on the veths, on the tunnel's links, and what an old kernel lacks."""

    plain: bool = False
    plain_tun: bool = False
    old_kernel: bool = False


class Pair:
    """`with Pair(daemon) as pair:` all ends up, first handshakes done (unless the daemon is the bare veth)."""

    def __init__(self, daemon: Daemon, without: Conditions = Conditions(), others: int = 1) -> None:
        self.daemon = daemon
        self.without = without
        self.ends = tuple(f"mb{os.getpid()}{letter}" for letter in "abcdefghi"[: others + 1])
        # The directory of the UAPI sockets is shared by all namespaces, so the interfaces have different names.
        self.links = self.ends
        self.processes: list[subprocess.Popen[bytes]] = []
        self.handshake_ms = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> "Pair":
        try:
            self._up()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(self, *_why: object) -> None:
        self._down()

    @property
    def far(self) -> str:
        """Address of end 1, as in `address`."""
        return self.address(1)

    def address(self, end: int) -> str:
        """Address of another end than 0, for 0: inside the tunnel, or on the veth where there is none."""
        return f"10.77.{end}.2" if self.daemon.is_bare else f"10.78.0.{end + 1}"

    def run(
        self, end: int, argv: Sequence[str | Path], *, check: bool = True, **kw: object
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside an end and returns it completed, output captured."""
        argv = ["ip", "netns", "exec", self.ends[end], *map(str, argv)]
        return subprocess.run(argv, capture_output=True, text=True, check=check)

    def spawn(
        self,
        end: int,
        argv: Sequence[str | Path],
        env: dict[str, str] | None = None,
        stdout: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Starts a command inside an end; it is ended with the pair."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.ends[end], *map(str, argv)],
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(_end, process)
        return process

    def usage(self) -> Usage:
        """A reading; two readings' difference is the work in between."""
        cpu, rss, switches = 0.0, 0, 0
        for process in self.processes:
            for stat in Path(f"/proc/{process.pid}/task").glob("*/status"):
                switches += sum(
                    int(v.split()[1]) for v in stat.read_text().splitlines() if v.startswith("voluntary_ctxt")
                )
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / TICKS
            rss += int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE
        busy = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        machine = (sum(map(int, busy[:3])) + sum(map(int, busy[5:8]))) / TICKS
        return Usage(cpu, rss, machine, switches)

    def resident(self, end: int) -> int:
        """Resident bytes of one end's daemon."""
        return int(Path(f"/proc/{self.processes[end].pid}/statm").read_text().split()[1]) * PAGE

    def configure_many(self, peers: int, end: int = 0) -> float:
        """`wg setconf` of an end with its real peers and `peers` silent others; the time it took in milliseconds."""
        # Who is forgotten and known again needs a handshake, and the other end heeds no more than fifty a second.
        time.sleep(0.05)
        file = self._dir / f"{end}.conf"
        file.write_text(file.read_text() + _silent(peers))
        start = time.monotonic()
        self._configure(end)
        return (time.monotonic() - start) * 1000

    def _configure(self, end: int) -> None:
        self.run(end, ["wg", "setconf", self.links[end], self._dir / f"{end}.conf"])

    def _up(self) -> None:
        self._dir = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="meshbench")))
        for end in self.ends:
            _ip("netns", "add", end)
            self._stack.callback(subprocess.run, ["ip", "netns", "del", end], check=False, capture_output=True)
            _ip("-n", end, "link", "set", "lo", "up")
        for other in range(1, len(self.ends)):
            self._veth(other)
        if not self.daemon.is_bare:
            self._tunnel()

    def _veth(self, other: int) -> None:
        """Between end 0, where it is called vN, and end N, where it is called v0."""
        near, far = (f"v{other}", self.ends[0]), ("v0", self.ends[other])
        name = "link add {} mtu 1500 netns {} type veth peer name {} mtu 1500 netns {}"
        _ip(*name.format(*near, *far).split())
        for host, (link, end) in enumerate((near, far), 1):
            _ip("-n", end, "addr", "add", f"10.77.{other}.{host}/24", "dev", link)
            _ip("-n", end, "link", "set", link, "up")
            if self.without.plain:
                _offloads_off(end, link)

    def _tunnel(self) -> None:
        private = [_wg("genkey") for _ in self.ends]
        public = [_wg("pubkey", key) for key in private]
        start = time.monotonic()
        for n, key in enumerate(private):
            conf = [f"[Interface]\nPrivateKey = {key}\nListenPort = {_port(n)}\n"]
            for other in [0] if n else range(1, len(self.ends)):
                endpoint = f"10.77.{n or other}.{1 if n else 2}:{_port(other)}"
                conf.append(_peer(public[other], f"10.78.0.{other + 1}") + f"Endpoint = {endpoint}\n")
            (self._dir / f"{n}.conf").write_text("".join(conf) + _silent(self.daemon.peers))
            self._launch(n)
        for n, (end, link) in enumerate(zip(self.ends, self.links, strict=True)):
            self._configure(n)
            _ip("-n", end, "addr", "add", f"10.78.0.{n + 1}/24", "dev", link)
            _ip("-n", end, "link", "set", link, "mtu", "1420", "up")
            if self.without.plain_tun:
                _offloads_off(end, link)
        self.run(0, ["ping", "-c1", "-W2", self.far])
        self.handshake_ms = (time.monotonic() - start) * 1000
        for other in range(2, len(self.ends)):
            self.run(0, ["ping", "-c1", "-W2", self.address(other)])

    def _launch(self, end: int) -> None:
        launcher: list[str | Path] = [sys.executable, OLD_KERNEL] if self.without.old_kernel else []
        process = self.spawn(end, [*launcher, *self.daemon.command, self.links[end]], self.daemon.env)
        self.processes.append(process)
        deadline = time.monotonic() + 5
        while self.run(end, ["wg", "show", self.links[end]], check=False).returncode:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{self.daemon.name} did not start")
            time.sleep(0.001)

    def _down(self) -> None:
        self._stack.close()


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True)


def _offloads_off(end: str, link: str) -> None:
    off = [word for feature in ("tso", "gso", "gro", "tx-udp-segmentation") for word in (feature, "off")]
    _ip("netns", "exec", end, "ethtool", "-K", link, *off)


def _wg(verb: str, given: str = "") -> str:
    return subprocess.run(["wg", verb], input=given, capture_output=True, text=True, check=True).stdout.strip()


def _port(end: int) -> int:
    return 51820 + end


def _peer(public: str, address: str) -> str:
    return f"[Peer]\nPublicKey = {public}\nAllowedIPs = {address}/32\n"


def _silent(peers: int) -> str:
    """Peers that never say anything. Any 32 bytes are a public key, so these belong to nobody."""
    keys = (base64.b64encode(hashlib.sha256(f"bench {n}".encode()).digest()).decode() for n in range(peers))
    return "".join(_peer(key, f"10.{100 + n // 65536}.{n // 256 % 256}.{n % 256}") for n, key in enumerate(keys))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
