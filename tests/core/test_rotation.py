"""A change of keys: what mesh.lock says of it, what each host is given, and whom it waits for."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from meshctl.core import bundle, canonical, keys, lock, mesh, plan, rotation, status
from meshctl.core.errors import HostError, Invalid
from meshctl.core.keys import KeyRing, NextRoot, Secret
from meshctl.core.lock import Lock, Rotation, Stage
from meshctl.core.report import PeerVitals, Report, Vitals
from meshctl.shell import yamlfile

from .made import RELEASE, THREE, World, world

HUB = "mesh: prod\nhosts: {a: root@a, b: root@b, c: root@c, d: root@d}\nlinks: {hub: a}\n"
MANY = [f"h{i:02}" for i in range(24)]
HUBS = f"mesh: prod\nhosts: {{{', '.join(f'{n}: root@{n}' for n in MANY)}}}\nlinks: {{hub: [h00, h01]}}\n"
NEXT = {name: sha256(f"{name} next".encode()).digest() for name in (*"abcd", *MANY)}


def announced(before: World, *names: str, psk: bool) -> World:
    """The mesh with next keys for these hosts."""
    root = NextRoot(before.lock.psk_epoch + 1, Secret(b"r" * 32)) if psk else None
    ring = keys.announce(before.ring, {name: NEXT[name] for name in names}, root)
    return again(before, rotation.begin(before.lock, KeyRing(ring.next_private).public(), psk=psk), ring)


def again(before: World, locked: Lock, ring: KeyRing | None = None) -> World:
    """The mesh, resolved with this lock."""
    coming = locked.rotation.psk_epoch if locked.rotation else None
    ring = keys.settled(ring or before.ring, locked.public_keys(), locked.next_public_keys(), locked.psk_epoch, coming)
    made, locked = mesh.resolve(before.spec, locked, ring.public(), {}, {})
    return World(before.spec, made, locked, ring, bundle.render(made, ring, RELEASE.version), RELEASE)


def moved(before: World) -> World:
    ready = rotation.seen(before.lock, before.mesh.hosts, ())
    return again(before, rotation.move(ready, before.mesh.announced_to()))


def waits(of: Lock) -> set[str]:
    assert of.rotation is not None
    return set(of.rotation.waits_for)


def read(text: str) -> Lock:
    return lock.read(yamlfile.parse(text.encode(), "mesh.lock"), "mesh.lock")


def test_each_step_gives_a_host_what_the_contract_says() -> None:
    old = world(THREE)
    both = announced(old, "a", psk=True)
    new = moved(both)
    a = [made.bundles["a"].public for made in (old, both, new)]
    b = [next(p for p in made.bundles["b"].public.peers if p.name == "a") for made in (old, both, new)]
    assert [(c.public_key, c.next_public_key) for c in a] == [(p.public_key, p.next_public_key) for p in b]
    first, second = a[0].public_key, keys.public_of(keys.private_key(NEXT["a"]))
    assert [(c.public_key, c.next_public_key) for c in a] == [(first, None), (first, second), (second, None)]
    assert (b[0].preshared_key, b[0].next_preshared_key) == (b[1].preshared_key, None)
    assert (b[2].preshared_key, b[2].next_preshared_key) == (b[1].next_preshared_key, None)
    assert b[0].preshared_key != b[2].preshared_key
    assert new.mesh.psk_epoch == old.mesh.psk_epoch + 1


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a",)])
def test_a_step_that_was_taken_leaves_nothing_to_do_and_cuts_nobody_off(names: tuple[str, ...]) -> None:
    old = world(THREE)
    both = announced(old, *names, psk=len(names) > 1)
    reports = old.applied()
    for step in (both, moved(both)):
        planned = step.plan(reports)
        assert planned.touched == ("a", "b", "c")
        assert (planned.gained, planned.lost, planned.errors) == ((), (), ())
        assert all("linked" not in (c.before, c.after) for h in planned.hosts for c in h.changes)
        reports = step.applied(reports)
        assert step.plan(reports).touched == ()


def test_two_hubs_and_their_spokes_are_never_cut_off_while_they_follow_one_by_one() -> None:
    old = world(HUBS)
    both = announced(old, *MANY, psk=True)
    reports = old.applied()
    for step in (both, moved(both)):
        after, left = step.applied(reports), set(MANY)
        for name in (*MANY[2::2], "h00", *MANY[3::2], "h01"):
            planned = step.plan(reports)
            assert (set(planned.touched), planned.gained, planned.lost, planned.errors) == (left, (), (), ())
            reports[name] = after[name]
            left.remove(name)
        assert step.plan(reports).touched == ()
    # a spoke's pair alone: its hubs and itself are told, the other spokes need nothing
    one = announced(old, "h07", psk=False)
    assert waits(one.lock) == {"h00", "h01", "h07"}


def test_a_host_is_still_ours_when_its_next_key_is_the_current_one() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True)
    new = moved(both)
    assert new.plan(both.applied()).errors == ()


def test_hosts_that_learn_nothing_new_are_not_waited_for() -> None:
    one = announced(world(HUB), "b", psk=False)
    assert waits(one.lock) == {"a", "b"}
    assert one.plan(world(HUB).applied()).touched == ("a", "b")
    assert waits(announced(world(HUB), "b", psk=True).lock) == {"a", "b", "c", "d"}


def test_what_a_host_is_known_to_have_is_kept_while_it_is_silent() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True).lock
    first = rotation.seen(both, {"a", "b"}, ())
    assert waits(first) == {"c"}
    assert not rotation.may_move(first)
    second = rotation.seen(first, {"c"}, ())
    assert rotation.may_move(second)
    assert rotation.seen(second, (), {"b"}) == rotation.seen(both, {"a", "c"}, ()), "it was set back by hand"
    with pytest.raises(ValueError, match="not every host"):
        rotation.move(first, "abc")


def test_it_ends_when_the_last_host_has_moved() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True)
    new = moved(both).lock
    assert waits(new) == {"a", "b", "c"}
    assert rotation.seen(new, {"a", "b"}, {"c"}).rotation == Rotation(Stage.MOVE, None, frozenset("c"))
    done = rotation.seen(new, {"a", "b", "c"}, ())
    assert done.rotation is None
    assert "rotation" not in lock.format(done)


def test_a_host_that_leaves_is_not_waited_for_and_keeps_the_key_it_was_known_by() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True)
    gone = world(THREE.replace("  c: {ssh: root@c.example.com, nat: true}\n", ""))
    made = again(replace(both, spec=gone.spec), rotation.seen(both.lock, {"a", "b"}, ()), both.ring)
    assert rotation.may_move(made.lock)
    after = again(made, rotation.move(made.lock, made.mesh.announced_to()), both.ring)
    assert after.lock.leaving["c"].public_key == world(THREE).lock.hosts["c"].public_key
    assert after.lock.leaving["c"].next_public_key is None
    keys.check(after.ring, after.lock.public_keys(), "mesh.keys", after.lock.next_public_keys())
    for reports in (world(THREE).applied(), both.applied()):
        seen = {**both.applied(), "c": reports["c"]}
        assert plan.diff(after.mesh, after.bundles, seen, after.lock, RELEASE).touched == ("a", "b", "c")


def test_a_new_host_learns_what_the_others_know() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True)
    ready = rotation.seen(both.lock, {"a", "b", "c"}, ())
    spec = world(THREE + "  d: root@d.example.com\n").spec
    ring = keys.grow(both.ring, {"d": NEXT["d"]})
    made = again(replace(both, spec=spec), ready, ring)
    assert waits(made.lock) == {"d"}
    d = made.bundles["d"].public
    assert d is not None
    assert d.next_public_key is None
    assert all(p.next_public_key and p.next_preshared_key for p in d.peers)


def test_the_lock_says_it_and_is_read_back() -> None:
    old = world(THREE)
    both = rotation.seen(announced(old, "a", psk=True).lock, {"a", "b"}, ())
    text = lock.format(both)
    assert "psk_epoch: 1\nrotation:\n  stage: announce\n  psk_epoch: 2\n  waits_for:\n    - c\nhosts:\n" in text
    assert text.count("    next_public_key: ") == 1
    assert read(text) == both
    for after in (moved(announced(old, "a", psk=False)).lock, rotation.seen(both, {"c"}, ())):
        assert read(lock.format(after)) == after


@pytest.mark.parametrize(
    ("was", "becomes", "what"),
    [
        ("stage: announce", "stage: announced", "neither announce nor move"),
        ("stage: announce", "stage: move", "no rotation announces it"),
        ("  psk_epoch: 2", "  psk_epoch: two", "psk_epoch must be"),
        ("  waits_for:", "  wait_for:", "unknown word wait_for"),
        ("    - c\n", "    - [c]\n", "waits_for must be a list"),
        ("  waits_for:\n    - c\n", "", "waits_for is missing"),
    ],
)
def test_what_a_hand_or_a_merge_broke_is_told(was: str, becomes: str, what: str) -> None:
    good = lock.format(rotation.seen(announced(world(THREE), "a", psk=True).lock, {"a", "b"}, ()))
    assert was in good
    with pytest.raises(Invalid) as caught:
        read(good.replace(was, becomes, 1))
    assert any(what in p.what for p in caught.value.problems)


def test_a_next_key_is_nobody_elses() -> None:
    both = announced(world(THREE), "a", psk=True).lock
    text = lock.format(both)
    other = text.replace(str(both.hosts["a"].next_public_key), str(both.hosts["b"].public_key))
    with pytest.raises(Invalid, match="has the public key of"):
        read(other)


def test_a_run_that_ended_between_the_two_files_loses_no_key() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True)
    # the next keys were written, the lock was not: nobody has heard of them
    before = again(both, world(THREE).lock, both.ring)
    assert before.ring == world(THREE).ring
    # the lock has moved, the keys have not
    after = moved(both)
    keys.check(both.ring, after.lock.public_keys(), "mesh.keys", after.lock.next_public_keys())
    assert after.ring.public() == after.lock.public_keys()
    assert after.ring.psk_root == Secret(b"r" * 32)
    assert (after.ring.next_private, after.ring.next_root) == ({}, None)


def test_a_lock_that_announces_keys_we_do_not_have_is_refused() -> None:
    both = announced(world(THREE), "a", psk=False)
    with pytest.raises(Invalid, match="another key for a"):
        keys.check(world(THREE).ring, both.lock.public_keys(), "mesh.keys", both.lock.next_public_keys())


def test_it_is_said_wherever_the_mesh_is_shown() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True)
    one = again(both, rotation.seen(both.lock, {"a", "b"}, ()), both.ring)
    (finding,) = one.mesh.findings
    assert (finding.code, finding.hosts) == ("rotation", ("c",))
    assert finding.what == "keys are being changed: the old ones stay until c knows the next ones"
    (finding,) = moved(both).mesh.findings
    assert finding.what == "keys are being changed: a, b, c still take the old ones"
    silent = both.plan(world(THREE).applied() | {"c": HostError("c", "unreachable", "no answer")})
    assert silent.findings == both.mesh.findings


def test_status_knows_a_peer_by_either_key() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True)
    new = moved(both)
    vitals = {
        name: Vitals(
            "prod",
            "0.1.0",
            "running",
            peers=tuple(
                PeerVitals(p.name, str(p.public_key), alive=True, next_public_key=str(p.next_public_key))
                for p in both.bundles[name].public.peers
            ),
        )
        for name in both.mesh.hosts
    }
    assert status.judge(new.mesh, vitals).healthy
    assert status.judge(both.mesh, vitals).healthy


def test_drift_while_keys_change_is_still_drift() -> None:
    both = announced(world(THREE), "a", "b", "c", psk=True)
    reports: dict[str, Report] = both.applied()
    seen = reports["a"]
    assert seen.daemon is not None
    public = canonical.read(seen.daemon.running.text)
    assert public is not None
    lost = tuple(replace(p, next_preshared_key=None) for p in public.peers)
    running = replace(seen.daemon.running, text=canonical.format(replace(public, peers=lost)))
    reports["a"] = replace(seen, daemon=replace(seen.daemon, running=running))
    planned = both.plan(reports)
    assert planned.touched == ("a",)
    assert all(c.drift for h in planned.hosts for c in h.changes)
