"""Rotate: every host is told the next keys beside the current ones; when all know them, the old ones go.

    begin      next keys drawn in memory, and the plan of the first step
    carry_on   ANNOUNCE, a safe apply; when nobody is waited for any more, MOVE, another one

mesh.keys and mesh.lock hold the next keys before the first host is touched, and mesh.lock how far the change is, so a
run that ended anywhere (killed, rolled back, without some hosts) is gone on with by the next. What decides is
core/rotation.py. In a lab all this happens to copies: the real hosts would miss a step of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from meshctl.core import names, rotation
from meshctl.core.errors import Failed
from meshctl.core.keys import KeyRing
from meshctl.core.lock import Lock, Stage
from meshctl.core.mesh import Finding
from meshctl.flow import labs, safely
from meshctl.flow.river import Session
from meshctl.flow.safely import Outcome, Planned
from meshctl.shell import keyring


@dataclass(frozen=True, slots=True)
class Rotating:
    """A change of keys, about to go on. `hosts` get new key pairs; `psk_epoch` is the next one of the pre-shared keys,
    or None. In MOVE both are history, and empty. `stage` is None when the change is given up.
    """

    planned: Planned
    stage: Stage | None
    begun: bool
    hosts: tuple[str, ...] = ()
    psk_epoch: int | None = None

    @property
    def known(self) -> bool:
        """Every host knows the next keys already."""
        return rotation.may_move(rotation.seen(self.planned.lock, self.planned.plan.right, ()))

    @property
    def idle(self) -> bool:
        """Nothing can be done, here or on any host: all that it waits for is silent."""
        return self.stage is not None and not self.planned.plan.touched and not self.known

    @property
    def futile(self) -> bool:
        """It would begin, and no host that it concerns could be told of it: then it is better not begun."""
        under_way = self.planned.lock.rotation
        if self.begun or under_way is None:
            return False
        return under_way.waits_for.isdisjoint((*self.planned.plan.touched, *self.planned.plan.right))


class Untold(Failed):
    """No host can be told the next keys: nothing was begun."""

    exit = 4


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was taken: its stage, its plan, what became of it, the lock after it, and what that says."""

    stage: Stage | None
    planned: Planned
    outcome: Outcome
    lock: Lock
    findings: tuple[Finding, ...] = ()


def begin(session: Session, hosts: Sequence[str], *, psk: bool) -> Rotating:
    """What is to be done; nothing is written. A change that is under way goes on, and no other one begins before it is
    done.
    """
    files = session.files
    locked, ring = files.lock, files.ring
    if locked is None or ring is None or not locked.hosts:
        raise _refused(session, "no host of this mesh has keys yet", "meshctl apply")
    for name in hosts:
        if name not in files.spec.hosts:
            hint = names.did_you_mean(name, files.spec.hosts) or f"hosts: {', '.join(files.spec.hosts)}"
            raise _refused(session, f"there is no host {name}", hint)
        if name not in locked.hosts:
            raise _refused(session, f"{name} has no keys yet", "meshctl apply")
    if locked.rotation is not None:
        return _go_on(session, locked, hosts, psk=psk)
    chosen = tuple(sorted(set(hosts) or (set(locked.hosts) & set(files.spec.hosts))))
    epoch = locked.psk_epoch + 1 if psk or not hosts else None
    ring = keyring.announced(ring, chosen, epoch)
    following = KeyRing(ring.next_private).public()
    wanted = replace(files, ring=ring, lock=rotation.begin(locked, following, psk=epoch is not None))
    return Rotating(safely.make_plan(session, wanted), Stage.ANNOUNCE, False, chosen, epoch)


def _go_on(session: Session, locked: Lock, hosts: Sequence[str], *, psk: bool) -> Rotating:
    under_way = locked.rotation
    assert under_way is not None
    changing = tuple(locked.next_public_keys())
    if set(hosts) - set(changing) or (psk and under_way.psk_epoch is None):
        raise _refused(
            session,
            "another change of keys is under way, and this one would be the second",
            "finish it first: meshctl rotate",
        )
    still = tuple(name for name in changing if name in session.files.spec.hosts)  # who left gets none any more
    return Rotating(safely.make_plan(session), under_way.stage, True, still, under_way.psk_epoch)


def give_up(session: Session) -> Rotating:
    """The current keys alone again. Nothing is written; what hosts have been told already the plan takes away."""
    locked = session.files.lock
    if locked is None or locked.rotation is None:
        raise _refused(session, "no change of keys is under way")
    if locked.rotation.stage is not Stage.ANNOUNCE:
        what = "the old keys are being taken out already: there is no way back, and none is needed"
        raise _refused(session, what, "finish it: meshctl rotate")
    wanted = replace(session.files, lock=rotation.cancel(locked))
    changing = tuple(locked.next_public_keys())
    return Rotating(safely.make_plan(session, wanted), None, True, changing, locked.rotation.psk_epoch)


def carry_on(session: Session, rotating: Rotating) -> Iterator[Step]:
    """Take the steps that can be taken, and tell each one. The run lock is held by the caller.

    Untold, and nothing is written, when there is nobody to begin with.
    """
    if rotating.futile:
        first = "put that right" if rotating.planned.plan.errors else "leave --limit out"
        hint = f"{first}, then: meshctl rotate{' --lab' if session.run.lab else ''}"
        raise Untold("no change of keys was begun: no host can be told the next ones", hint, "rotate")
    if session.run.lab:
        part = labs.part(session.run.mesh, session.files.spec.mesh)
        session.run = replace(session.run, mesh=part)
    planned, stage = rotating.planned, rotating.stage
    if stage is None:
        session.keep(planned.lock)  # before the keys, which drop the next ones
    while True:
        outcome = safely.apply(session, planned)
        locked = session.files.lock
        assert locked is not None
        yield Step(stage, planned, outcome, locked, session.changing(locked))
        if outcome.rolled_back or not rotation.may_move(locked):
            return
        # the lock before the keys, which drop the old ones: a key that no lock names does no harm
        session.keep(rotation.move(locked, planned.mesh.announced_to()))
        planned, stage = safely.make_plan(session), Stage.MOVE


def _refused(session: Session, what: str, hint: str | None = None) -> Failed:
    return Failed(what, labs.hint(hint) if hint and session.run.lab else hint, "rotate")
