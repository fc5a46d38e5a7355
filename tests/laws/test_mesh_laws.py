"""Laws of resolve and render: what holds for every mesh."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from core.made import world_of
from hypothesis import given
from hypothesis import strategies as st

from meshctl.core import canonical, ip, lock, reach, wgconf, wgread
from meshctl.core.bundle import configure
from meshctl.core.reach import Identity
from meshctl.shell import yamlfile

from .meshes import NAMES, files, spec_from, without_exits


@given(files(), st.randoms())
def test_resolve_is_deterministic_whatever_the_order(data: dict[str, Any], random: Any) -> None:
    mixed = dict(data)
    names = list(data["hosts"])
    random.shuffle(names)
    mixed["hosts"] = {n: data["hosts"][n] for n in names}
    one, two = world_of(spec_from(data)), world_of(spec_from(mixed))
    assert lock.format(one.lock) == lock.format(two.lock)
    assert one.mesh == two.mesh
    assert {n: b.id for n, b in one.bundles.items()} == {n: b.id for n, b in two.bundles.items()}


@given(files(), st.sampled_from(NAMES))
def test_adding_and_removing_a_host_moves_nobody(data: dict[str, Any], name: str) -> None:
    data = without_exits(data) | {"links": "full"}
    whole = dict(data, hosts={**data["hosts"], name: f"root@{name}.example.org"})
    before = world_of(spec_from(data))
    added = world_of(spec_from(whole), before.lock)
    rest = {n: h for n, h in whole["hosts"].items() if n != name}
    for other in rest:
        assert added.mesh.hosts[other].addresses == before.mesh.hosts[other].addresses
        assert added.mesh.hosts[other].port == before.mesh.hosts[other].port
    if rest:
        removed = world_of(spec_from(dict(whole, hosts=rest)), added.lock)
        assert all(removed.mesh.hosts[n].addresses == added.mesh.hosts[n].addresses for n in rest)
        back = world_of(spec_from(whole), removed.lock)
        assert back.mesh.hosts[name].addresses == added.mesh.hosts[name].addresses


@given(files(least=2), st.data())
def test_a_removed_address_is_not_given_to_the_next_host(data: dict[str, Any], drawn: st.DataObject) -> None:
    data = without_exits(data) | {"links": "full"}
    gone = drawn.draw(st.sampled_from(sorted(data["hosts"])))
    before = world_of(spec_from(data))
    rest = {n: h for n, h in data["hosts"].items() if n != gone}
    removed = lock.forget(world_of(spec_from(dict(data, hosts=rest)), before.lock).lock, [gone])
    after = world_of(spec_from(dict(data, hosts={**rest, "newcomer": "root@n"})), removed)
    assert not set(after.mesh.hosts["newcomer"].addresses) & set(before.mesh.hosts[gone].addresses)


@given(files())
def test_addresses_are_unique_and_inside_the_networks(data: dict[str, Any]) -> None:
    mesh = world_of(spec_from(data)).mesh
    addresses = [a for h in mesh.hosts.values() for a in h.addresses]
    assert len(set(addresses)) == len(addresses) == len(mesh.hosts) * len(mesh.networks)
    assert all(any(a in n for n in mesh.networks if n.version == a.version) for a in addresses)


@given(files())
def test_a_lists_b_exactly_when_b_lists_a(data: dict[str, Any]) -> None:
    mesh = world_of(spec_from(data)).mesh
    listed = {(n, p.name) for n, h in mesh.hosts.items() for p in h.peers}
    assert listed == {(b, a) for a, b in listed}
    assert {tuple(sorted(p)) for p in listed} == set(mesh.links)


@given(files())
def test_every_link_can_be_opened_from_one_end(data: dict[str, Any]) -> None:
    mesh = world_of(spec_from(data)).mesh
    for a, b in mesh.links:
        ends = [p.endpoint for x, y in ((a, b), (b, a)) for p in mesh.hosts[x].peers if p.name == y]
        assert any(ends)


@given(files())
def test_allowed_ips_never_overlap_on_a_host(data: dict[str, Any]) -> None:
    for host in world_of(spec_from(data)).mesh.hosts.values():
        # the way out is under all others
        nets = [net for peer in host.peers for net in peer.allowed_ips if net.prefixlen > 0]
        assert not any(ip.overlap(a, b) for a, b in combinations(nets, 2))
        assert not any(ip.inside(ip.single(own), net) for own in host.addresses for net in nets)


@given(files())
def test_only_hosts_behind_nat_keep_alive(data: dict[str, Any]) -> None:
    for host in world_of(spec_from(data)).mesh.hosts.values():
        assert host.nat or not any(p.keepalive_s for p in host.peers)


@given(files())
def test_reach_is_what_the_configurations_say(data: dict[str, Any]) -> None:
    """resolve decides who reaches whom; reach.py reads the same from the configurations alone."""
    made = world_of(spec_from(data))
    known = {n: Identity(h.public_key, h.addresses) for n, h in made.mesh.hosts.items()}
    assert reach.pairs({n: b.public for n, b in made.bundles.items()}, known) == set(made.mesh.reach)


@given(files())
def test_what_is_written_reads_back(data: dict[str, Any]) -> None:
    made = world_of(spec_from(data))
    assert lock.read(yamlfile.parse(lock.format(made.lock).encode(), "mesh.lock"), "mesh.lock") == made.lock
    for host in made.mesh.hosts.values():
        conf = configure(made.mesh, host, made.ring)
        assert wgread.read(wgconf.format(conf, "a header").reveal(), "x.conf") == conf
        public = canonical.public(conf)
        assert canonical.read(canonical.format(public)) == public


@given(files())
def test_a_bundle_holds_its_own_private_key_only(data: dict[str, Any]) -> None:
    from meshctl.core.keys import encode

    made = world_of(spec_from(data))
    private = {n: encode(k).reveal() for n, k in made.ring.private.items()}
    for name, bundle in made.bundles.items():
        assert {n for n, key in private.items() if key in bundle.conf.reveal()} == {name}


@pytest.mark.parametrize("count", [100])
def test_a_big_mesh_is_resolved_in_a_moment(count: int) -> None:
    """A guard against a cubic slip: 100 hosts take well under a second, and a minute would pass for a hang."""
    data = {"mesh": "big", "hosts": {f"h{i}": f"root@h{i}" for i in range(count)}}
    made = world_of(spec_from(data))
    assert len(made.mesh.links) == count * (count - 1) // 2
    assert made.plan(made.applied()).empty
