"""Reach, judged from configurations: both ends must agree, and silence is not a no."""

from __future__ import annotations

from dataclasses import replace

from meshctl.core import reach
from meshctl.core.canonical import PublicConf
from meshctl.core.reach import Identity

from .made import THREE, World, world

ALL = frozenset({("a", "b"), ("a", "c"), ("b", "c")})


def parts(made: World) -> tuple[dict[str, PublicConf | None], dict[str, Identity]]:
    known = {n: Identity(h.public_key, h.addresses) for n, h in made.mesh.hosts.items()}
    return {n: b.public for n, b in made.bundles.items()}, known


def test_everybody_in_a_full_mesh() -> None:
    assert reach.pairs(*parts(world(THREE))) == ALL


def test_absent_hosts_reach_nobody() -> None:
    confs, known = parts(world(THREE))
    assert reach.pairs(confs | {"b": None}, known) == {("a", "c")}


def test_one_end_is_not_enough() -> None:
    confs, known = parts(world(THREE))
    a = confs["a"]
    assert a is not None
    confs["a"] = replace(a, peers=tuple(p for p in a.peers if p.name != "b"))
    assert reach.pairs(confs, known) == ALL - {("a", "b")}


def test_an_unknown_host_is_believed_to_agree() -> None:
    confs, known = parts(world(THREE))
    del confs["b"]
    assert reach.pairs(confs, known) == ALL
    del confs["a"]
    assert reach.pairs(confs, known) == {("a", "c"), ("b", "c")}


def test_without_an_endpoint_at_either_end_there_is_no_link() -> None:
    confs, known = parts(world(THREE))
    for name, conf in confs.items():
        assert conf is not None
        confs[name] = replace(conf, peers=tuple(replace(p, endpoint=None) for p in conf.peers))
    assert reach.pairs(confs, known) == frozenset()


def test_packets_must_go_to_the_right_peer() -> None:
    confs, known = parts(world(THREE))
    a = confs["a"]
    assert a is not None
    confs["a"] = replace(a, peers=tuple(replace(p, allowed_ips=()) if p.name == "b" else p for p in a.peers))
    assert reach.pairs(confs, known) == ALL - {("a", "b")}


def test_a_hub_joins_only_while_it_relays() -> None:
    confs, known = parts(world(THREE + "links: {hub: a}\n"))
    assert reach.pairs(confs, known) == ALL
    a = confs["a"]
    assert a is not None
    assert reach.pairs(confs | {"a": replace(a, relay=False)}, known) == ALL - {("b", "c")}


def test_a_wider_network_carries_too() -> None:
    """A confirmed configuration of another age may have routed a whole network to a peer."""
    confs, known = parts(world(THREE))
    a = confs["a"]
    assert a is not None
    wide = tuple(replace(p, allowed_ips=world(THREE).mesh.networks) if p.name == "b" else p for p in a.peers)
    assert reach.pairs(confs | {"a": replace(a, peers=wide)}, known) == ALL
