"""resolve: who peers with whom, on which side the endpoint is, and what can't work."""

from __future__ import annotations

import pytest

from meshctl.core import ip, mesh
from meshctl.core.errors import Invalid
from meshctl.core.mesh import Host, Mesh, Peer, Place

from .made import THREE, ring_of, spec_of, world


def peer(made: Mesh, host: str, of: str) -> Peer:
    return next(p for p in made.hosts[host].peers if p.name == of)


def nets(found: Peer | Host) -> list[str]:
    return [str(n) for n in (found.allowed_ips if isinstance(found, Peer) else found.lan)]


def test_a_full_mesh() -> None:
    made = world(THREE).mesh
    assert made.links == (("a", "b"), ("a", "c"), ("b", "c"))
    assert str(peer(made, "a", "b").endpoint) == "b.example.com:51820"
    assert nets(peer(made, "a", "b")) == ["10.47.96.2/32", "fd9e:af25:aa9a::2/128"]
    assert made.findings == ()


def test_nat_hosts_open_their_links_and_keep_them_open() -> None:
    made = world(THREE).mesh
    assert peer(made, "a", "c").endpoint is None
    assert str(peer(made, "c", "a").endpoint) == "a.example.com:51820"
    assert [p.keepalive_s for p in made.hosts["c"].peers] == [25, 25]
    assert [p.keepalive_s for n in "ab" for p in made.hosts[n].peers] == [0] * 4


def test_two_nat_hosts_have_no_path_and_no_dead_peer() -> None:
    made = world(THREE.replace("b: root@b.example.com", "b: {ssh: root@b.example.com, nat: true}")).mesh
    assert made.links == (("a", "b"), ("a", "c"))
    assert ("b", "c") not in made.reach
    (finding,) = made.findings
    assert (finding.code, finding.hosts) == ("no-path", ("b", "c"))
    assert made.reached_by("b") == ("a",)


def test_an_endpoint_of_its_own_lets_a_nat_host_be_reached() -> None:
    """A forwarded port on the router."""
    text = "mesh: m\nhosts: {a: {ssh: r@a, nat: true, endpoint: gw.example.com:4000}, b: {ssh: r@b, nat: true}}\n"
    made = world(text).mesh
    assert made.findings == ()
    assert str(peer(made, "b", "a").endpoint) == "gw.example.com:4000"
    assert peer(made, "a", "b").endpoint is None


def test_a_hub_joins_hosts_behind_nat() -> None:
    spokes = "x: {ssh: r@x, nat: true, lan: 192.168.7.0/24}, y: {ssh: r@y, nat: true}"
    text = f"mesh: m\nhosts: {{h: r@h, {spokes}}}\nlinks: {{hub: h}}\n"
    made = world(text).mesh
    assert made.links == (("h", "x"), ("h", "y"))
    assert made.reach == {("h", "x"): None, ("h", "y"): None, ("x", "y"): "h"}
    assert made.findings == ()
    assert [h.name for h in made.hosts.values() if h.relay] == ["h"]
    v4 = {n: f"{h.addresses[0]}/32" for n, h in made.hosts.items()}
    assert [n for n in nets(peer(made, "y", "h")) if ":" not in n] == [v4["h"], v4["x"], "192.168.7.0/24"]
    assert [n for n in nets(peer(made, "h", "x")) if ":" not in n] == [v4["x"], "192.168.7.0/24"]


def test_with_two_hubs_the_first_carries_and_the_other_is_reached_itself() -> None:
    made = world("mesh: m\nhosts: {g: r@g, h: r@h, x: r@x, y: r@y}\nlinks: {hub: [h, g]}\n").mesh
    assert set(made.links) == {("g", "h"), ("g", "x"), ("g", "y"), ("h", "x"), ("h", "y")}
    assert made.reach["x", "y"] == "h"
    assert len(nets(peer(made, "x", "h"))) == 4
    assert len(nets(peer(made, "x", "g"))) == 2


def test_a_hub_behind_nat_reaches_nobody_behind_nat() -> None:
    made = world("mesh: m\nhosts: {h: {ssh: r@h, nat: true}, x: {ssh: r@x, nat: true}, y: r@y}\nlinks: {hub: h}\n").mesh
    assert made.links == (("h", "y"),)
    assert [f.hosts for f in made.findings] == [("h", "x")]


def test_the_next_hub_stands_in_where_the_first_has_no_link() -> None:
    nat = "{{ssh: r@{0}, nat: true}}"
    hosts = f"g: r@g, h: {nat.format('h')}, x: {nat.format('x')}, y: {nat.format('y')}, z: r@z"
    made = world(f"mesh: m\nhosts: {{{hosts}}}\nlinks: {{hub: [h, g]}}\n").mesh
    assert made.reach["x", "y"] == "g"
    assert made.reach["h", "x"] == "g"
    assert made.findings == ()


def test_links_are_what_the_lines_say() -> None:
    text = (
        "mesh: m\nhosts: {a: {ssh: r@a, groups: web}, b: {ssh: r@b, groups: web}, c: {ssh: r@c, groups: db}, d: r@d}\n"
    )
    assert world(text + 'links: ["web -- db"]\n').mesh.links == (("a", "c"), ("b", "c"))
    assert world(text + 'links: ["web -- web", "d -- a"]\n').mesh.links == (("a", "b"), ("a", "d"))
    assert world(text + 'links: ["d -- *"]\n').mesh.links == (("a", "d"), ("b", "d"), ("c", "d"))
    assert world(text + "links: []\n").mesh.links == ()


def test_hosts_at_one_place_use_their_own_wire() -> None:
    text = """\
mesh: m
hosts:
  a: {ssh: r@10.9.9.1, nat: true, at: office, lan: 10.9.9.0/24}
  b: {ssh: r@b, nat: true, at: {office: 10.9.9.2}}
  c: r@c.example.com
"""
    made = world(text).mesh
    assert str(peer(made, "a", "b").endpoint) == "10.9.9.2:51820"
    assert str(peer(made, "b", "a").endpoint) == "10.9.9.1:51820"
    assert peer(made, "a", "b").keepalive_s == 0
    assert peer(made, "a", "c").keepalive_s == 25
    assert peer(made, "c", "a").endpoint is None
    assert "10.9.9.0/24" in nets(peer(made, "c", "a"))
    assert "10.9.9.0/24" not in nets(peer(made, "b", "a"))


def test_the_endpoint_is_what_ssh_config_says() -> None:
    made = world(THREE, places={"a": Place("192.0.2.10"), "b": Place("2001:DB8::2")}).mesh
    assert str(peer(made, "c", "a").endpoint) == "192.0.2.10:51820"
    assert str(peer(made, "c", "b").endpoint) == "[2001:db8::2]:51820"


def test_a_host_behind_a_jump_host_must_say_how_it_is_reached() -> None:
    jump = {"b": Place("10.0.0.7", direct=False), "c": Place("10.0.0.8", direct=False)}
    with pytest.raises(Invalid) as caught:
        world(THREE, places=jump)
    (problem,) = caught.value.problems
    assert "b is reached through a jump host" in problem.what
    assert problem.where is not None
    assert problem.where.line == 4
    world(THREE.replace("b: root@b.example.com", "b: {ssh: root@b, endpoint: b.example.com}"), places=jump)


def test_an_endpoint_inside_a_lan_would_be_carried_by_the_tunnel_itself() -> None:
    text = "mesh: m\nhosts: {a: {ssh: r@a, lan: 192.168.7.0/24}, b: r@192.168.7.9, c: r@c}\n"
    with pytest.raises(Invalid, match=r"the endpoint 192\.168\.7\.9 of b lies in lan 192\.168\.7\.0/24 of a"):
        world(text)


def test_a_lan_over_the_derived_network_is_refused() -> None:
    text = THREE.replace("nat: true", "lan: 10.47.0.0/16")
    with pytest.raises(Invalid, match=r"overlaps the mesh's own network 10\.47\.96\.0/20"):
        world(text)


def test_ports() -> None:
    """What the file says, else what the lock says, else the default or the next one that is free there."""
    taken = {"a": frozenset({51820, 51821}), "b": frozenset({51821})}
    first = world(THREE, taken=taken)
    assert {n: h.port for n, h in first.mesh.hosts.items()} == {"a": 51822, "b": 51820, "c": 51820}
    again = world(THREE, first.lock, taken={"a": frozenset({51822}), "b": frozenset({51820})})
    assert {n: h.port for n, h in again.mesh.hosts.items()} == {"a": 51822, "b": 51820, "c": 51820}
    said = world(THREE + "port: 4000\n", first.lock)
    assert {h.port for h in said.mesh.hosts.values()} == {4000}
    assert str(peer(said.mesh, "c", "a").endpoint) == "a.example.com:4000"


def test_the_lock_keeps_the_network_when_a_release_would_derive_another() -> None:
    first = world(THREE + "network: 10.99.0.0/24\n")
    assert world(THREE, first.lock).mesh.networks == first.mesh.networks


def test_a_lock_of_another_mesh_is_refused() -> None:
    with pytest.raises(Invalid, match=r"mesh\.lock is of the mesh prod, not test"):
        world(THREE.replace("mesh: prod", "mesh: test"), world(THREE).lock)


def test_one_key_for_two_hosts_is_refused() -> None:
    key = ring_of("a").public()["a"]
    with pytest.raises(Invalid, match="b has the public key of a"):
        mesh.resolve(spec_of(THREE), None, dict.fromkeys("abc", key), {}, {})


def test_a_site_network_of_ipv6_says_what_it_needs() -> None:
    made = world("mesh: m\nhosts:\n  a: root@a\n  b: {ssh: root@b, lan: [192.168.1.0/24, 'fd00:7::/64']}\n").mesh
    (found,) = made.findings
    assert (found.code, found.hosts) == ("lan-ipv6", ("b",))
    assert "fd00:7::/64 of b" in found.what
    assert any(ip.net_text(net) == "fd00:7::/64" for peer in made.hosts["a"].peers for net in peer.allowed_ips)


EXIT = """\
mesh: prod
hosts:
  x: {ssh: root@x.example.com, exit: true}
  a: {ssh: root@a.example.com, route: all}
  b: {ssh: root@b.example.com, nat: true, route: {users: [bob]}, lan: 192.168.7.0/24}
"""


@pytest.mark.parametrize("links", ["full", "{hub: x}", '["x -- *"]'])
def test_the_exit_is_the_way_to_everything_else(links: str) -> None:
    made = world(f"{EXIT}links: {links}\n").mesh
    for name in "ab":
        assert [n for n in nets(peer(made, name, "x")) if n.endswith("/0")] == ["0.0.0.0/0", "::/0"]
    others = [p for host in made.hosts.values() for p in host.peers if p.name != "x"]
    assert [n for p in others for n in nets(p) if n.endswith("/0")] == []


def test_a_mesh_of_one_ip_version_has_a_way_out_for_it_alone_and_closes_the_other() -> None:
    made = world(EXIT + "network: 10.9.0.0/24\n")
    assert [n for n in nets(peer(made.mesh, "a", "x")) if n.endswith("/0")] == ["0.0.0.0/0"]
    closed = {name: b.public is not None and b.public.kill_switch for name, b in made.bundles.items()}
    assert closed == {"a": True, "b": False, "x": False}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (EXIT + 'links: ["x -- a", "a -- b"]\n', 'add "b -- x" to links:'),
        (EXIT + "links: {hub: a}\n", 'add "b -- x" to links:'),
        (EXIT.replace("exit: true", "exit: true, nat: true"), "both are behind NAT: give one of them endpoint:"),
    ],
)
def test_an_exit_without_a_link_of_its_own_is_a_problem(text: str, hint: str) -> None:
    with pytest.raises(Invalid) as caught:
        world(text)
    (problem,) = caught.value.problems
    assert problem.what == "b can't leave by x: there is no direct link between the two"
    assert hint in (problem.hint or "")
