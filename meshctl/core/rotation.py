"""Rotation: how a mesh changes its keys, as steps from one mesh.lock to the next.

    settled ─begin→ ANNOUNCE ─(every host concerned has it)─move→ MOVE ─(every host concerned has it)→ settled
       ↑─────cancel────┘

In ANNOUNCE a host is given its next key pair beside the current one, and the next keys of its peers beside theirs; in
MOVE the next ones are the current ones, alone. Hosts that are one step apart always understand each other (contracts
§1a), so no host may be given the third configuration before all are known to have the second. What is known is kept in
the lock, since a host that has it stays ready although it can't be reached today.

What it does not do: draw keys, or talk with hosts. Begun again after any interruption it goes on where the lock says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from meshctl.core.keys import PublicKey
from meshctl.core.lock import Lock, LockedHost, Rotation, Stage


def begin(lock: Lock, following: Mapping[str, PublicKey], *, psk: bool) -> Lock:
    """The settled lock with these next keys announced; with `psk` also the next epoch of the pre-shared keys.

    It waits for every host; resolve takes those out that nothing changes for.
    """
    hosts = {name: replace(host, next_public_key=following.get(name)) for name, host in lock.hosts.items()}
    rotation = Rotation(Stage.ANNOUNCE, lock.psk_epoch + 1 if psk else None, frozenset(lock.hosts))
    return replace(lock, hosts=hosts, rotation=rotation)


def members(
    rotation: Rotation | None, before: Iterable[str], now: Iterable[str], concerned: Iterable[str]
) -> Rotation | None:
    """The rotation of a mesh whose hosts are `now` others than `before`: nobody waits for a host that has left, and a
    new one must learn what the others know. `concerned` are the hosts whose configuration it changes; in MOVE nothing
    shows any more who that was, and nobody is taken out.
    """
    if rotation is None:
        return None
    there = set(now)
    waits = (rotation.waits_for | (there - set(before))) & there
    if rotation.stage is Stage.ANNOUNCE:
        return replace(rotation, waits_for=waits & set(concerned))
    return replace(rotation, waits_for=waits) if waits else None


def seen(lock: Lock, ready: Iterable[str], unready: Iterable[str]) -> Lock:
    """The lock after a look at hosts: `ready` ones have what this stage brings, `unready` ones haven't. Of the others
    nothing new is known. MOVE ends by itself: then there is nothing left to remember.
    """
    rotation = lock.rotation
    if rotation is None:
        return lock
    waits = rotation.waits_for - set(ready)
    if rotation.stage is Stage.MOVE:
        return replace(lock, rotation=replace(rotation, waits_for=waits) if waits else None)
    # restored from an old snapshot, say: it doesn't know any more what it knew
    waits |= set(unready) & set(lock.hosts)
    return replace(lock, rotation=replace(rotation, waits_for=waits))


def may_move(lock: Lock) -> bool:
    """Whether every host knows the next keys, so that the old ones can go."""
    rotation = lock.rotation
    return rotation is not None and rotation.stage is Stage.ANNOUNCE and not rotation.waits_for


def move(lock: Lock, concerned: Iterable[str]) -> Lock:
    """The next keys are the current ones, and nobody is known to be without the old ones.

    A host that left in the meantime keeps the key that it was last known by.
    """
    rotation = lock.rotation
    if rotation is None or not may_move(lock):
        raise ValueError("not every host knows the next keys")
    hosts = {name: _moved(host) for name, host in lock.hosts.items()}
    leaving = {name: replace(host, next_public_key=None) for name, host in lock.leaving.items()}
    moved = Rotation(Stage.MOVE, None, frozenset(concerned) & frozenset(hosts))
    return replace(lock, psk_epoch=rotation.psk_epoch or lock.psk_epoch, hosts=hosts, leaving=leaving, rotation=moved)


def cancel(lock: Lock) -> Lock:
    """The lock without the next keys: no host has taken the current ones out yet. ValueError when one may have."""
    if lock.rotation is None or lock.rotation.stage is not Stage.ANNOUNCE:
        raise ValueError("there is nothing to give up")
    hosts, leaving = (
        {name: replace(host, next_public_key=None) for name, host in known.items()}
        for known in (lock.hosts, lock.leaving)
    )
    return replace(lock, hosts=hosts, leaving=leaving, rotation=None)


def said(lock: Lock) -> tuple[tuple[str, ...], str, str] | None:
    """What an operator must know of a change of keys under way: the hosts that it waits for, what, and a hint."""
    if lock.rotation is None:
        return None
    waits = tuple(sorted(lock.rotation.waits_for))
    names = ", ".join(waits)
    if lock.rotation.stage is Stage.MOVE:
        what = f"keys are being changed: {names} still {'takes' if len(waits) == 1 else 'take'} the old ones"
        return waits, what, "meshctl rotate goes on, and so does meshctl apply"
    if not waits:
        return waits, "keys are being changed: every host knows the next ones", "meshctl rotate takes the old ones out"
    knows = "knows" if len(waits) == 1 else "know"
    what = f"keys are being changed: the old ones stay until {names} {knows} the next ones"
    return waits, what, "meshctl rotate goes on; a host that never comes back is to be deleted from mesh.yaml"


def _moved(host: LockedHost) -> LockedHost:
    return replace(host, public_key=host.next_public_key or host.public_key, next_public_key=None)
