"""One machine is one host: two names for it are refused, and a new name in place of an old one is a renaming."""

from __future__ import annotations

from dataclasses import replace

from meshctl.core import machines
from meshctl.core.mesh import Place
from meshctl.core.plan import Action

from .made import THREE, spec_of, world

MADE = world(THREE)
RENAMED = world(THREE.replace("  b: ", "  bee: "), MADE.lock)
HERE = Place("192.0.2.1", port=22)


def test_two_names_of_one_machine_are_a_problem() -> None:
    there = {"a": Place("web.example.com", port=22), "b": Place("WEB.example.com", port=22), "c": HERE}
    (problem,) = machines.problems(spec_of(THREE), there)
    assert problem.what == "b is reached at web.example.com port 22, as a is, and one machine is one host"
    assert (problem.where, problem.code) == (spec_of(THREE).hosts["b"].where, "duplicate")


def test_another_port_or_a_jump_is_another_machine() -> None:
    for other in (Place("192.0.2.1", port=2222), Place("192.0.2.1", direct=False, port=22), Place()):
        assert machines.problems(spec_of(THREE), {"a": HERE, "b": other}) == []


def test_a_new_name_for_the_same_address_is_a_renaming() -> None:
    spec = RENAMED.spec
    assert machines.renamed(spec, MADE.lock, {"b": HERE, "bee": HERE}) == {"bee": "b"}
    assert machines.renamed(spec, MADE.lock, {"b": HERE, "bee": replace(HERE, port=23)}) == {}
    assert machines.renamed(spec, RENAMED.lock, {"b": HERE, "bee": HERE}) == {}  # by now it is a host of its own
    assert machines.renamed(spec_of(THREE), MADE.lock, {"a": HERE, "b": HERE}) == {}


def test_a_renamed_host_is_told_from_one_of_another_mesh() -> None:
    """The old name goes first, and nothing is made under the new one on a machine that is still the old one."""
    reports = MADE.applied()
    planned = RENAMED.plan({**reports, "bee": replace(reports["b"], host="bee")})
    assert {h.host: h.action for h in planned.hosts if not h.errors}["b"] is Action.REMOVE
    assert (planned.gained, planned.lost) == ((), (("a", "b"), ("b", "c")))
    (error,) = planned.errors
    assert (error.host, error.code, error.what) == (
        "bee",
        "same-machine",
        "this machine is b still, which left mesh.yaml; it comes back under its new name with the next apply",
    )


def test_a_machine_that_is_another_host_of_the_mesh_is_told_so() -> None:
    reports = MADE.applied()
    (error,) = MADE.plan({"a": reports["a"], "b": replace(reports["a"], host="b")}).errors
    assert (error.host, error.what) == ("b", "this machine is a, and one machine is one host")
