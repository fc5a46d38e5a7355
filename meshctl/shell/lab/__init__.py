"""The lab: one throw-away host per host of a mesh file on this machine, joined by a simulated internet.

    up(name, hosts)            build it and keep it, or add hosts to it; the addresses
    addresses(name)            how to reach each host by SSH, from inside
    enter(name)                move this process into the controller's network namespace, from where SSH works
    exec_(name, host, argv)    run a command on a host without SSH; its exit status
    status(name), names()      what there is
    down(name)                 take it away, whatever state it is in

Strategy: a lab is a process, the keeper (keeper.py); all else, hosts, networks and mounts, exists only in namespaces
that end with it. So a lab can't be half torn down, a killed `up` leaves a directory of plain files at most, and
nothing of the machine's own network, firewall, sysctls, mounts or files is touched. With MESHCTL_LAB_OF="PID START" in
the environment (as kernel.Process has them) it ends with that process: a test run which is killed leaves none. Needs
Linux 5.8, root, and the programs in `_PROGRAMS`.

What it does not do: read mesh.yaml (hosts come as LabHost), print, or be a security boundary between hosts and
machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from select import select
from typing import IO, Any

import meshctl
from meshctl.core.errors import Failed
from meshctl.core.names import mesh_name_fault
from meshctl.shell.lab import kernel
from meshctl.shell.lab.hostview import PATH, dropped
from meshctl.shell.lab.kernel import Process
from meshctl.shell.lab.plan import SSH
from meshctl.shell.lab.state import StateDir
from meshctl.shell.lab.state import names as names
from meshctl.shell.lab.wish import LabAddress, LabHost, LabHostStatus, LabOptions, LabStatus, Wish

__all__ = [
    "LabAddress",
    "LabHost",
    "LabHostStatus",
    "LabOptions",
    "LabStatus",
    "addresses",
    "down",
    "enter",
    "exec_",
    "names",
    "start",
    "status",
    "up",
]

_PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
}  # Debian's packages
OWNER = "MESHCTL_LAB_OF"
_END_WITHIN = 30.0  # seconds for the kernel to end all processes of a lab


def up(name: str, hosts: Sequence[LabHost], options: LabOptions | None = None) -> dict[str, LabAddress]:
    """Build the lab and leave it running, or add to one that is up the hosts that it lacks; nothing else changes.

    Raises Failed when it can't be built (nothing is left then), or is up with something that is otherwise now.
    """
    state = _state(name)
    _need_programs(hosts)
    wish = Wish(name, tuple(hosts), options or LabOptions())
    lock = state.take()
    if lock is None:
        _add(state, wish)
        return addresses(name)
    kept = False
    try:
        state.empty()
        keeper = ["meshctl.shell.lab.keeper", name, str(lock), *os.environ.get(OWNER, "").split()]
        _build(state, keeper, wish.to_json(), lambda made: _publish(state, wish, made), fds=[lock])
        kept = True
        return addresses(name)
    finally:
        if not kept:
            state.remove()
        os.close(lock)


def _add(state: StateDir, wish: Wish) -> None:
    """The hosts of the wish that the lab lacks. Hosts that left the file stay: apply has to be able to clear them."""
    with state.growing():
        before, record = state.wish(), state.record()
        if before is None or record is None:
            raise Failed(f"lab {state.name} is just coming up", "wait until it is", "lab-up")
        known = {host.name: host for host in before.hosts}
        other = [host.name for host in wish.hosts if known.get(host.name, host) != host]
        if other or replace(wish.options, hide=()) != replace(before.options, hide=()):
            what = f"lab {state.name} is up and was made otherwise: {', '.join(other) or 'latency or loss'} changed"
            raise Failed(what, "meshctl lab down, then up again", "lab-up")
        new = [host for host in wish.hosts if host.name not in known]
        if not new:
            return
        after = replace(before, hosts=(*before.hosts, *new))
        there = tuple(_held(host, record["hosts"][host.name]) for host in before.hosts)
        asked = {
            "before": replace(before, hosts=there).to_json(),
            "after": replace(before, hosts=(*there, *new)).to_json(),
        }
        joiner = ["meshctl.shell.lab.joiner", state.name]
        try:
            _build(state, joiner, asked, lambda made: _publish(state, after, record["hosts"] | made))
        except Failed as error:
            names = ", ".join(host.name for host in new)
            what = error.what.replace("did not come up", f"goes on as it was, {names} can't be added")
            raise Failed(what, "meshctl lab down, then up again", error.code) from None


def _held(host: LabHost, entry: dict[str, Any]) -> LabHost:
    """The host as it is: its addresses are names of its own now, which no other can be given."""
    return replace(host, names=(*host.names, *filter(None, (entry["address"], entry["address6"]))))


def _build(
    state: StateDir,
    program: Sequence[str],
    asked: dict[str, Any],
    publish: Callable[[dict[str, Any]], None],
    fds: Sequence[int] = (),
) -> None:
    """Have a keeper or a joiner build; Failed when it doesn't. See keeper.py for what is said between us."""
    source = str(Path(meshctl.__file__).parent.parent)
    with state.log.open("ab") as log:
        starter = subprocess.Popen(
            [sys.executable, "-m", *program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            pass_fds=fds,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
    assert starter.stdin is not None and starter.stdout is not None
    try:
        starter.stdin.write(json.dumps(asked).encode() + b"\n")
        starter.stdin.flush()
        answer = json.loads(starter.stdout.readline() or b"{}")
        if "hosts" not in answer:
            raise _not_built(state, answer.get("error", ""))
        publish(answer["hosts"])
        starter.stdin.write(b"keep\n")
        starter.stdin.flush()
    except BrokenPipeError:
        raise Failed(
            f"lab {state.name} did not come up: {_last_line(state.log) or 'its keeper was ended'}", None, "lab-build"
        ) from None
    finally:
        starter.stdin.close()
        starter.stdout.close()
        starter.wait()


def _not_built(state: StateDir, why: str) -> Failed:
    why = why or _last_line(state.log) or "its keeper was ended"
    return Failed(f"lab {state.name} did not come up: {why}", None, "lab-build")


def _publish(state: StateDir, wish: Wish, hosts: dict[str, Any]) -> None:
    """What was asked for; lab.json, last, and the same host keys for the plain `ssh` command (sshd(8), known_hosts)."""
    places = {host: f"[{h['address']}]:{h['port']}" if h["port"] != SSH else h["address"] for host, h in hosts.items()}
    lines = [f"{places[host]} {key}\n" for host, h in hosts.items() for key in h["host_keys"]]
    state.write_known_hosts("".join(lines))
    state.write_wish(wish)
    hosts = dict(sorted(hosts.items()))
    record = {
        "schema": 1,
        "name": wish.name,
        "controller_ns": str(state.ns / "controller"),
        "hosts": hosts,
        "identity": str(state.identity),
        "known_hosts": str(state.path / "known_hosts"),
    }
    state.write_record(record)


def addresses(name: str) -> dict[str, LabAddress]:
    """How to reach each host by SSH once this process has entered. Raises Failed when the lab isn't up."""
    record = _running_record(_state(name))
    return {host: _address(record, host) for host in record["hosts"]}


def enter(name: str) -> None:
    """Move this process, and what it will start, into the controller's network namespace of the lab.

    Its threads would stay behind, so it must have none yet.
    """
    if threading.active_count() > 1:
        raise RuntimeError("enter() moves one thread, and this process has several")
    state = _state(name)
    _running_record(state)
    with _keeper(state).held() as pidfd:
        if pidfd is None:
            raise _not_up(state)
        kernel.setns(pidfd, kernel.NEW_NET)


def exec_(name: str, host: str, argv: Sequence[str]) -> int:
    """Run a command as root on a host, on this process's stdin, stdout and stderr; its exit status.

    128 + N says that signal N ended it, 127 that it isn't there (the shell has said so on stderr).
    """
    process = start(name, host, argv)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the command has had the same Ctrl-C; it decides what to do
            continue


def start(
    name: str,
    host: str,
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """As exec_, without waiting, and with other files."""
    record = _running_record(_state(name))
    entry = record["hosts"].get(host)
    if entry is None:
        raise Failed(f"lab {name} has no host {host}", f"its hosts are {', '.join(record['hosts'])}", "lab-host")
    env = {"PATH": PATH, "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh"}
    env |= {word: os.environ[word] for word in ("TERM", "LANG", "NO_COLOR") if word in os.environ}
    with Process(**entry["init"]).held() as pidfd:
        if pidfd is None:
            raise Failed(f"host {host} of lab {name} has ended", "meshctl lab down, then up again", "lab-host")
        command = ["/bin/sh", "-c", 'exec "$@"', "sh", *argv]
        return kernel.run_in_host(
            pidfd, command, env=env, dropped=dropped(entry["tun"]), stdin=stdin, stdout=stdout, stderr=stderr
        )


def status(name: str) -> LabStatus:
    """Raises Failed when there is no such lab, up or left over."""
    state = _state(name)
    record = state.record()
    if record is None:
        raise _not_up(state)
    hosts = tuple(
        LabHostStatus(host, Process(**entry["init"]).alive(), _address(record, host))
        for host, entry in record["hosts"].items()
    )
    return LabStatus(name, state.held(), hosts)


def aside(name: str) -> Path:
    """The folder for a lock and keys of the lab's own, which needn't be there; it goes with the lab."""
    return _state(name).path / "files"


def down(name: str) -> bool:
    """End the lab and remove its directory, also one just coming up or left half-way. False: there was none."""
    state = _state(name)
    if not state.path.exists():
        return False
    end = time.monotonic() + _END_WITHIN
    while (lock := state.take()) is None:
        keeper = state.keeper()
        if keeper is not None:
            _end(keeper, end)
        if time.monotonic() > end:
            raise Failed(f"lab {name} did not end within {_END_WITHIN:.0f} s", "meshctl lab down once more", "lab-down")
        time.sleep(0.01)
    try:
        state.remove()
    finally:
        os.close(lock)
    return True


def _end(process: Process, deadline: float) -> None:
    """SIGKILL; the kernel ends the whole pid namespace before its first process is gone (pid_namespaces(7))."""
    with process.held() as pidfd:
        if pidfd is not None:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select([pidfd], [], [], max(0.0, deadline - time.monotonic()))


def _state(name: str) -> StateDir:
    """The door of every call: the name is a directory's, and the calls are root's on Linux."""
    if fault := mesh_name_fault(name):
        raise Failed(fault, None, "lab-name")
    if not sys.platform.startswith("linux"):
        raise Failed("a lab is made of Linux namespaces", "run it on Linux, in a virtual machine say", "lab-linux")
    if os.geteuid() != 0:
        raise Failed("a lab needs root on this machine", "sudo meshctl lab …", "lab-root")
    if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (5, 8):
        raise Failed("a lab needs Linux 5.8, for setns(2) by process", f"this is {os.uname().release}", "lab-linux")
    return StateDir(name)


def _need_programs(hosts: Sequence[LabHost]) -> None:
    wanted = dict(_PROGRAMS)
    if any(host.user != "root" and host.sudo for host in hosts):
        wanted["sudo"] = "sudo"
    missing = [program for program in wanted if shutil.which(program, path=PATH) is None]
    if missing:
        hint = f"apt install {' '.join(sorted({wanted[program] for program in missing}))}"
        raise Failed(
            f"the hosts of a lab use this machine's programs, which lack {', '.join(missing)}", hint, "lab-programs"
        )
    if not Path("/proc/sys/net/ipv6").is_dir():
        raise Failed("the lab's internet has IPv6, and this kernel has it switched off", None, "lab-ipv6")


def _running_record(state: StateDir) -> dict[str, Any]:
    record = state.record()
    if record is None or not state.held():
        raise _not_up(state)
    return record


def _keeper(state: StateDir) -> Process:
    keeper = state.keeper()
    if keeper is None:
        raise _not_up(state)
    return keeper


def _not_up(state: StateDir) -> Failed:
    return Failed(f"lab {state.name} is not up", "meshctl lab up", "lab-not-up")


def _address(record: dict[str, Any], host: str) -> LabAddress:
    entry = record["hosts"][host]
    return LabAddress(
        name=host,
        hostname=entry["address"],
        port=entry["port"],
        user=entry["user"],
        become=entry["become"],
        identity=Path(record["identity"]),
        host_keys=tuple(entry["host_keys"]),
        address6=entry["address6"],
        behind=entry["behind"],
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
