"""The keeper: the one process a lab hangs on. Run as `python -m meshctl.shell.lab.keeper NAME LOCK_FD [PID START]`.

Strategy: it is the first process of a pid namespace in which all of the lab lives, and the lab's networks exist only
as its descriptors and its descendants' namespaces. When it ends, however it ends, the kernel ends every process of
the lab, and with the last of them go the namespaces, the mounts and the veths: there is nothing to clean up but a
directory of plain files.

The keeper is started by a *starter* in the machine's own pid namespace, which ends once the lab is up:

    up ──stdin: the wish ──> starter ──fork──> keeper ──fork──> one init a host, in namespaces of its own
     <──stdout: one line of JSON, {"hosts": …} or {"error": …} ──┘
     ── stdin: "keep" ──> starter ends; end of file instead: `up` died, and the starter ends the keeper

It lives in the controller's network namespace, so `/proc/KEEPER/ns/net` is the controller's. Where a process is named
(the third and fourth word), the lab is that one's: it ends with it, files included.

What it does not do: mount anything on the machine, restart a host, add one later (joiner.py does), or decide where who
is (plan.py does).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from meshctl.shell.lab import kernel
from meshctl.shell.lab.delay import Delay, divert
from meshctl.shell.lab.hostview import PATH, HostView, make_key
from meshctl.shell.lab.kernel import Process
from meshctl.shell.lab.plan import CONTROLLER, INTERNET, Lan, Line, Place, Plan, plan
from meshctl.shell.lab.state import StateDir
from meshctl.shell.lab.wish import LabHost, Wish

_READY_WITHIN = 60.0  # seconds for all SSH servers to answer
_DELAY_NICE = -10  # a packet released late is jitter nobody asked for
_HOST_NAMESPACES = kernel.NEW_MOUNTS | kernel.NEW_UTS | kernel.NEW_IPC | kernel.NEW_PIDS | kernel.NEW_NET


def main(argv: Sequence[str]) -> int:
    """The starter."""
    state, lock = StateDir(argv[0]), int(argv[1])
    os.set_inheritable(lock, False)
    os.umask(0o022)
    wish = Wish.from_json(json.loads(sys.stdin.buffer.readline()))
    owner = Process(int(argv[2]), int(argv[3])) if argv[2:] else None
    with owner.held() if owner is not None else nullcontext() as owned_by:
        if owner is not None and owned_by is None:
            os.write(1, json.dumps({"error": f"process {owner.pid}, which it was to end with, has ended"}).encode())
            return 1
        recorded, record = os.pipe()
        kernel.unshare(kernel.NEW_PIDS)
        pid = os.fork()
        if pid == 0:
            os.close(record)
            # End of file: the starter died before anyone could know our pid.
            if os.read(recorded, 1):
                _keeper(state, wish, owned_by)
            os._exit(1)
    os.close(recorded)
    os.close(1)  # only the keeper answers
    state.write_keeper(Process.of(pid))
    os.write(record, b"1")
    return _watch(pid)


def _watch(keeper: int) -> int:
    """Until `up` says keep (0), or dies or the keeper does (1)."""
    pidfd = os.pidfd_open(keeper)
    ready, _, _ = select.select([0, pidfd], [], [])
    if pidfd not in ready and os.read(0, 16).startswith(b"keep"):
        return 0
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitpid(keeper, 0)
    return 1


def _keeper(state: StateDir, wish: Wish, owned_by: int | None) -> NoReturn:
    os.setsid()
    lab = Lab(state, wish)
    try:
        answer: dict[str, Any] = {"hosts": lab.build()}
    except Exception as error:  # whatever it is, `up` has to hear of it
        traceback.print_exc()
        answer = {"error": reason(error)}
    os.write(1, json.dumps(answer).encode() + b"\n")
    if "error" in answer:
        os._exit(1)
    let_go_of_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the lab end up here; the kernel collects them
    if owned_by is not None:
        threading.Thread(target=_end_with, args=(owned_by, state), daemon=True).start()
    if lab.delay is not None:
        os.nice(_DELAY_NICE)
        lab.delay.run()
    while True:
        signal.pause()


def _end_with(owner: int, state: StateDir) -> NoReturn:
    select.select([owner], [], [])
    try:
        os.kill(-1, signal.SIGKILL)  # all of the pid namespace but us: nobody writes there any more
        state.remove()
    finally:
        os._exit(0)


def let_go_of_up() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)


def reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return f"{error.cmd[0]}: {said[0] if said else f'exit {error.returncode}'}"
    return str(error) or type(error).__name__


@dataclass
class Lab:
    """Builds a lab around this process. One use."""

    state: StateDir
    wish: Wish
    netns: dict[str, str] = field(default_factory=dict)  # node → path of its network namespace, as the machine sees it
    delay: Delay | None = None

    def build(self) -> dict[str, Any]:
        """The hosts' part of lab.json."""
        self.state.mount_point.mkdir()
        identity = make_key(self.state.identity, f"meshctl-lab-{self.wish.name}")
        layout = plan(self.wish)
        me = pid_on_machine()

        # The last one stays this process's own, the controller's; by descriptor too, since we go in and out of others.
        routers = layout.gateways()
        for node in (*routers, *(lan.node for lan in layout.lans), CONTROLLER):
            self.netns[node] = f"/proc/{me}/fd/{new_netns(router=node in routers)}"

        births = {host.name: self.begin(host, layout, identity) for host in self.wish.hosts}
        for name, birth in births.items():
            birth.read_init()
            self.netns[name] = f"/proc/{birth.process.pid}/ns/net"
        try:
            self.wire(layout, layout.gateways(), layout.lines, layout.lans)
            self.rule(layout.rulesets())
        finally:  # a host that gave up explains the failure better than a cable that found no end
            for birth in births.values():
                birth.read_key()
        self.link_namespaces()
        await_ssh(layout.places)
        if self.wish.options.latency_ms:
            self._slow_down(self.wish.options.latency_ms / 1000)
        return {host.name: self.record(host, layout.places[host.name], births[host.name]) for host in self.wish.hosts}

    def begin(self, host: LabHost, layout: Plan, identity: str) -> Birth:
        view = HostView(
            host=host,
            work=self.state.mount_point,
            hosts_file=layout.hosts_file,
            authorized_key=identity,
            sshd=_program("sshd"),
            hide=self.wish.options.hide,
        )
        said, say = os.pipe()
        if os.fork() == 0:
            _host(view, say)
        os.close(say)
        return Birth(host.name, said)

    def wire(self, layout: Plan, fresh: Container[str], lines: Sequence[Line], lans: Sequence[Lan]) -> None:
        """Lay these lines and site networks; the routers that are `fresh` get their own address with them."""
        for router, gateway in layout.gateways().items():
            text = "".join(line.upstream_commands(self.netns[line.node]) for line in lines if line.upstream == router)
            own = f"link set lo up\naddr add {gateway}/32 dev lo\n" if router in fresh else ""
            if own or text:
                with self._in(router):
                    _ip(f"{own}{text}")
        for line in lines:
            with self._in(line.node):
                _ip(line.node_commands())
        for lan in lans:
            machine, host = lan.commands(self.netns[lan.host])
            with self._in(lan.node):
                _ip(f"link set lo up\n{machine}")
            with self._in(lan.host):
                _ip(host)
            with self._in(lan.node):
                _ip(lan.default_route())

    def rule(self, rulesets: Mapping[str, str]) -> None:
        for router, rules in rulesets.items():
            with self._in(router):
                _run(["nft", "-f", "-"], rules)

    def _slow_down(self, seconds: float) -> None:
        """From here on nothing crosses the internet until somebody runs `delay`."""
        with self._in(INTERNET):
            self.delay = Delay(seconds)
            divert()

    def _in(self, node: str) -> AbstractContextManager[None]:
        return kernel.inside(self.netns[node])

    def link_namespaces(self) -> None:
        self.state.ns.mkdir(exist_ok=True)
        for node, path in self.netns.items():
            if not (self.state.ns / node).is_symlink():
                (self.state.ns / node).symlink_to(path)

    def record(self, host: LabHost, place: Place, birth: Birth) -> dict[str, Any]:
        return {
            "address": place.address,
            "address6": place.address6,
            "port": place.port,
            "user": host.user,
            "become": host.user != "root",
            "host_keys": [birth.key],
            "behind": place.box,
            "tun": host.tun,
            "init": {"pid": birth.process.pid, "start": birth.process.start},
        }


@dataclass
class Birth:
    """What a host's init tells while it makes itself: which process it is, its SSH host key, or why it couldn't."""

    name: str
    said: int
    key: str = ""

    def __post_init__(self) -> None:
        self._lines = os.fdopen(self.said, encoding="utf-8", errors="replace")

    def read_init(self) -> None:
        pid, start = self._line("init").split()
        self.process = Process(int(pid), int(start))

    def read_key(self) -> None:
        self.key = self._line("key")
        self._lines.close()

    def _line(self, word: str) -> str:
        said, _, rest = self._lines.readline().rstrip("\n").partition(" ")
        if said != word:
            raise RuntimeError(f"host {self.name} did not come up: {rest or 'its first process ended'}")
        return rest


def _host(view: HostView, say: int) -> NoReturn:
    """The process between the keeper and a host's init: it makes the namespaces, and init is its child."""
    try:
        kernel.unshare(_HOST_NAMESPACES)
        _net_defaults()  # nothing may be started before the fork: the first process is init
        if os.fork():
            os._exit(0)
        init = Process.of(int(pid_on_machine()))  # told by itself: whoever looks from outside may come after its end
        os.write(say, f"init {init.pid} {init.start}\n".encode())
        key = view.build()
        let_go_of_up()
        os.write(say, f"key {key}\n".encode())
        view.become_init()
    except Exception as error:  # it crosses a process boundary as text
        traceback.print_exc()
        os.write(say, f"error {reason(error)}\n".encode())
    os._exit(1)


def pid_on_machine() -> str:
    """Our pid in the machine's pid namespace: that is whose /proc we still see."""
    return os.fspath(Path("/proc/self").readlink())


def new_netns(*, router: bool) -> int:
    """A network namespace that lives as long as the returned descriptor."""
    kernel.unshare(kernel.NEW_NET)
    _net_defaults()
    if router:
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            _sysctl(switch, "1")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _net_defaults() -> None:
    """As a fresh kernel has them: IPv4's are inherited from the machine, which may be a router (net/ipv4/devinet.c).

    Duplicate address detection would keep a fresh IPv6 address unusable for a second (RFC 4862 section 5.4).
    """
    _sysctl("ipv4/ip_forward", "0")
    for part in ("all", "default"):
        _sysctl(f"ipv6/conf/{part}/accept_dad", "0")
    _sysctl("ipv4/conf/all/rp_filter", "0")


def _sysctl(name: str, value: str) -> None:
    """Of this process's network namespace, whatever /proc it looks through (net/sysctl_net.c)."""
    Path("/proc/sys/net", name).write_text(value, encoding="ascii")


def _ip(commands: str) -> None:
    _run(["ip", "-batch", "-"], commands)


def _run(argv: Sequence[str], stdin: str) -> None:
    subprocess.run(argv, input=stdin.encode(), check=True, capture_output=True, env={"PATH": PATH})


def _program(name: str) -> str:
    """sshd insists on being called by its whole path (sshd(8))."""
    return next(path for path in (f"{directory}/{name}" for directory in PATH.split(":")) if os.access(path, os.X_OK))


def await_ssh(places: dict[str, Place]) -> None:
    end = time.monotonic() + _READY_WITHIN
    for name, place in places.items():
        while not _answers(place):
            if time.monotonic() > end:
                raise RuntimeError(f"the SSH server of host {name} did not answer at {place.address} port {place.port}")
            time.sleep(0.02)


def _answers(place: Place) -> bool:
    try:
        with socket.create_connection((place.address, place.port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
