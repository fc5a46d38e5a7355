"""Keys change whatever happens: hosts that can't be reached, runs that are taken back, a controller that dies anywhere.

The hosts are their confirmed configurations, the controller is its two files. A run is what flow does, in the same
order: keys, lock, hosts, lock; it may end between any two of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import permutations

import pytest
from core.made import RELEASE, spec_of, world_of
from hypothesis import given
from hypothesis import strategies as st

from meshctl.core import bundle, keys, mesh, plan, rotation
from meshctl.core.canonical import PublicConf
from meshctl.core.errors import HostError
from meshctl.core.keys import KeyRing, NextRoot, Secret
from meshctl.core.lock import Lock, Stage
from meshctl.core.report import Report
from meshctl.core.spec import Spec

SHAPES = {
    "full": "mesh: m\nhosts: {a: root@a, b: root@b, c: root@c}\n",
    "hub": "mesh: m\nhosts: {a: root@a, b: root@b, c: root@c, d: root@d}\nlinks: {hub: a}\n",
}
ENDS = ["keys written", "lock written", "switched", "confirmed", "noted", "moved", None]


class Died(Exception):
    """The controller's end."""


@dataclass
class Rehearsal:
    """A mesh whose hosts all have its first keys."""

    spec: Spec
    lock: Lock
    ring: KeyRing
    reports: dict[str, Report]
    drawn: int = 0
    ever: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, text: str) -> Rehearsal:
        made = world_of(spec_of(text))
        return cls(made.spec, made.lock, made.ring, made.applied())

    def run(self, chosen: tuple[str, ...], silent: set[str], *, taken_back: bool, end: str | None) -> None:
        """`meshctl rotate`, which may die at `end`."""

        def reached(point: str) -> None:
            self.check()
            if point == end:
                raise Died

        ring, lock = self.ring, self.lock
        if lock.rotation is None:
            ring, lock = self._begun(chosen)
        while True:
            mesh_, lock, ring, bundles = self._desired(ring, lock)
            seen: dict[str, Report | HostError] = {
                n: HostError(n, "unreachable", "no answer") if n in silent else r for n, r in self.reports.items()
            }
            planned = plan.diff(mesh_, bundles, seen, lock, RELEASE)
            assert {e.code for e in planned.errors} <= {"unreachable"}
            assert not planned.lost, "hosts that change their keys reach each other all the while"
            self.ring = ring
            reached("keys written")
            self.lock = lock
            reached("lock written")
            reached("switched")
            done = set() if taken_back else set(planned.touched)
            for name in sorted(done):  # one after the other: any of them may be the last that got there
                self.reports[name] = plan.after(bundles[name], self.reports[name], RELEASE)
                self.check()
            reached("confirmed")
            right = {h.host for h in planned.hosts if not h.changes and not h.errors}
            self.lock = lock = rotation.seen(lock, done | right, {h.host for h in planned.hosts if h.changes} - done)
            reached("noted")
            if taken_back or not rotation.may_move(lock):
                return
            self.lock = lock = rotation.move(lock, mesh_.announced_to())
            reached("moved")

    def cancel(self, silent: set[str]) -> None:
        """`meshctl rotate --cancel`."""
        if self.lock.rotation is None or self.lock.rotation.stage is not Stage.ANNOUNCE:
            return
        _, locked, ring, bundles = self._desired(self.ring, rotation.cancel(self.lock))
        self.lock = locked
        self.check()
        self.ring = ring
        self.check()
        for name in sorted(set(bundles) - silent):
            self.reports[name] = plan.after(bundles[name], self.reports[name], RELEASE)
            self.check()

    def _begun(self, chosen: tuple[str, ...]) -> tuple[KeyRing, Lock]:
        self.drawn += 1
        names = chosen or tuple(self.lock.hosts)
        random = {name: sha256(f"{name} {self.drawn}".encode()).digest() for name in names}
        epoch = None if chosen else self.lock.psk_epoch + 1
        root = NextRoot(epoch, Secret(sha256(str(self.drawn).encode()).digest())) if epoch is not None else None
        ring = keys.announce(self.ring, random, root)
        return ring, rotation.begin(self.lock, KeyRing(ring.next_private).public(), psk=epoch is not None)

    def _desired(self, ring: KeyRing, lock: Lock) -> tuple[mesh.Mesh, Lock, KeyRing, dict[str, bundle.Bundle]]:
        coming = lock.rotation.psk_epoch if lock.rotation else None
        ring = keys.settled(ring, lock.public_keys(), lock.next_public_keys(), lock.psk_epoch, coming)
        made, lock = mesh.resolve(self.spec, lock, ring.public(), {}, {})
        return made, lock, ring, bundle.render(made, ring, RELEASE.version)

    def confs(self) -> dict[str, PublicConf]:
        found = {n: r.daemon.conf.public for n, r in self.reports.items() if r.daemon}
        return {name: conf for name, conf in found.items() if conf is not None}

    def check(self) -> None:
        """At any moment: the files agree as far as they must, and every two neighbours can shake hands."""
        keys.check(self.ring, self.lock.public_keys(), "mesh.keys", self.lock.next_public_keys())
        self._desired(self.ring, self.lock)
        confs = self.confs()
        for a, b in permutations(confs, 2):
            theirs = next((p for p in confs[a].peers if p.name == b), None)
            ours = next((p for p in confs[b].peers if p.name == a), None)
            assert (theirs is None) == (ours is None)
            if theirs is None or ours is None:
                continue
            assert {theirs.public_key, theirs.next_public_key} & own(confs[b]), f"{a} knows no key of {b}"
            assert shared(theirs) & shared(ours), f"{a} and {b} have no pre-shared key in common"


def own(conf: PublicConf) -> set[keys.PublicKey]:
    return {key for key in (conf.public_key, conf.next_public_key) if key is not None}


def shared(peer: object) -> set[str]:
    return {key for name in ("preshared_key", "next_preshared_key") if (key := getattr(peer, name)) is not None}


@st.composite
def runs(draw: st.DrawFn, names: str) -> Iterator[dict[str, object]]:
    return {
        "cancel": draw(st.sampled_from([True, False, False])),
        "chosen": draw(st.sampled_from([(), ("b",), ("a", "c")])),
        "silent": set(draw(st.lists(st.sampled_from(names), max_size=2))),
        "taken_back": draw(st.booleans()),
        "end": draw(st.sampled_from(ENDS)),
    }


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_keys_change_whatever_happens(shape: str, data: st.DataObject) -> None:
    now = Rehearsal.of(SHAPES[shape])
    first = now.confs()
    for run in data.draw(st.lists(runs("abc"), max_size=8)):
        try:
            if run.pop("cancel"):
                now.cancel(run["silent"])
            else:
                now.run(**run)
        except Died:
            now.check()
    # whatever was begun ends as soon as everybody is there, and then everybody has other keys than at first
    if now.lock.rotation is not None:
        now.run((), set(), taken_back=False, end=None)
    now.run((), set(), taken_back=False, end=None)
    assert now.lock.rotation is None
    assert not now.lock.next_public_keys()
    for name, conf in now.confs().items():
        assert conf.public_key == now.lock.hosts[name].public_key
        assert own(conf).isdisjoint(own(first[name]))
        before = {peer.name: shared(peer) for peer in first[name].peers}
        assert all(shared(peer).isdisjoint(before[peer.name]) for peer in conf.peers)
    # the next run drops what nobody needs any more, and finds nothing else to do
    made, _, ring, bundles = now._desired(now.ring, now.lock)
    assert ring.public() == now.lock.public_keys()
    assert not ring.next_private
    assert ring.next_root is None
    assert plan.diff(made, bundles, now.reports, now.lock, RELEASE).empty


def test_the_law_sees_hosts_that_are_two_apart() -> None:
    now = Rehearsal.of(SHAPES["full"])
    now.run((), {"c"}, taken_back=False, end=None)
    assert now.lock.rotation is not None
    now.lock = replace(now.lock, rotation=replace(now.lock.rotation, waits_for=frozenset()))
    with pytest.raises(AssertionError):
        now.run((), {"c"}, taken_back=False, end=None)
