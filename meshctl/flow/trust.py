"""Trust: SSH host keys into mesh.lock, where they are pinned.

What the user's known_hosts already holds is taken as it is; a key that a host shows now is taken only when `approve`
says so. A pin that is there stays, unless it is to be replaced.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshctl.core import lock
from meshctl.core.errors import HostError
from meshctl.core.lock import Lock
from meshctl.flow.river import Run, Session
from meshctl.shell import meshdir
from meshctl.shell.ssh import at_once
from meshctl.shell.sshconfig import Road


@dataclass(frozen=True, slots=True)
class Shown:
    """A host key that isn't pinned, as a person compares it: SHA256 in base64, as ssh-keygen -l prints it."""

    host: str
    hostname: str
    key: str

    @property
    def kind(self) -> str:
        return self.key.split()[0]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key)


@dataclass(frozen=True, slots=True)
class Trusted:
    """What became of each host."""

    pinned_before: tuple[str, ...] = ()
    from_known_hosts: tuple[str, ...] = ()
    approved: tuple[Shown, ...] = ()
    refused: tuple[str, ...] = ()
    errors: tuple[HostError, ...] = ()


def fingerprint(key: str) -> str:
    digest = hashlib.sha256(base64.b64decode(key.rsplit(maxsplit=1)[-1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def trust(run: Run, approve: Callable[[Sequence[Shown]], Sequence[Shown]], *, replace: bool = False) -> Trusted:
    """Pin the hosts' keys and write mesh.lock. `approve` gets every unknown key at once and returns those it believes.

    With `replace` the hosts of --limit are asked anew, whatever mesh.lock and known_hosts hold.
    """
    with meshdir.run_lock(run.mesh), Session(run, secrets=False) as session:
        locked = session.files.lock or Lock(session.files.spec.mesh)
        before = tuple(n for n in session.roads if locked.ssh_host_keys(n) and not replace)
        known = {} if replace else {n: r.host_keys for n, r in session.roads.items() if n not in before and r.host_keys}
        unknown = {n: r for n, r in session.roads.items() if n not in before and n not in known}
        run.progress.phase("ask", tuple(unknown))
        answers = at_once(unknown, lambda name: _shown(name, unknown[name]))
        shown = [answer for answer in answers.values() if isinstance(answer, Shown)]
        approved = tuple(approve(shown)) if shown else ()
        for name, keys in known.items():
            locked = lock.pin(locked, name, keys)
        for answer in approved:
            locked = lock.pin(locked, answer.host, [answer.key])
        if locked != session.files.lock:
            meshdir.write(run.mesh.lock, lock.format(locked))
        failed = [answer for answer in answers.values() if isinstance(answer, HostError)]
        failed += [fault for name, fault in session.faults.items() if name in session.hosts]
        refused = {answer.host for answer in shown} - {answer.host for answer in approved}
        return Trusted(before, tuple(known), approved, tuple(sorted(refused)), tuple(failed))


def _shown(name: str, road: Road) -> Shown | HostError:
    # imported here: paramiko costs 0.2 s, and hosts that are pinned need none of it
    from meshctl.shell.sshparamiko import offered_host_key  # noqa: PLC0415

    try:
        return Shown(name, road.hostname, offered_host_key(name, road))
    except HostError as error:
        return error
