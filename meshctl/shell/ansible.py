"""Apply's hands: ansible-playbook as a process of its own, with our collection, on the hosts it is given.

Strategy: everything a run needs lies in a private folder in memory (bundles, inventory, known_hosts of the pins, an
empty ansible.cfg), so that nothing of the user's Ansible set-up leaks in and nothing is left behind. Our callback
plugin tells what happens as lines of JSON on a pipe; a password for sudo goes in by standard input. The process gets a
session of its own: Ctrl-C reaches us first, and we end it in order.

What it does not do: decide which hosts, or what a failure means for the mesh.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from meshctl.core.bundle import Bundle
from meshctl.core.errors import Failed, HostError
from meshctl.core.keys import Secret
from meshctl.shell import assets, bundledir
from meshctl.shell.sshconfig import Road, known_hosts_lines, ssh_options

_MOST_FORKS = 50  # each is a process of about 50 MiB
# A switch can cut the very connection it came by: notice after 15 s, well before the host goes back by itself.
_ALIVE = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
_END_PATIENCE = 10.0  # seconds between asking the playbook to end and making it


@dataclass(frozen=True, slots=True)
class Target:
    """One host of a run: its name in the mesh, the road to it and what it is to receive."""

    name: str
    road: Road
    bundle: Bundle
    arch: str | None = None


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One line of the callback (contracts §7). `error` is there when `status` is failed or unreachable."""

    host: str
    step: str
    status: str
    changed: tuple[str, ...] = ()
    error: HostError | None = None


def run(
    playbook: str,
    targets: Sequence[Target],
    on_event: Callable[[StepEvent], None],
    *,
    variables: Mapping[str, object] | None = None,
    become_password: Secret[bytes] | None = None,
) -> list[StepEvent]:
    """Run `meshctl.mesh.PLAYBOOK` on the targets; all events, in the order they came.

    A host's failure is an event. Failed when the playbook itself could not run.
    """
    with bundledir.private_folder() as (folder, at_work):
        bundledir.write(folder / "bundles", (target.bundle for target in targets))
        _write_inventory(folder, targets, variables or {})
        read_end, write_end = os.pipe()
        process = _start(folder, playbook, len(targets), (write_end, at_work), become_password)
        os.close(write_end)
        try:
            events = []
            with os.fdopen(read_end, encoding="utf-8", errors="replace") as lines:
                for event in _events(lines):
                    events.append(event)
                    on_event(event)
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            _close_masters(folder)
        if status != 0 and not any(event.error for event in events):
            raise Failed(
                f"ansible-playbook ended with {status}: {_last_words(folder)}",
                "run it again; if it stays so, report it",
            )
        return events


def _start(
    folder: Path, playbook: str, hosts: int, fds: tuple[int, int], password: Secret[bytes] | None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "inventory.json", f"meshctl.mesh.{playbook}"]
    if password is not None:
        command += ["--become-password-file", "-"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder, hosts, fds[0]),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=fds,  # where it tells what happens, and that it is at work in the folder
            start_new_session=True,
        )
    stdin = process.stdin
    assert stdin is not None  # asked for above
    try:
        stdin.write(b"" if password is None else password.reveal())
        stdin.close()
    except BrokenPipeError:
        pass  # it ended at once: its exit status and output tell
    return process


def _environment(folder: Path, hosts: int, events: int) -> dict[str, str]:
    """The user's environment without Ansible's variables, and ours. Ansible insists on a UTF-8 locale."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(paths),  # plugins of ours may import meshctl, also from a checkout
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "home" / "tmp"),
        "ANSIBLE_COLLECTIONS_PATH": str(assets.collections()),
        "ANSIBLE_CALLBACKS_ENABLED": "meshctl.mesh.events",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_FORKS": str(min(hosts, _MOST_FORKS)),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_ARGS": f"-o ControlMaster=auto -o ControlPersist=30s {_ALIVE}",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "masters"),
        "ANSIBLE_SSH_RETRIES": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
        "MESHCTL_EVENTS_FD": str(events),
    }


def _write_inventory(folder: Path, targets: Sequence[Target], variables: Mapping[str, object]) -> None:
    known_hosts = folder / "known_hosts"
    known_hosts.write_text("".join(f"{line}\n" for target in targets for line in known_hosts_lines(target.road)))
    (folder / "ansible.cfg").write_text("")
    hosts = {}
    for target in targets:
        road = target.road
        own: dict[str, object] = {
            "ansible_host": road.destination.rpartition("@")[2].strip("[]"),
            "ansible_user": road.user,
            "ansible_port": road.port,
            "ansible_ssh_common_args": shlex.join(ssh_options(road, known_hosts)),
            "ansible_become": road.user != "root",
            "meshd_bundle": str(folder / "bundles" / target.bundle.host),
        }
        hosts[target.name] = own | ({} if target.arch is None else {"meshd_arch": target.arch})
    inventory = {"all": {"hosts": hosts, "vars": dict(variables)}}
    (folder / "inventory.json").write_text(json.dumps(inventory))


def _events(lines: IO[str]) -> Iterator[StepEvent]:
    for line in lines:
        try:
            said = json.loads(line)
            error = said.get("error")
            yield StepEvent(
                host=said["host"],
                step=said["step"],
                status=said["status"],
                changed=tuple(said.get("changed") or ()),
                error=HostError(said["host"], error["code"], error["what"], error.get("hint") or None)
                if error
                else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise Failed("the events plugin said something else than an event", "report this", "events") from fault


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the playbook and its workers: politely, then not."""
    for order in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, order)
            process.wait(_END_PATIENCE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _close_masters(folder: Path) -> None:
    """End the shared connections that Ansible leaves open for its next run; there is none."""
    masters = folder / "masters"
    for socket in masters.iterdir() if masters.is_dir() else ():
        subprocess.run(
            ["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", "none"], capture_output=True, check=False
        )


def _last_words(folder: Path) -> str:
    lines = (folder / "output").read_text(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    told = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "it said nothing")
    return told.removeprefix("[ERROR]: ").removeprefix("ERROR! ").rstrip(".")
