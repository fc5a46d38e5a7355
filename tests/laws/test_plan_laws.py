"""Laws of plans, of secrets, and of what a hostile host or a wild file can do."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
from typing import Any

import pytest
from core.made import THREE, drifted, observed, problems_of, world, world_of
from hypothesis import given
from hypothesis import strategies as st

from meshctl.core import canonical, keys, lock, planjson, report, wgread
from meshctl.core.bundle import Bundle
from meshctl.core.errors import HostError, Invalid
from meshctl.core.plan import Action
from meshctl.core.wgconf import WgConf

from .meshes import files, spec_from, tree_of


@given(files())
def test_nothing_is_left_to_do_after_a_plan(data: dict[str, Any]) -> None:
    made = world_of(spec_from(data))
    first = made.plan(made.fresh())
    assert {h.action for h in first.hosts} == {Action.CREATE}
    assert set(first.gained) == set(made.mesh.reach)
    assert made.plan(made.applied()).empty


@given(files(), files())
def test_nothing_is_left_to_do_after_a_change(old: dict[str, Any], new: dict[str, Any]) -> None:
    new["mesh"] = old["mesh"]
    before = world_of(spec_from(old))
    after = world_of(spec_from(new), before.lock)
    reports = {**after.fresh(), **before.applied()}
    planned = after.plan(reports)
    assert not planned.errors
    assert planned.gained == tuple(sorted(set(after.mesh.reach) - set(before.mesh.reach)))
    assert planned.lost == tuple(sorted(set(before.mesh.reach) - set(after.mesh.reach)))
    assert after.plan(after.applied(reports)).empty


@given(files(least=2), st.data())
def test_what_one_host_does_not_answer_changes_nothing_for_the_others(
    data: dict[str, Any], drawn: st.DataObject
) -> None:
    made = world_of(spec_from(data))
    silent = drawn.draw(st.sampled_from(sorted(made.mesh.hosts)))
    fresh = made.fresh()
    whole = made.plan(fresh)
    partial = made.plan(fresh | {silent: HostError(silent, "unreachable", "no answer")})
    assert [h for h in partial.hosts if h.host != silent] == [h for h in whole.hosts if h.host != silent]
    assert silent not in partial.touched


@given(files(), st.data())
def test_every_drift_is_seen(data: dict[str, Any], drawn: st.DataObject) -> None:
    made = world_of(spec_from(data))
    name = drawn.draw(st.sampled_from(sorted(made.mesh.hosts)))
    reports = made.applied()
    public = made.bundles[name].public
    assert public is not None
    fields = [f for f in ("addresses", "hosts", "routes", "peers") if getattr(public, f)]
    field = drawn.draw(st.sampled_from(fields))
    was = getattr(public, field)
    lost = drawn.draw(st.integers(0, len(was) - 1))
    reports[name] = drifted(reports[name], **{field: was[:lost] + was[lost + 1 :]})
    planned = made.plan(reports)
    assert planned.touched == (name,)
    assert {h.host: h.action for h in planned.hosts}[name] is Action.DRIFT


@given(files())
def test_a_report_reads_back(data: dict[str, Any]) -> None:
    made = world_of(spec_from(data))
    for name, seen in {**made.applied(), **{f"{n}-new": r for n, r in made.fresh().items()}}.items():
        assert report.parse(seen.host, observed(seen)) == seen, name


# secrets


def _secrets(ring: keys.KeyRing) -> set[str]:
    raw = [*ring.private.values(), *([ring.psk_root] if ring.psk_root else [])]
    names = sorted(ring.private)
    assert ring.psk_root is not None
    raw += [keys.psk(ring.psk_root, a, b, 1) for a in names for b in names if a < b]
    return {shown for s in raw for shown in (keys.encode(s).reveal(), s.reveal().hex(), repr(s.reveal()))}


@given(files())
def test_no_secret_in_any_str_repr_json_lock_or_plan(data: dict[str, Any]) -> None:
    made = world_of(spec_from(data))
    secrets = _secrets(made.ring)
    planned = made.plan(made.fresh())
    shown = [
        repr(made),
        str(made.ring),
        f"{made.ring!r}",
        lock.format(made.lock),
        json.dumps(planjson.plan(planned)),
        *(b.canonical + b.manifest + b.hosts for b in made.bundles.values()),
    ]
    assert not [s for s in secrets for out in shown if s in out]


@pytest.mark.parametrize("show", [json.dumps, pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_refuses_to_be_written(show: Any) -> None:
    with pytest.raises(TypeError):
        show(keys.Secret("hush"))


def test_a_bundle_is_not_pickled_with_its_key() -> None:
    bundle: Bundle = world(THREE).bundles["a"]
    with pytest.raises(TypeError):
        pickle.dumps(bundle)


# what comes from outside


@given(st.text())
def test_any_output_is_a_report_or_a_host_error(output: str) -> None:
    with pytest.raises(HostError) as caught:
        report.parse("a", output)
    assert caught.value.code == "report"


@given(st.data())
def test_a_broken_report_is_a_report_or_a_host_error(drawn: st.DataObject) -> None:
    output = observed(world(THREE).applied()["a"])
    at = drawn.draw(st.integers(0, len(output)))
    length = drawn.draw(st.integers(0, 40))
    broken = output[:at] + drawn.draw(st.text(max_size=20)) + output[at + length :]
    try:
        seen = report.parse("a", broken)
    except HostError as error:
        assert error.code == "report"
        assert error.what.isprintable()
    else:
        assert seen.arch.isprintable()
        json.dumps(planjson.plan(world(THREE).plan({"a": seen})))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["state", "peers", "mtu", "notes", "uptime_s", "schema"]), _JSON)
def test_any_status_is_vitals_or_a_host_error(key: str, value: Any) -> None:
    status = {"schema": 1, "version": "0.1.0", "name": "prod", "state": "running", "peers": []}
    try:
        report.vitals("a", json.dumps({**status, key: value}))
    except HostError as error:
        assert error.code == "report"


@given(st.text(alphabet="[]InterfacPr=# \n/0123456789.:azAZkeyKEYVH,", max_size=200))
def test_any_configuration_is_read_or_refused(wild: str) -> None:
    try:
        read = wgread.read(wild, "x.conf")
    except Invalid as invalid:
        assert all(p.where and p.where.line and p.hint for p in invalid.problems)
    else:
        assert read is None or isinstance(read, WgConf)
    with contextlib.suppress(ValueError):
        canonical.read(wild)


@given(files(), st.data())
def test_every_fault_of_a_file_has_a_place_and_a_hint(data: dict[str, Any], drawn: st.DataObject) -> None:
    """Some value of a valid file is replaced by any other: that is accepted, or refused with a place and a hint."""
    places = [(data, k) for k in data]
    places += [(data["hosts"], n) for n in data["hosts"]]
    places += [(h, k) for h in data["hosts"].values() if isinstance(h, dict) for k in h]
    holder, key = drawn.draw(st.sampled_from(places))
    holder[key] = drawn.draw(_JSON)
    try:
        spec_from(data)
    except Invalid as invalid:
        assert invalid.problems
        assert all(p.where and p.where.line and p.what and p.hint for p in invalid.problems)


@given(_JSON)
def test_any_lock_is_read_or_refused(value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        lock.read(tree_of(value), "mesh.lock")
    assert all(p.hint for p in caught.value.problems)


def test_all_problems_come_at_once() -> None:
    found = problems_of(
        "mesh: Prod\nhosts:\n  a: {ssh: root@a, adress: 1}\n  b: {ssh: root@b, lan: 10.0.0.1/8}\nlink: full\n"
    )
    assert len(found) == 4
