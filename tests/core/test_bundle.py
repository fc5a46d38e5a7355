"""Bundles: finished, complete, and only ever one host's secrets."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from meshctl.core import bundle, canonical, keys, wgread
from meshctl.core.errors import Invalid
from meshctl.core.keys import KeyRing

from .made import THREE, world

MADE = world(THREE)


def test_the_digests_are_over_what_is_staged_and_what_is_compared() -> None:
    made = MADE.bundles["a"]
    assert made.id == sha256(made.conf.reveal().encode()).hexdigest()
    assert made.conf_sha256 == sha256(made.canonical.encode()).hexdigest()
    assert json.loads(made.manifest) == {
        "schema": 1,
        "name": "prod",
        "version": "0.1.0",
        "conf_id": made.id,
        "conf_sha256": made.conf_sha256,
    }
    assert made.manifest.count("\n") == 1


def test_the_canonical_text_is_that_of_the_configuration() -> None:
    for made in MADE.bundles.values():
        assert canonical.format(canonical.public(wgread.read(made.conf.reveal(), "x"))) == made.canonical


def test_the_files_of_a_bundle() -> None:
    files = MADE.bundles["a"].files()
    assert sorted(files) == ["hosts", "manifest.json", "prod.conf"]
    assert "10.47.96.2 b b.prod" in files["hosts"].reveal().splitlines()


def test_names_lead_to_who_can_be_reached() -> None:
    made = world(THREE + 'links: ["a -- *"]\n')
    assert [line.split()[1] for line in made.bundles["b"].hosts.splitlines()] == ["a", "b", "a", "b"]


def test_both_ends_of_a_link_have_one_pre_shared_key_and_no_other_link_has_it() -> None:
    confs = {n: wgread.read(b.conf.reveal(), n) for n, b in MADE.bundles.items()}
    of = {(n, p.name): p.preshared_key for n, c in confs.items() if c for p in c.peers}
    assert of["a", "b"] == of["b", "a"]
    assert len({keys.psk_fingerprint(k) for k in of.values() if k}) == 3


def test_the_same_mesh_is_the_same_bytes_in_every_release() -> None:
    again = bundle.render(MADE.mesh, MADE.ring, "9.9.9")
    assert {n: b.id for n, b in again.items()} == {n: b.id for n, b in MADE.bundles.items()}


def test_a_host_that_leaves_gets_an_empty_configuration() -> None:
    gone = bundle.absent("prod", "a", "0.1.0")
    assert gone.conf.reveal() == gone.canonical == gone.hosts == ""
    assert gone.public is None


def test_a_ring_without_a_key_is_refused() -> None:
    with pytest.raises(Invalid, match="lacks a, b, c, the PSK root"):
        bundle.render(MADE.mesh, KeyRing(), "0.1.0")
