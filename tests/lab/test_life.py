"""A lab comes up whole and goes down whole, whoever is killed on the way, and the machine never notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshctl.core.errors import Failed
from meshctl.shell import lab
from meshctl.shell.lab import LabHost
from meshctl.shell.lab.kernel import Process
from meshctl.shell.lab.state import StateDir

from .bench import Bench

pytestmark = pytest.mark.root

UP = """\
import sys
from meshctl.shell import lab
lab.up(sys.argv[1], [lab.LabHost("a"), lab.LabHost("b", behind="b"), lab.LabHost("c", user="admin")])
print("up", flush=True)
"""

# The same, which waits for its standard input to end when its hosts are built.
HELD = f"""\
import signal, sys
from meshctl.shell import lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
publish = lab._publish
def held(*arguments):
    print("held", flush=True)
    sys.stdin.read()
    publish(*arguments)
lab._publish = held
{UP}"""

LOOK = """\
import subprocess, sys
from meshctl.shell import lab

LOOKS = '''
ip -o link; ip -o addr; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule
nft list ruleset; cat /proc/self/mountinfo
grep . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/*/accept_dad /proc/sys/net/ipv4/conf/*/rp_filter
'''

def machine():
    return subprocess.run(["sh", "-c", LOOKS], capture_output=True, text=True, check=True).stdout

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["nft", "add", "table", "inet", "mine"], check=True)
before = machine()
hosts = [lab.LabHost("a"), lab.LabHost("b", behind="b", lan=("192.168.7.0/24",)), lab.LabHost("c", user="admin")]
lab.up(sys.argv[1], hosts, lab.LabOptions(loss=0.01))
print("same" if machine() == before else machine())
lab.down(sys.argv[1])
print("same" if machine() == before else machine())
"""


def namespaces(pids: list[int]) -> set[str]:
    """`net:[4026…]` and the like, of these processes, without those that are ours too."""
    return {space for pid in pids for space in spaces(pid)} - spaces(os.getpid())


def spaces(pid: int) -> set[str]:
    try:
        return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt", "pid", "uts", "ipc")}
    except OSError:  # it has ended, or is none of a lab's: a container's first process may be out of root's sight
        return set()


def processes(name: str) -> list[int]:
    """Pids of everything in the lab's pid namespace and below: what hangs on the keeper."""
    keeper = StateDir(name).keeper()
    if keeper is None or not keeper.alive():
        return []
    found, queue = [], [keeper.pid]
    while queue:
        pid = queue.pop()
        found.append(pid)
        try:
            queue += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except FileNotFoundError:
            continue
    return found


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def gone(pids: list[int]) -> bool:
    """Ended; a zombie that the machine's init has yet to collect is."""

    def ended(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True

    return all(map(ended, pids))


def in_use(namespaces: set[str]) -> bool:
    return any(spaces(int(path.name)) & namespaces for path in Path("/proc").glob("[0-9]*"))


def test_up_and_down_leave_the_machine_as_it_was(bench: Bench) -> None:
    """In a network and mount namespace that stands for the machine, since on the real one others may be at work."""
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, "-c", LOOK, bench.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "same\nsame\n", "")


def test_down_leaves_no_process_no_namespace_and_no_file(bench: Bench) -> None:
    bench.up(LabHost("a"), LabHost("b", behind="b"), LabHost("c", user="admin"))
    pids = processes(bench.name)
    made = namespaces(pids)
    assert len(pids) >= 7
    assert len(made) >= 5 * 3
    assert in_use(made)
    assert lab.down(bench.name)
    assert gone(pids)
    assert not in_use(made)
    assert not StateDir(bench.name).path.exists()


def test_down_of_nothing_says_so(bench: Bench) -> None:
    assert lab.down(bench.name) is False


def test_two_labs_at_once_do_not_meet(bench: Bench) -> None:
    other = Bench(f"other-{os.getpid()}")
    try:
        bench.up(LabHost("a"))
        other.up(LabHost("a"))
        assert bench.hosts["a"].hostname == other.hosts["a"].hostname
        assert bench.hosts["a"].host_keys != other.hosts["a"].host_keys
        bench.says("a", "touch /etc/mine")
        assert other.run("a", "test -e /etc/mine").returncode == 1
        assert {bench.name, other.name} <= set(lab.names())
    finally:
        lab.down(other.name)
    assert bench.ssh("a", "hostname").stdout == "a\n"


def test_status_tells_hosts_that_ended(bench: Bench) -> None:
    bench.up(LabHost("a"), LabHost("b"))
    record = StateDir(bench.name).record()
    assert record is not None
    os.kill(record["hosts"]["b"]["init"]["pid"], signal.SIGKILL)
    assert wait_for(lambda: [h.running for h in lab.status(bench.name).hosts] == [True, False])
    with pytest.raises(Failed) as raised:
        bench.run("b", "true")
    assert raised.value.code == "lab-host"


def test_status_of_nothing_is_an_error(bench: Bench) -> None:
    with pytest.raises(Failed) as raised:
        lab.status(bench.name)
    assert raised.value.code == "lab-not-up"


@pytest.mark.parametrize("after", [0.05, 0.12, 0.2, 0.3, 0.4, 0.5, 0.7])
def test_a_killed_up_ends_the_whole_lab(bench: Bench, after: float) -> None:
    """Wherever it is killed: afterwards either the lab stands, or nothing of it runs; and `down` leaves nothing."""
    up = subprocess.Popen([sys.executable, "-c", UP, bench.name], stdout=subprocess.PIPE)
    time.sleep(after)
    pids = processes(bench.name)
    up.kill()
    out, _ = up.communicate()
    if out:
        assert lab.status(bench.name).running
        pids = processes(bench.name)
    else:
        state = StateDir(bench.name)
        assert wait_for(lambda: not state.held() or state.record() is not None)
    lab.down(bench.name)
    assert gone(pids)
    assert not StateDir(bench.name).path.exists()


@contextmanager
def held(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """An `up` that has built its hosts, and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", HELD, name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as up:  # fmt: skip
        try:
            assert up.stdout is not None
            assert up.stdout.readline() == b"held\n"
            yield up
        finally:
            up.kill()


def test_ctrl_c_during_up_leaves_nothing(bench: Bench) -> None:
    with held(bench.name) as up:
        pids = processes(bench.name)
        assert pids
        up.send_signal(signal.SIGINT)
        out, _ = up.communicate(timeout=20)
    assert out == b""
    assert gone(pids)
    assert not StateDir(bench.name).path.exists()


def test_down_ends_an_up_that_is_on_its_way(bench: Bench) -> None:
    """`up` may say that it came up, as it had for a moment; nothing of it is left."""
    down = threading.Thread(target=lab.down, args=(bench.name,))
    with held(bench.name) as up:
        pids = processes(bench.name)
        assert pids
        keeper = StateDir(bench.name).keeper()
        assert keeper is not None
        down.start()
        assert wait_for(lambda: not keeper.alive())
        _, err = up.communicate(timeout=20)
    down.join(timeout=20)
    assert not down.is_alive()
    assert up.returncode == 0 or b"did not come up" in err
    assert gone(pids)
    assert not StateDir(bench.name).path.exists()


def test_a_killed_keeper_takes_everything_along_and_up_works_again(bench: Bench) -> None:
    bench.up(LabHost("a"), LabHost("b"))
    keeper, pids = StateDir(bench.name).keeper(), processes(bench.name)
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
    assert wait_for(lambda: gone(pids))
    assert wait_for(lambda: not lab.status(bench.name).running)
    with pytest.raises(Failed):
        lab.addresses(bench.name)
    bench.up(LabHost("a"))
    assert bench.ssh("a", "hostname").stdout == "a\n"


def test_programs_left_running_on_a_host_end_with_it(bench: Bench) -> None:
    bench.up(LabHost("a"))
    bench.says("a", "setsid sleep 600 >/dev/null 2>&1 & echo")
    pids = processes(bench.name)
    lab.down(bench.name)
    assert gone(pids)


def test_a_lab_that_can_not_come_up_says_why_and_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(Failed) as raised:
        bench.up(LabHost("a"), LabHost("b" * 65))  # more than a host name can have (sethostname(2))
    assert raised.value.code == "lab-build"
    assert f"host {'b' * 65} did not come up" in raised.value.what
    assert not StateDir(bench.name).path.exists()


@pytest.mark.slow
def test_a_hundred_hosts(bench: Bench) -> None:
    began = time.monotonic()
    bench.up(*(LabHost(f"h{n}") for n in range(100)))
    assert time.monotonic() - began < 60
    assert all(host.running for host in lab.status(bench.name).hosts)
    bench.says("h7", f"ping -c1 -W2 {bench.hosts['h99'].hostname}")


def test_a_lab_of_a_process_ends_with_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of tests is killed: nothing of its labs is left, hosts that were added and files included."""
    with subprocess.Popen(["sleep", "600"]) as owner:
        try:
            of = Process.of(owner.pid)
            monkeypatch.setenv(lab.OWNER, f"{of.pid} {of.start}")
            bench.up(LabHost("a"), LabHost("b", behind="b"), latency_ms=1)
            bench.up(LabHost("a"), LabHost("b", behind="b"), LabHost("c"), latency_ms=1)
            bench.says("c", f"ping -c1 -W2 {bench.hosts['a'].hostname}")
            pids = processes(bench.name)
            made = namespaces(pids)
        finally:
            owner.kill()
    assert wait_for(lambda: gone(pids) and not StateDir(bench.name).path.exists())
    assert not in_use(made)
    with pytest.raises(Failed) as raised:  # an `up` that a killed run has left behind
        bench.up(LabHost("a"))
    assert (raised.value.code, f"process {of.pid}" in raised.value.what) == ("lab-build", True)
    assert not StateDir(bench.name).path.exists()


def test_a_lab_of_nobody_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`meshctl lab up` of a person's shell."""
    monkeypatch.delenv(lab.OWNER)
    up = subprocess.run([sys.executable, "-c", UP, bench.name], stdout=subprocess.PIPE, check=True)
    assert up.stdout == b"up\n"
    assert not wait_for(lambda: not lab.status(bench.name).running, 0.5)
    assert bench.run("a", "true").returncode == 0


def test_the_tests_labs_are_the_runs(bench: Bench) -> None:
    """However they are made: the run's own process is named where `up` looks, for programs that it starts too."""
    assert os.environ[lab.OWNER].split()[0] == str(os.getpid())
