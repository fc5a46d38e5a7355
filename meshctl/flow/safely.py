"""Safe apply: stage everywhere, switch, prove over fresh connections, then confirm everywhere or roll back everywhere.

Until it is confirmed a host goes back by itself when the time runs out, so nothing here has to succeed for the mesh to
be whole: a controller that dies leaves every host to its timer. The decision is taken once, for all switched hosts
together: every one of them answers over a fresh connection, and no link that was alive before is dead. A host that
failed earlier takes no part; a new link that doesn't come up is reported and rolls nothing back.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from meshctl.core import lock, plan, rotation, status
from meshctl.core.bundle import Bundle, absent
from meshctl.core.errors import Failure, HostError
from meshctl.core.lock import Lock
from meshctl.core.mesh import Mesh
from meshctl.core.plan import Action, Plan
from meshctl.core.report import PeerVitals, Report, Vitals
from meshctl.core.status import LinkStatus, Status
from meshctl.flow import river, safekeeping
from meshctl.flow.river import MESHD, Desired, Files, Run, Session
from meshctl.shell import ansible, keyring, meshdir
from meshctl.shell.ansible import StepEvent, Target
from meshctl.shell.ssh import Command
from meshctl.version import VERSION

WITHIN = 60  # seconds until an unconfirmed host goes back by itself
_WITHIN_EACH = 1  # seconds more a host: switching many takes a while
_ALIVE_WAIT = 2  # seconds; what was alive answers at once
_NOTHING_TO_CONFIRM = 5  # exit status of meshd confirm (contracts §3)
_ROLLBACK_TIMEOUT = 15.0  # seconds; the timer does it when we can't


class Result(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    HEALED = "healed"
    REMOVED = "removed"
    ROLLED_BACK = "rolled back"
    GOING_BACK = "goes back by itself"
    UNTOUCHED = "not touched"
    FAILED = "failed"


_DONE = {
    Action.CREATE: Result.CREATED,
    Action.CHANGE: Result.CHANGED,
    Action.DRIFT: Result.HEALED,
    Action.REMOVE: Result.REMOVED,
}


@dataclass(frozen=True, slots=True)
class HostOutcome:
    host: str
    result: Result
    error: HostError | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each host that was to be touched.

    `status` has the links that are expected now; `waiting` counts those with an end that failed. `rolled_back` says why
    nothing was kept, or is empty; hosts that could not be told so go back by themselves within `back_within_s` seconds.
    """

    hosts: tuple[HostOutcome, ...] = ()
    status: Status | None = None
    waiting: int = 0
    rolled_back: tuple[str, ...] = ()
    back_within_s: int = 0

    @property
    def exit(self) -> int:
        """0 done; 1 nothing was kept; 4 some hosts are not done."""
        if self.rolled_back:
            return 1
        return 4 if any(h.result is Result.FAILED for h in self.hosts) else 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what it was made of. A removal desires nothing, so that it needs no key."""

    plan: Plan
    mesh: Mesh
    lock: Lock
    reports: Mapping[str, Report | HostError]
    desired: Desired | None = None


class Interrupted(Failure):
    """Ctrl-C after hosts had begun to switch: which went back, which will, and which had been confirmed by then."""

    exit = 130

    def __init__(self, rolled_back: Iterable[str] = (), left: Iterable[str] = (), kept: Iterable[str] = ()) -> None:
        super().__init__("interrupted")
        self.rolled_back, self.left, self.kept = tuple(rolled_back), tuple(left), tuple(kept)


@contextlib.contextmanager
def session(run: Run, *, secrets: bool = True) -> Iterator[Session]:
    """A session that may change hosts: the run lock is held from before the first look until after the last word."""
    with meshdir.run_lock(run.mesh), Session(run, secrets=secrets) as made:
        yield made


def make_plan(session: Session, files: Files | None = None) -> Planned:
    """Observe and compare, with these files or with those on disk; nothing is written anywhere."""
    river.refuse(files or session.files, session.places)
    reports = session.observe()
    desired = session.desire(reports, files)
    planned = session.diff(desired, reports)
    told = safekeeping.findings(session.run.mesh, session.run.vault)
    told += safekeeping.unlocked(session.files.lock, session.files.ring)
    return Planned(replace(planned, findings=(*planned.findings, *told)), desired.mesh, desired.lock, reports, desired)


def removal_plan(session: Session) -> Planned:
    """What taking the mesh off every (chosen) host would do. No key is needed for that: they may be lost."""
    reports = session.observe()
    meant, locked = river.meant(session.files, session.places)
    before = session.files.lock or Lock(meant.name)
    planned = plan.removal(meant.name, reports, before, river.release(), named=frozenset(session.run.limit))
    return Planned(planned, meant, locked, reports)


def apply(session: Session, planned: Planned) -> Outcome:
    """Do the plan. The run lock is held by the caller. After a roll back hosts and lock are as they were before."""
    before = session.files.lock
    if planned.desired is not None:
        session.keep(planned.desired.lock, planned.desired.ring)
    doing = _Doing(session, planned)
    outcome = doing.switch()
    removed = doing.spare() if outcome.rolled_back else doing.remove()
    hosts = tuple(sorted((*_unreachable(planned.plan), *outcome.hosts, *removed), key=lambda h: h.host))
    if outcome.rolled_back and before is not None and before.rotation is None and planned.lock.rotation is None:
        session.keep(before)  # else a port or an address that was taken back would be wanted again by the next run
        return replace(outcome, hosts=hosts)
    planned = _note(session, planned, hosts)
    if not outcome.rolled_back:
        _forget(session, planned, [*planned.plan.forget, *_gone(planned, removed)])
    return replace(outcome, hosts=hosts, status=_with_findings(session, outcome.status, planned))


def remove(session: Session, planned: Planned, *, forget: bool = False) -> Outcome:
    """Take the mesh off the planned hosts. mesh.lock and mesh.keys keep the members' identities.

    With `forget`, hosts that left mesh.yaml and can't be reached are given up: nobody asks for them again.
    """
    removed = _Doing(session, planned).remove()
    failed = _unreachable(planned.plan)
    given_up = [h.host for h in failed if forget and h.host in planned.lock.leaving]
    _forget(session, planned, [*_gone(planned, removed), *given_up])
    left = [h for h in failed if h.host not in given_up]
    return Outcome(tuple(sorted((*left, *removed), key=lambda h: h.host)))


class _Doing:
    """One plan being done."""

    def __init__(self, session: Session, planned: Planned) -> None:
        self.session, self.planned = session, planned
        self.mesh = planned.mesh
        self.bundles: Mapping[str, Bundle] = planned.desired.bundles if planned.desired else {}
        self.actions = {h.host: h.action for h in planned.plan.hosts if h.host in planned.plan.touched}
        self.reached: set[str] = set()  # hosts that may have switched
        self.errors: dict[str, HostError] = {}
        self.switched: list[str] = []
        self.kept: tuple[str, ...] = ()  # confirmed
        self.back: tuple[str, ...] = ()  # hosts that said they went back; the others do when their time runs out

    def switch(self) -> Outcome:
        hosts = [name for name, action in self.actions.items() if action is not Action.REMOVE]
        if not hosts:
            return Outcome()
        try:
            before = self._alive_before(hosts)
            within = WITHIN + _WITHIN_EACH * len(hosts)
            self._play("apply", hosts, {"meshd_confirm": False, "meshd_within": within})
            self.session.pool = self.session.pool.fresh()
            vitals = self._probe(hosts)
            if why := self._why_not(before, vitals):
                self._roll_back()
                return Outcome(tuple(self._outcomes(hosts, rolled_back=True)), rolled_back=why, back_within_s=within)
            with _interrupts_wait():  # decided: half of it would be the worst of both
                self._confirm()
                self.kept = tuple(host for host in self.switched if host not in self.errors)
        except KeyboardInterrupt:
            if not self.reached:
                raise
            raise self._retreat() from None
        except Exception:  # whatever it is: no host stays switched until its time runs out
            self._roll_back()
            raise
        if not vitals:
            return Outcome(tuple(self._outcomes(hosts)))
        judged = status.judge(self.mesh, vitals)
        expected = [link for link in judged.links if self._expected(link)]
        waiting = len(judged.links) - len(expected)
        probed = tuple(link for link in expected if link.a in vitals or link.b in vitals)
        return Outcome(tuple(self._outcomes(hosts)), replace(judged, links=probed), waiting)

    def remove(self) -> list[HostOutcome]:
        hosts = [name for name, action in self.actions.items() if action is Action.REMOVE]
        if not hosts:
            return []
        self._play("remove", hosts, {"meshd_name": self.mesh.name})
        return list(self._outcomes(hosts))

    def spare(self) -> list[HostOutcome]:
        """The hosts that were to be removed, and aren't: the others would go on without them."""
        return [HostOutcome(n, Result.UNTOUCHED) for n, action in self.actions.items() if action is Action.REMOVE]

    def _play(self, playbook: str, hosts: list[str], variables: Mapping[str, object]) -> None:
        session, told = self.session, self.session.run.progress
        told.phase(playbook, tuple(hosts))
        targets = [Target(name, session.roads[name], self._bundle(name), self._arch(name)) for name in hosts]

        def on_event(event: StepEvent) -> None:
            if event.step == "switch" and event.status == "start":
                self.reached.add(event.host)
            if event.step == "switch" and event.status in ("ok", "changed"):
                self.switched.append(event.host)
            if event.error is not None:
                self.errors[event.host] = event.error
            told.step(event.host, event.step, event.status)

        password = session.run.become_password
        ansible.run(playbook, targets, on_event, variables=variables, become_password=password)

    def _bundle(self, name: str) -> Bundle:
        return self.bundles.get(name) or absent(self.mesh.name, name, VERSION)

    def _arch(self, name: str) -> str | None:
        seen = self.planned.reports[name]
        return seen.arch if isinstance(seen, Report) else None

    def _alive_before(self, hosts: Iterable[str]) -> dict[str, set[str]]:
        """Host → keys and names of the peers that answer it now. An idle link tells nothing, so all are probed."""
        running = [name for name in hosts if self._runs(name)]
        if not running:
            return {}
        self.session.run.progress.phase("probe", tuple(running))
        vitals = self.session.ping(running, _ALIVE_WAIT)
        return {
            name: {word for peer in seen.peers if peer.alive for word in _words(peer)}
            for name, seen in vitals.items()
            if isinstance(seen, Vitals)
        }

    def _runs(self, name: str) -> bool:
        seen = self.planned.reports[name]
        return isinstance(seen, Report) and seen.daemon is not None and seen.daemon.state == "running"

    def _probe(self, hosts: Iterable[str]) -> dict[str, Vitals | HostError]:
        """The touched hosts, and with them the members that nothing was done to: the other ends of their links. All at
        once, since only an end that knows the other's endpoint can wake a link whose other end has started anew.
        """
        asked = [name for name in hosts if name not in self.errors or self._cut_off(name)]
        asked += [name for name in self.session.roads if name in self.mesh.hosts and name not in self.actions]
        asked = [name for name in asked if name in self.actions or self._runs(name)]
        self.session.run.progress.phase("probe", tuple(asked))
        return self.session.ping(asked)

    def _why_not(self, before: Mapping[str, set[str]], vitals: Mapping[str, Vitals | HostError]) -> tuple[str, ...]:
        """Reasons to go back: empty when all is well."""
        names = {str(host.public_key): name for name, host in self.mesh.hosts.items()}
        why = []
        for name in sorted(self.reached):
            seen = vitals.get(name)
            if isinstance(seen, HostError):
                why.append(f"{name} does not answer over a fresh connection: {seen.what}")
            elif name not in self.switched and self._cut_off(name):
                why.append(f"{name} was cut off while it switched: {self.errors[name].what}")
        for name in sorted(self.switched):
            seen = vitals[name]
            if isinstance(seen, HostError):
                continue
            if (wrong := status.trouble(seen)) is not None:
                why.append(f"{name} switched, and {wrong}")
            dead = {
                names.get(peer.public_key) or peer.name or peer.public_key: peer.reason or "no answer"
                for peer in seen.peers
                if peer.alive is False and not before.get(name, set()).isdisjoint(_words(peer))
            }
            why += [f"the link {name} -- {other} was alive and is dead: {dead[other]}" for other in sorted(dead)]
        return tuple(why)

    def _cut_off(self, name: str) -> bool:
        """Whether the connection broke while the host switched: then nobody knows whether it did."""
        return name in self.reached and name in self.errors and self.errors[name].code != "switch"

    def _confirm(self) -> None:
        # --force: whether to confirm was decided for all hosts together, and a host of another opinion would make a
        # mixture of old and new
        told = self.session.run.progress
        told.phase("confirm", tuple(self.switched))
        confirm = f"{MESHD} confirm {self.mesh.name} --force --id "
        commands = {host: Command(confirm + self.bundles[host].id) for host in self.switched}
        answers = self.session.pool.run_all(commands, lambda host, _: told.step(host, "confirm", "done"))
        for host, answer in answers.items():
            if isinstance(answer, HostError):
                self.errors[host] = answer
            elif answer.exit == _NOTHING_TO_CONFIRM:
                what = "it went back by itself before it could be confirmed"
                self.errors[host] = HostError(host, "switch", what, "run meshctl apply again")
            elif answer.exit != 0:
                what = (answer.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("meshd: ")
                self.errors[host] = HostError(host, "switch", f"it did not confirm: {what}", "run meshctl apply again")

    def _expected(self, link: LinkStatus) -> bool:
        """Whether both ends have what they should have."""
        failed = {*self.errors, *(h.host for h in self.planned.plan.hosts if h.errors)}
        return link.a not in failed and link.b not in failed

    def _roll_back(self) -> None:
        hosts = sorted(self.reached)
        if not hosts:
            return
        self.session.pool = self.session.pool.fresh()
        self.session.run.progress.phase("roll back", tuple(hosts))
        command = Command(f"{MESHD} rollback {self.mesh.name}", timeout=_ROLLBACK_TIMEOUT)
        answers = self.session.pool.run_all(dict.fromkeys(hosts, command))
        self.back = tuple(host for host, answer in answers.items() if not isinstance(answer, HostError))

    def _retreat(self) -> Interrupted:
        """After Ctrl-C: back on every host that may have switched. A second Ctrl-C leaves the rest to their timers."""
        if self.kept:
            return Interrupted(kept=self.kept)
        with contextlib.suppress(KeyboardInterrupt):
            self._roll_back()
        return Interrupted(self.back, sorted(self.reached - set(self.back)))

    def _outcomes(self, hosts: Iterable[str], *, rolled_back: bool = False) -> Iterable[HostOutcome]:
        for name in hosts:
            if rolled_back and name in self.reached:
                yield HostOutcome(name, Result.ROLLED_BACK if name in self.back else Result.GOING_BACK)
            elif name in self.errors:
                yield HostOutcome(name, Result.FAILED, self.errors[name])
            else:
                yield HostOutcome(name, _DONE[self.actions[name]])


def _words(peer: PeerVitals) -> set[str]:
    """What tells a peer: its key, or its name where the key changes."""
    return {peer.public_key} | ({peer.name} if peer.name else set())


def _unreachable(planned: Plan) -> list[HostOutcome]:
    """The hosts that the plan already knew to fail."""
    return [HostOutcome(h.host, Result.FAILED, h.errors[0]) for h in planned.hosts if h.errors]


def _note(session: Session, planned: Planned, hosts: Iterable[HostOutcome]) -> Planned:
    """The plan's lock, with what is known by now of a change of keys. What hosts of a lab have says nothing of the real
    ones, unless the lab has a lock of its own.
    """
    if planned.lock.rotation is None or (session.run.lab and session.run.mesh.aside is None):
        return planned
    results = {h.host: h.result for h in hosts}
    done = {name for name, result in results.items() if result in _DONE.values()}
    wrong = {h.host for h in planned.plan.hosts if h.changes} - done
    locked = rotation.seen(planned.lock, done.union(planned.plan.right), wrong)
    session.keep(locked)
    return replace(planned, lock=locked)


def _with_findings(session: Session, judged: Status | None, planned: Planned) -> Status | None:
    """What is said beside the links, as it is after the change."""
    if judged is None:
        return None
    kept = (finding for finding in judged.findings if finding.code != "rotation")
    return replace(judged, findings=(*kept, *session.changing(planned.lock)))


def _gone(planned: Planned, removed: Iterable[HostOutcome]) -> list[str]:
    """The removed hosts that mesh.yaml doesn't have any more."""
    return [h.host for h in removed if h.result is Result.REMOVED and h.host in planned.lock.leaving]


def _forget(session: Session, planned: Planned, gone: list[str]) -> None:
    """mesh.lock without the hosts that left, and mesh.keys without theirs where it is open."""
    locked = lock.forget(planned.lock, gone)
    if not gone or locked == planned.lock:
        return
    # the lock first here: keys that no lock names do no harm, a lock without its keys does
    meshdir.write(session.run.mesh.lock, lock.format(locked))
    if planned.desired is not None:
        ring = planned.desired.ring.only(locked.public_keys())
        keyring.write(session.run.mesh.keys, ring, session.files.password)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C and its kin come after the block, not in it."""
    came: list[int] = []
    orders = [o for o in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(o) is not signal.SIG_IGN]
    handlers = [signal.signal(order, lambda number, _: came.append(number)) for order in orders]
    try:
        yield
    finally:
        for order, handler in zip(orders, handlers, strict=True):
            signal.signal(order, handler)
    if came:
        raise KeyboardInterrupt
