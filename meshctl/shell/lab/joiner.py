"""The joiner: hosts more for a lab that is up. Run as `python -m meshctl.shell.lab.joiner NAME`.

Strategy: a process enters the lab's pid namespace, so that whatever it starts ends with the lab, makes the hosts as the
keeper made the first ones, and connects them to the routers that are there. The plan is made anew from the old wish
with the new hosts behind it: it must leave every line that lies as it is, and only what is added is done.

    up ──stdin: {"before": …, "after": …} ──> starter ──setns, fork, fork──> joiner ──fork──> one init a host
     <──stdout: one line of JSON, {"hosts": …} or {"error": …} ──────────────┘
     ── stdin: "keep" ──> starter ends; end of file instead: `up` died, and the joiner takes its hosts away

The joiner stays, as the keeper does: the namespaces of new NAT boxes and of machines in site networks are its
descriptors. It is forked twice, so that its parent is the keeper: a process that is in the namespace and has its
parent outside would hold up the namespace's end until that parent has asked for it (pid_namespaces(7)).

What it does not do: take a host away, or change one that is there, but for new names in its hosts file.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NoReturn

from meshctl.shell.lab import kernel
from meshctl.shell.lab.keeper import Lab, await_ssh, let_go_of_up, new_netns, pid_on_machine, reason
from meshctl.shell.lab.kernel import Process
from meshctl.shell.lab.plan import CONTROLLER, Plan, plan
from meshctl.shell.lab.state import StateDir
from meshctl.shell.lab.wish import LabHost, Wish


def main(name: str) -> int:
    """The starter."""
    state = StateDir(name)
    os.umask(0o022)
    asked = json.loads(sys.stdin.buffer.readline())
    before, after = Wish.from_json(asked["before"]), Wish.from_json(asked["after"])
    keeper = state.keeper()
    if keeper is None:
        return 1
    with keeper.held() as pidfd:
        if pidfd is None:
            return 1
        kernel.setns(pidfd, kernel.NEW_PIDS)  # for the children to come
    told, tell = os.pipe()
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            os.write(tell, pid_on_machine().encode())
            _joiner(state, before, after)
        os._exit(0)
    os.close(tell)
    os.waitpid(between, 0)
    os.close(1)  # only the joiner answers
    pid = os.read(told, 16)
    return _watch(int(pid)) if pid else 1


def _watch(joiner: int) -> int:
    """Until `up` says keep (0), or dies or the joiner does (1)."""
    try:
        pidfd = os.pidfd_open(joiner)
    except ProcessLookupError:
        return 1
    ready, _, _ = select.select([0, pidfd], [], [])
    if pidfd not in ready and os.read(0, 16).startswith(b"keep"):
        return 0
    if pidfd not in ready:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        select.select([pidfd], [], [])
    return 1


def _joiner(state: StateDir, before: Wish, after: Wish) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    addition = Addition(state, after, before)
    try:
        os.write(1, json.dumps({"hosts": addition.build()}).encode() + b"\n")
        let_go_of_up()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        addition.take_back()
    except Exception as error:  # whatever it is, `up` has to hear of it
        traceback.print_exc()
        addition.take_back()
        os.write(1, json.dumps({"error": reason(error)}).encode() + b"\n")
    os._exit(1)


class Addition(Lab):
    """The hosts of `wish` that `before` lacks. One use."""

    def __init__(self, state: StateDir, wish: Wish, before: Wish) -> None:
        super().__init__(state, wish)
        self._before = before
        self._begun: dict[str, Process] = {}

    def build(self) -> dict[str, Any]:
        """The new hosts' part of lab.json."""
        old, layout = plan(self._before), plan(self.wish)
        there = {host.name for host in self._before.hosts}
        hosts = [host for host in self.wish.hosts if host.name not in there]
        _nobody_moves(old, layout, hosts)
        self.netns = {link.name: str(link.readlink()) for link in self.state.ns.iterdir()}
        identity = self.state.identity.with_name(f"{self.state.identity.name}.pub").read_text(encoding="ascii").strip()

        me = pid_on_machine()
        routers = layout.gateways().keys() - old.gateways().keys()
        lans = [lan for lan in layout.lans if lan not in old.lans]
        for node in (*sorted(routers), *(lan.node for lan in lans)):
            self.netns[node] = f"/proc/{me}/fd/{new_netns(router=node in routers)}"
        births = {host.name: self.begin(host, layout, identity) for host in hosts}
        for name, birth in births.items():
            birth.read_init()
            self._begun[name] = birth.process
            self.netns[name] = f"/proc/{birth.process.pid}/ns/net"
        try:
            self.wire(layout, routers, [line for line in layout.lines if line not in old.lines], lans)
            rules = {r: text for r, text in layout.rulesets().items() if old.rulesets().get(r) != text}
            self.rule({r: text if r in routers else f"delete table inet lab\n{text}" for r, text in rules.items()})
        finally:  # a host that gave up explains the failure better than a cable that found no end
            for birth in births.values():
                birth.read_key()
        self.link_namespaces()
        with kernel.inside(self.netns[CONTROLLER]):
            await_ssh({host.name: layout.places[host.name] for host in hosts})
        self._tell_the_others(old, layout)
        return {host.name: self.record(host, layout.places[host.name], births[host.name]) for host in hosts}

    def take_back(self) -> None:
        """Kill the hosts that were begun; with their namespaces goes their end of every line."""
        for name, process in self._begun.items():
            if process.alive():
                os.kill(_pid_in_lab(process.pid), signal.SIGKILL)
            (self.state.ns / name).unlink(missing_ok=True)

    def _tell_the_others(self, old: Plan, layout: Plan) -> None:
        """The new names, at the end of each host's hosts file: what meshd has put there stays."""
        known = set(old.hosts_file.splitlines())
        lines = "".join(f"{line}\n" for line in layout.hosts_file.splitlines() if line not in known)
        record = self.state.record() or {"hosts": {}}
        for host in record["hosts"].values():
            with Path(f"/proc/{host['init']['pid']}/root/etc/hosts").open("a", encoding="utf-8") as file:
                file.write(lines)


def _pid_in_lab(pid: int) -> int:
    """What this process, which is in the lab's pid namespace, calls a process that the machine calls `pid`.

    NSpid of proc(5): the pid in the namespace of /proc, then in each below it that the process is in; the lab is next.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[2])


def _nobody_moves(old: Plan, layout: Plan, hosts: list[LabHost]) -> None:
    """RuntimeError where the new hosts can't be added without changing what is there."""
    same = all(layout.places[name] == place for name, place in old.places.items())
    if not same or not set(old.lines) <= set(layout.lines) or layout.ruleset != old.ruleset:
        raise RuntimeError("hosts that are up would move")
    for host in hosts:
        wanted = [name for name in host.names if _is_address(name)]
        if wanted and layout.places[host.name].address not in wanted:
            raise RuntimeError(f"the address {wanted[0]} of {host.name} is another host's in this lab")


def _is_address(name: str) -> bool:
    try:
        return not IPv4Address(name).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
