"""Changes: one line a difference, named for the host it is about, with the view it was found in."""

from __future__ import annotations

from dataclasses import replace

from meshctl.core.canonical import PublicConf
from meshctl.core.changes import Change, compare
from meshctl.core.keys import PublicKey

from .made import THREE, ring_of, world

MADE = world(THREE)
NAMES = {h.public_key: n for n, h in MADE.mesh.hosts.items()}


def conf() -> PublicConf:
    public = MADE.bundles["a"].public
    assert public is not None
    return public


def test_nothing_differs() -> None:
    assert compare(conf(), conf(), conf(), NAMES, applied=False) == ()


def test_a_wanted_change_shows_what_runs_now() -> None:
    want = replace(conf(), mtu=1400)
    assert compare(want, conf(), conf(), NAMES, applied=False) == (Change("MTU", None, "1400"),)


def test_drift_is_what_differs_although_the_disk_agrees() -> None:
    live = replace(conf(), listen_port=999)
    assert compare(conf(), conf(), live, NAMES, applied=False) == (Change("port", "999", "51820", drift=True),)


def test_a_stopped_daemon_leaves_the_disk_to_compare() -> None:
    want = replace(conf(), mtu=1400)
    assert compare(want, conf(), None, NAMES, applied=False) == (Change("MTU", None, "1400"),)


def test_wanted_and_drifted_changes_stand_together() -> None:
    want, live = replace(conf(), mtu=1400), replace(conf(), addresses=conf().addresses[1:])
    found = {c.what: c.drift for c in compare(want, conf(), live, NAMES, applied=False)}
    assert found == {"MTU": False, "address": True}


def test_a_new_peer_is_one_line() -> None:
    without = replace(conf(), peers=conf().peers[1:], hosts=conf().hosts[:-1])
    gone = NAMES[conf().peers[0].public_key]
    found = compare(conf(), without, without, NAMES, applied=False)
    assert [c for c in found if c.what.startswith("peer")] == [Change(f"peer {gone}", None, "linked")]


def test_another_key_for_a_known_name_is_a_change_of_that_peer() -> None:
    """A host that was made anew has another key; its peers still call it by its name."""
    old = PublicKey.parse(str(ring_of("someone").public()["someone"]))
    before = replace(conf(), peers=tuple(replace(p, public_key=old) if p.name == "b" else p for p in conf().peers))
    (change,) = compare(conf(), before, before, NAMES, applied=False)
    assert (change.what, change.before) == ("peer b: public key", str(old))


def test_keys_to_come_are_told_by_their_public_form() -> None:
    old = conf().peers[0]
    key = ring_of("next").public()["next"]
    to_come = replace(old, next_public_key=key, next_preshared_key="blake2s:00")
    want = replace(conf(), next_public_key=key, peers=(to_come, *conf().peers[1:]))
    label = f"peer {NAMES[old.public_key]}"
    assert compare(want, conf(), conf(), NAMES, applied=False) == (
        Change("own next public key", None, str(key)),
        Change(f"{label}: next pre-shared key", None, "blake2s:00"),
        Change(f"{label}: next public key", None, str(key)),
    )


def test_a_stranger_is_called_by_its_key() -> None:
    key = ring_of("stranger").public()["stranger"]
    live = replace(conf(), peers=(*conf().peers, replace(conf().peers[0], public_key=key, name="b", allowed_ips=())))
    found = compare(conf(), conf(), live, NAMES, applied=False)
    assert found == (Change(f"peer {key}", "linked", None, drift=True),)


def test_routes_are_told_when_they_went_missing_or_came_by_hand() -> None:
    stray = conf().addresses[0].network
    live = replace(conf(), routes=(*conf().routes[1:], stray))
    found = {(c.before, c.after) for c in compare(conf(), conf(), live, NAMES, applied=False)}
    assert found == {(None, str(conf().routes[0])), (str(stray), None)}


def test_routes_that_follow_from_a_wanted_change_are_not() -> None:
    before = replace(conf(), peers=conf().peers[1:], routes=())
    assert "route" not in {c.what for c in compare(conf(), before, before, NAMES, applied=False)}
