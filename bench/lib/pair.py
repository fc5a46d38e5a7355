"""Two ends of one tunnel: namespaces, veth, daemons, configuration, measurement of processes.

Everything lives in two namespaces of its own (names carry this process's id) and is taken down on exit.
Peers are configured only through `wg`, as a user of any of these daemons would.
"""

import base64
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .peers import Daemon

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """CPU seconds (user + system) and resident bytes of both daemons together, and the machine's busy seconds."""

    cpu: float
    rss: int
    machine: float
    switches: int


class Pair:
    """`with Pair(daemon) as pair:` both ends up, first handshake done (unless the daemon is the bare veth)."""

    def __init__(self, daemon: Daemon, plain: bool = False, plain_tun: bool = False) -> None:
        self.daemon = daemon
        self.plain = plain
        self.plain_tun = plain_tun
        self.ends = (f"mb{os.getpid()}a", f"mb{os.getpid()}b")
        # The directory of the UAPI sockets is shared by all namespaces, so the two interfaces have different names.
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
        """Address of end b: inside the tunnel, or on the veth for the bare pair."""
        return "10.77.0.2" if self.daemon.is_bare else "10.78.0.2"

    def run(
        self, end: int, argv: Sequence[str | Path], *, check: bool = True, **kw: object
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside end 0 or 1 and returns it completed, output captured."""
        argv = ["ip", "netns", "exec", self.ends[end], *map(str, argv)]
        return subprocess.run(argv, capture_output=True, text=True, check=check)

    def spawn(self, end: int, argv: Sequence[str | Path], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts a command inside an end; it is ended with the pair."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.ends[end], *map(str, argv)],
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
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

    def configure_many(self, peers: int) -> float:
        """`wg setconf` of end a with its real peer and `peers` silent others; the time it took in milliseconds."""
        conf = [(self._dir / "a.conf").read_text()]
        for n in range(peers):
            key = subprocess.run(
                ["wg", "pubkey"], input=_key(n), capture_output=True, text=True, check=True
            ).stdout.strip()
            conf.append(
                f"[Peer]\nPublicKey = {key}\nAllowedIPs = 10.{100 + n // 65536}.{n // 256 % 256}.{n % 256}/32\n"
            )
        (self._dir / "many.conf").write_text("\n".join(conf))
        start = time.monotonic()
        self.run(0, ["wg", "setconf", self.links[0], self._dir / "many.conf"])
        return (time.monotonic() - start) * 1000

    def _up(self) -> None:
        self._dir = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="meshbench")))
        for end in self.ends:
            _ip("netns", "add", end)
            self._stack.callback(subprocess.run, ["ip", "netns", "del", end], check=False, capture_output=True)
            _ip("-n", end, "link", "set", "lo", "up")
        _ip(
            "link",
            "add",
            "va",
            "mtu",
            "1500",
            "netns",
            self.ends[0],
            "type",
            "veth",
            "peer",
            "name",
            "vb",
            "mtu",
            "1500",
            "netns",
            self.ends[1],
        )
        for end, link, address in zip(self.ends, ("va", "vb"), ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
            _ip("-n", end, "addr", "add", address, "dev", link)
            _ip("-n", end, "link", "set", link, "up")
            if self.plain:
                _offloads_off(end, link)
        if not self.daemon.is_bare:
            self._tunnel()

    def _tunnel(self) -> None:
        private = [
            subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout.strip() for _ in "ab"
        ]
        public = [
            subprocess.run(["wg", "pubkey"], input=k, capture_output=True, text=True, check=True).stdout.strip()
            for k in private
        ]
        start = time.monotonic()
        for n, me in enumerate("ab"):
            other = 1 - n
            (self._dir / f"{me}.conf").write_text(
                f"[Interface]\nPrivateKey = {private[n]}\nListenPort = 5182{n}\n[Peer]\nPublicKey = {public[other]}\n"
                f"AllowedIPs = 10.78.0.{other + 1}/32\nEndpoint = 10.77.0.{other + 1}:5182{other}\n"
            )
            self._launch(n)
        for n, me in enumerate("ab"):
            self.run(n, ["wg", "setconf", self.links[n], self._dir / f"{me}.conf"])
            _ip("-n", self.ends[n], "addr", "add", f"10.78.0.{n + 1}/24", "dev", self.links[n])
            _ip("-n", self.ends[n], "link", "set", self.links[n], "mtu", "1420", "up")
            if self.plain_tun:
                _offloads_off(self.ends[n], self.links[n])
        self.run(0, ["ping", "-c1", "-W2", self.far])
        self.handshake_ms = (time.monotonic() - start) * 1000

    def _launch(self, end: int) -> None:
        process = self.spawn(end, [*self.daemon.command, self.links[end]], self.daemon.env)
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


def _key(seed: int) -> str:
    """A distinct, fixed private key per number: random ones would cost a process each."""
    return base64.b64encode(hashlib.sha256(f"bench {seed}".encode()).digest()).decode()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
