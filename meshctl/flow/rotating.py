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
from meshctl.flow import labs, safely
from meshctl.flow.river import Files, Session
from meshctl.flow.safely import Outcome, Planned
from meshctl.shell import keyring


@dataclass(frozen=True, slots=True)
class Rotating:
    """A change of keys, about to go on. `hosts` get new key pairs; `psk_epoch` is the next one of the pre-shared keys,
    or None. In MOVE both are history, and empty.
    """

    planned: Planned
    stage: Stage
    begun: bool
    hosts: tuple[str, ...] = ()
    psk_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was taken: its stage, its plan, what became of it, and the lock after it."""

    stage: Stage
    planned: Planned
    outcome: Outcome
    lock: Lock


def begin(session: Session, hosts: Sequence[str], *, psk: bool) -> Rotating:
    """What is to be done; nothing is written. A change that is under way goes on, and no other one begins before it is
    done.
    """
    files = session.files
    locked, ring = files.lock, files.ring
    if locked is None or ring is None or not locked.hosts:
        raise Failed("no host of this mesh has keys yet", "meshctl apply", "rotate")
    for name in hosts:
        if name not in files.spec.hosts:
            hint = names.did_you_mean(name, files.spec.hosts) or f"hosts: {', '.join(files.spec.hosts)}"
            raise Failed(f"there is no host {name}", hint)
        if name not in locked.hosts:
            raise Failed(f"{name} has no keys yet", "meshctl apply", "rotate")
    if locked.rotation is not None:
        return _go_on(session, files, locked, hosts, psk=psk)
    chosen = tuple(sorted(set(hosts) or (set(locked.hosts) & set(files.spec.hosts))))
    epoch = locked.psk_epoch + 1 if psk or not hosts else None
    ring = keyring.announced(ring, chosen, epoch)
    following = KeyRing(ring.next_private).public()
    wanted = replace(files, ring=ring, lock=rotation.begin(locked, following, psk=epoch is not None))
    return Rotating(safely.make_plan(session, wanted), Stage.ANNOUNCE, False, chosen, epoch)


def _go_on(session: Session, files: Files, locked: Lock, hosts: Sequence[str], *, psk: bool) -> Rotating:
    under_way = locked.rotation
    assert under_way is not None
    changing = tuple(locked.next_public_keys())
    if set(hosts) - set(changing) or (psk and under_way.psk_epoch is None):
        raise Failed(
            "another change of keys is under way, and this one would be the second",
            "finish it first: meshctl rotate",
            "rotate",
        )
    return Rotating(safely.make_plan(session), under_way.stage, True, changing, under_way.psk_epoch)


def carry_on(session: Session, rotating: Rotating) -> Iterator[Step]:
    """Take the steps that can be taken, and tell each one. The run lock is held by the caller."""
    if session.run.lab:
        part = labs.part(session.run.mesh, session.files.spec.mesh)
        session.run = replace(session.run, mesh=part)
    planned, stage = rotating.planned, rotating.stage
    while True:
        outcome = safely.apply(session, planned)
        locked = session.files.lock
        assert locked is not None
        yield Step(stage, planned, outcome, locked)
        if outcome.rolled_back or not rotation.may_move(locked):
            return
        # the lock before the keys, which drop the old ones: a key that no lock names does no harm
        session.keep(rotation.move(locked, planned.mesh.announced_to()))
        planned, stage = safely.make_plan(session), Stage.MOVE
