"""Plans beyond the stories of tests/cases: limits, removal, leftovers and half-finished runs."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from meshctl.core import bundle, canonical, keys, mesh, plan, planjson
from meshctl.core.changes import Change
from meshctl.core.errors import HostError, Problem, Where
from meshctl.core.keys import KeyRing
from meshctl.core.lock import Lock
from meshctl.core.plan import Action, Release
from meshctl.core.report import ABSENT, Configured, PlacedFile

from .made import RELEASE, THREE, World, ring_of, spec_of, world

MADE = world(THREE)
WITHOUT_B = THREE.replace("  b: root@b.example.com\n", "")


def test_a_limit_limits_what_is_touched_and_never_who_is_a_member() -> None:
    planned = MADE.plan(MADE.fresh(), limit=frozenset({"a"}))
    assert planned.touched == ("a",)
    assert [h.host for h in planned.hosts] == ["a"]
    (peers,) = [c for c in planned.hosts[0].changes if c.what == "peers"]
    assert peers.after == "b, c"
    assert planned.gained == ()


def test_with_a_limit_reach_waits_for_the_other_end() -> None:
    half = MADE.fresh() | {"a": MADE.applied()["a"]}
    assert MADE.plan(half, limit=frozenset({"b"})).gained == (("a", "b"),)


def test_hosts_that_were_not_asked_are_left_alone() -> None:
    planned = MADE.plan({"a": MADE.applied()["a"]})
    assert planned.empty
    assert [h.host for h in planned.hosts] == ["a"]


def test_removal_takes_what_is_there_and_nothing_else() -> None:
    reports = MADE.applied() | {"c": plan.fresh("c")}
    planned = plan.removal("prod", reports | {"b": HostError("b", "auth", "no key fits")}, MADE.lock, RELEASE)
    assert {h.host: h.action for h in planned.hosts} == {"a": Action.REMOVE, "b": Action.NONE, "c": Action.NONE}
    assert planned.touched == ("a",)
    assert planned.lost == (("a", "b"),)  # whether b still has its end is not known
    assert [e.code for e in planned.errors] == ["auth"]


def test_removal_needs_root() -> None:
    planned = plan.removal("prod", {"a": replace(MADE.applied()["a"], uid=1000)}, MADE.lock, RELEASE)
    assert [e.code for e in planned.errors] == ["no-root"]
    assert planned.touched == ()


def test_a_host_with_nothing_left_is_forgotten() -> None:
    gone = world(WITHOUT_B, MADE.lock)
    reports = gone.applied() | {"b": plan.fresh("b")}
    planned = gone.plan(reports)
    assert planned.forget == ("b",)
    assert not planned.empty
    assert planned.touched == ()


def test_an_interrupted_first_run_is_a_first_run() -> None:
    """The binary and the unit are there, nothing was confirmed, and the daemon went back to absent."""
    seen = MADE.applied()["a"]
    assert seen.daemon is not None
    rolled_back = replace(seen, link="none", daemon=replace(seen.daemon, state="absent", conf=ABSENT, running=ABSENT))
    (host,) = MADE.plan({"a": rolled_back}).hosts
    assert host.action is Action.CREATE
    assert [c.what for c in host.changes] == ["addresses", "port", "peers"]


def test_a_first_plan_says_who_leaves_by_whom() -> None:
    made = world(
        "mesh: m\nhosts:\n  x: {ssh: r@x, exit: true}\n  b: {ssh: r@b, route: {users: [bob]}}\n"
        "  a: {ssh: r@a, route: all, kill_switch: {allow: tcp/22}}\n"
    )
    planned = made.plan({name: plan.fresh(name) for name in "abx"})
    said = {h.host: {c.what: c.after for c in h.changes[4:]} for h in planned.hosts}
    assert said == {
        "a": {"the way out": "x", "kill switch": "on", "kill switch lets answer": "tcp/22"},
        "b": {"the way out": "x", "default route for": "bob"},
        "x": {"exit": "on"},
    }


def test_a_switch_that_waits_for_its_confirmation_is_work() -> None:
    seen = MADE.applied()["a"]
    assert seen.daemon is not None
    waiting = replace(seen, daemon=replace(seen.daemon, conf=ABSENT, switched_id="ab", rollback_in_s=30.0))
    (host,) = MADE.plan({"a": waiting}).hosts
    assert host.changes == (Change("configuration", "not confirmed", "confirmed"),)


def test_what_runs_already_but_is_not_on_disk_is_work() -> None:
    """Somebody made the wanted change by hand with wg set: it would be gone after a reboot."""
    now = world(THREE + "port: 4000\n", MADE.lock)
    was, will = MADE.applied()["a"], now.applied()["a"]
    assert was.daemon is not None
    assert will.daemon is not None
    ahead = replace(was, daemon=replace(was.daemon, running=will.daemon.running))
    (host,) = now.plan({"a": ahead}).hosts
    assert host.action is Action.CHANGE
    assert Change("port", "51820", "4000") in host.changes


def test_an_edited_file_is_drift_although_it_differs_from_what_runs() -> None:
    """The manifest says that the wanted configuration was applied here, so the edit is not ours."""
    seen = MADE.applied()["a"]
    public = MADE.bundles["a"].public
    assert seen.daemon is not None
    assert public is not None
    edited = Configured(canonical.format(replace(public, mtu=1300)))
    (host,) = MADE.plan({"a": replace(seen, daemon=replace(seen.daemon, conf=edited))}).hosts
    assert host.action is Action.DRIFT
    assert host.changes == (Change("MTU", "1300", None, drift=True),)


def test_an_unreadable_configuration_is_written_anew() -> None:
    seen = MADE.applied()["a"]
    assert seen.daemon is not None
    strange = replace(seen, daemon=replace(seen.daemon, running=Configured("[Interface]\nColour = blue\n")))
    (host,) = MADE.plan({"a": strange}).hosts
    assert host.action is Action.CHANGE
    assert [c.what for c in host.changes] == ["configuration"]


def test_without_an_init_nothing_starts_at_boot_and_that_is_no_drift() -> None:
    seen = replace(MADE.applied()["a"], init="none", enabled=False)
    assert MADE.plan({"a": seen}).empty


def test_another_build_of_the_same_version_is_a_change() -> None:
    reports = MADE.applied()
    rebuilt = World(MADE.spec, MADE.mesh, MADE.lock, MADE.ring, MADE.bundles, Release("0.1.0", {"x86_64": "33" * 32}))
    (host, *_) = rebuilt.plan(reports).hosts
    assert host.changes == (Change("build of meshd", "11" * 6, "33" * 6),)
    assert host.action is Action.CHANGE


def test_an_old_daemon_that_still_runs_is_a_change() -> None:
    seen = MADE.applied()["a"]
    assert seen.daemon is not None
    old = replace(seen, daemon=replace(seen.daemon, version="0.0.9"))
    assert MADE.plan({"a": old}).hosts[0].changes == (Change("running meshd", "0.0.9", "0.1.0"),)


def test_modes_are_numbers() -> None:
    seen = MADE.applied()["a"]
    assert MADE.plan({"a": replace(seen, files=(replace(seen.files[0], mode="755"),))}).empty


def test_a_missing_manifest_is_written_again() -> None:
    seen = replace(MADE.applied()["a"], manifest=None, files=())
    (host,) = MADE.plan({"a": seen}).hosts
    assert host.action is Action.DRIFT
    assert [c.what for c in host.changes] == ["manifest"]


def test_a_file_of_the_manifest_that_was_not_reported_is_missing() -> None:
    seen = MADE.applied()["a"]
    assert seen.manifest is not None
    more = replace(seen.manifest, files=(*seen.manifest.files, PlacedFile("/etc/x", "0644", "aa" * 32)))
    (host,) = MADE.plan({"a": replace(seen, manifest=more)}).hosts
    assert host.changes == (Change("file /etc/x", "missing", "restored", drift=True),)


def test_the_json_of_a_problem() -> None:
    told = planjson.problem(Problem("what", Where("mesh.yaml", 3, 4), "hint", "cidr"))
    assert told == {"code": "cidr", "what": "what", "hint": "hint", "file": "mesh.yaml", "line": 3, "column": 4}
    assert planjson.problem(Problem("what"))["line"] is None


def anew() -> World:
    """The same file with other keys: somebody else's mesh of this name, or one that was begun again."""
    spec = spec_of(THREE)
    ring = keys.grow(KeyRing(), {name: sha256(f"{name} anew".encode()).digest() for name in spec.hosts}, bytes(32))
    resolved, lock = mesh.resolve(spec, None, ring.public(), {}, {})
    return World(spec, resolved, lock, ring, bundle.render(resolved, ring, RELEASE.version), RELEASE)


def test_a_host_of_another_mesh_of_this_name_is_not_taken_over() -> None:
    planned = anew().plan(MADE.applied() | {"c": plan.fresh("c")})
    assert [(e.host, e.code) for e in planned.errors] == [("a", "other-mesh"), ("b", "other-mesh")]
    assert "meshctl remove --limit a" in (planned.errors[0].hint or "")
    assert planned.touched == ("c",)


def test_a_host_that_left_for_another_mesh_of_this_name_is_only_forgotten() -> None:
    gone = world(WITHOUT_B, MADE.lock)
    planned = gone.plan(gone.applied() | {"b": anew().applied()["b"]})
    assert (planned.forget, planned.touched) == (("b",), ())


def test_another_meshs_host_is_cleared_only_by_name() -> None:
    theirs = MADE.applied()
    assert {e.code for e in plan.removal("prod", theirs, anew().lock, RELEASE).errors} == {"other-mesh"}
    named = plan.removal("prod", theirs, anew().lock, RELEASE, named=frozenset({"a"}))
    assert named.touched == ("a",)
    # without a lock nothing can be told, and whoever says remove means it
    assert plan.removal("prod", theirs, Lock("prod"), RELEASE).touched == ("a", "b", "c")


def test_a_key_that_was_changed_within_the_mesh_is_no_other_mesh() -> None:
    """The pre-shared keys tell: their root is this mesh's."""
    ring = keys.grow(KeyRing(), {"a": bytes([7] * 32)}, sha256(b"the root").digest())
    ring = KeyRing(dict(ring_of("b", "c").private) | dict(ring.private), ring.psk_root)
    resolved, lock = mesh.resolve(spec_of(THREE), None, ring.public(), {}, {})
    now = World(MADE.spec, resolved, lock, ring, bundle.render(resolved, ring, RELEASE.version), RELEASE)
    assert now.plan(MADE.applied()).errors == ()


def test_a_meshctl_without_any_meshd_plans_no_change_and_leaves_what_is_right() -> None:
    """A checkout that nobody built: told by the plan, not by the first host that apply has begun with."""
    reports = MADE.applied() | {"b": plan.fresh("b")}
    unbuilt = World(MADE.spec, MADE.mesh, MADE.lock, MADE.ring, MADE.bundles, Release("0.1.0"))
    planned = unbuilt.plan(reports)
    assert planned.touched == ()
    assert planned.right == ("a", "c")
    assert [(e.host, e.code, e.what, e.hint) for e in planned.errors] == [
        ("b", "arch", "this meshctl carries no meshd", "make build")
    ]
