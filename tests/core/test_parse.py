"""mesh.yaml: what is accepted, and what each fault is called, where it stands and what to type."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from meshctl.core.parse import parse
from meshctl.core.spec import At, EndpointWords, Full, Hub, KillSwitch, LabSpec, Lines, Route, SshAddress
from meshctl.shell import yamlfile

from .made import THREE, problems_of, spec_of


def test_the_smallest_mesh() -> None:
    spec = spec_of("mesh: prod\nhosts:\n  a: root@a.example.com\n")
    assert spec.mesh == "prod"
    assert spec.links == Full()
    assert spec.networks == ()
    assert spec.lab == LabSpec()
    assert spec.hosts["a"].ssh == SshAddress("a.example.com", "root")
    assert str(spec.hosts["a"].where) == "mesh.yaml:3:3"


def test_every_word_of_a_host() -> None:
    host = spec_of(
        """\
mesh: prod
network: [10.77.0.0/16, "fd12::/64"]
hosts:
  c:
    ssh: admin@c.example.com:2222
    nat: true
    endpoint: "[2001:db8::1]:4000"
    lan: [192.168.20.0/24, "fd00:20::/64"]
    groups: [db, web]
    owner: Ada
    note: 42
    at: {office: 172.16.0.9}
    port: 51900
    mtu: 1380
    address: [10.77.3.3, "fd12::33"]
"""
    ).hosts["c"]
    assert host.ssh == SshAddress("c.example.com", "admin", 2222)
    assert host.nat
    assert host.endpoint == EndpointWords("2001:db8::1", 4000)
    assert host.lan == (ip_network("192.168.20.0/24"), ip_network("fd00:20::/64"))
    assert host.groups == {"db", "web"}
    assert (host.owner, host.note, host.port, host.mtu) == ("Ada", "42", 51900, 1380)
    assert host.at == At("office", "172.16.0.9")
    assert host.addresses == (ip_address("10.77.3.3"), ip_address("fd12::33"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a.example.com", SshAddress("a.example.com")),
        ("root@192.0.2.1", SshAddress("192.0.2.1", "root")),
        ("root@[2001:db8::1]:22", SshAddress("2001:db8::1", "root", 22)),
        ("ssh://root@a:2222", SshAddress("a", "root", 2222)),
        ("ada@corp.example@gate", SshAddress("gate", "ada@corp.example")),
        ("my_alias", SshAddress("my_alias")),
    ],
)
def test_ssh_addresses(written: str, meant: SshAddress) -> None:
    assert spec_of(f'mesh: m\nhosts: {{a: "{written}"}}').hosts["a"].ssh == meant


def test_a_host_may_have_any_name_that_is_one() -> None:
    """YAML 1.2: `no` is a word, not false."""
    assert list(spec_of("mesh: no\nhosts: {no: root@a, on: root@b, null: root@c}").hosts) == ["no", "null", "on"]


def test_defaults_stand_behind_hosts_and_before_the_file() -> None:
    spec = spec_of(
        "mesh: m\nport: 1\nmtu: 1400\ndefaults: {port: 2, nat: true}\n"
        "hosts: {a: r@a, b: {ssh: r@b, port: 3, nat: false}}"
    )
    a, b = spec.hosts["a"], spec.hosts["b"]
    assert (a.port, a.nat, a.mtu) == (2, True, 1400)
    assert (b.port, b.nat, b.mtu) == (3, False, 1400)


def test_ways_to_link() -> None:
    assert spec_of(THREE + "links: full\n").links == Full()
    assert spec_of(THREE + "links: {hub: a}\n").links == Hub(("a",))
    assert spec_of(THREE + "links: {hub: [b, a]}\n").links == Hub(("b", "a"))
    assert spec_of(THREE + 'links: ["a -- b", c--*]\n').links == Lines((("a", "b"), ("c", "*")))


def test_the_lab() -> None:
    spec = spec_of(THREE + "lab: {latency: 1.5s, loss: 2%, hosts: {c: {behind: nat}, a: {}}}\n")
    assert spec.lab == LabSpec(1500.0, 0.02, {"a": False, "c": True})


def test_anchors_and_merges_of_plain_yaml() -> None:
    spec = spec_of(
        "mesh: m\nhosts:\n  a: &base {ssh: root@a, mtu: 1400, nat: true}\n  b: {<<: *base, ssh: root@b, nat: false}\n"
    )
    assert (spec.hosts["b"].mtu, spec.hosts["b"].nat, spec.hosts["b"].ssh.host) == (1400, False, "b")


def test_a_host_is_closed_in_its_own_words_or_those_of_all() -> None:
    spec = spec_of(
        "mesh: m\ndefaults: {kill_switch: true}\nhosts:\n  a: r@a\n  b: {ssh: r@b, kill_switch: false}\n"
        "  c: {ssh: r@c, kill_switch: {allow: [tcp/443, tcp/22, TCP/22]}}\n"
        "  d: {ssh: r@d, kill_switch: {allow: tcp/22}}\n"
    )
    closed = {name: host.kill_switch for name, host in spec.hosts.items()}
    assert closed == {"a": KillSwitch(), "b": None, "c": KillSwitch((22, 443)), "d": KillSwitch((22,))}


EXITS = "mesh: m\nhosts:\n  x: {ssh: r@x, exit: true}\n"


def test_what_leaves_by_an_exit_in_a_hosts_own_words_or_those_of_all() -> None:
    spec = spec_of(
        EXITS.replace("hosts:", "defaults: {route: all}\nhosts:") + "  a: r@a\n  b: {ssh: r@b, route: false}\n"
        "  c: {ssh: r@c, route: {users: [bob, 2000-2999, 1001, bob]}}\n  d: {ssh: r@d, route: {users: 7}, via: x}\n"
    )
    assert {name: host.route for name, host in spec.hosts.items()} == {
        "a": Route("x"),
        "b": None,
        "c": Route("x", ("1001", "2000-2999", "bob")),
        "d": Route("x", ("7",)),
        "x": None,
    }
    assert [name for name, host in spec.hosts.items() if host.exit] == ["x"]


def test_one_of_several_exits_is_chosen_by_name() -> None:
    spec = spec_of(EXITS + "  y: {ssh: r@y, exit: true}\n  a: {ssh: r@a, route: all, via: y}\n")
    assert spec.hosts["a"].route == Route("y")


def test_an_exit_with_a_fault_of_its_own_is_still_an_exit() -> None:
    (problem,) = problems_of("mesh: m\nhosts:\n  x: {exit: true}\n  a: {ssh: r@a, route: all}\n")
    assert problem.what == "ssh is missing"


FAULTS = {
    # text: (line, column, code, what, hint)
    "": (1, 1, "type", "not a mesh", "mesh: NAME"),
    "mesh: m\n": (1, 1, "missing", "hosts is missing", "add hosts:"),
    "hosts: {a: r@a}\n": (1, 1, "missing", "mesh is missing", "add mesh: NAME"),
    "mesh: m\nhosts: {}\n": (2, 1, "missing", "there is no host", "NAME: user@host"),
    "mesh: Prod\nhosts: {a: r@a}\n": (1, 7, "name", "can't name a mesh", "for example prod"),
    "mesh: all\nhosts: {a: r@a}\n": (1, 7, "name", "a name of the kernel's own", "for example prod"),
    "mesh: abcdefghijklmnop\nhosts: {a: r@a}\n": (1, 7, "name", "1 to 15", "for example abcdefghijklmno"),
    "mesh: m\nhosts: {a: r@a, Web_1: r@b}\n": (2, 17, "name", "can't name a host", "for example web-1"),
    "mesh: m\nhosts: {localhost: r@b}\n": (2, 9, "name", "every machine's own name", "for example db"),
    "mesh: m\nhosts:\n  a: r@a\n  a: r@b\n": (4, 3, "duplicate", "a is written twice", "first is on line 3"),
    "mesh: m\nhosts: {a: r@a, b: x@a}\n": (2, 17, "duplicate", "the SSH address of a", "delete one"),
    "mesh: m\nhosts: {a: }\n": (2, 9, "missing", "no SSH address", "NAME: root@"),
    "mesh: m\nhosts: {a: {nat: true}}\n": (2, 9, "missing", "ssh is missing", "add ssh:"),
    "mesh: m\nhosts: {a: r@-oProxyCommand=x}\n": (2, 12, "name", "is not an SSH address", "user@host"),
    "mesh: m\nhosts: {a: -oProxyCommand=x@a}\n": (2, 12, "name", "is not a user name", "user@host"),
    "mesh: m\nhosts: {a: r@a:0}\n": (2, 12, "name", "'0' is not a port", "1 to 65535"),
    "mesh: m\nhosts: {a: r@10.0.0.300}\n": (2, 12, "name", "is not an SSH address", "user@host"),
    "mesh: m\nhosts:\n": (2, 1, "type", "not an empty value", "a line below it, indented: NAME: root@"),
    "mesh: m\nhosts: [a, b]\n": (2, 8, "type", "not a list", "a line below it, indented: NAME: root@"),
    "mesh: m\nhosts:\na: r@a\n": (2, 1, "type", "not an empty value", "indented: NAME:"),
    "mesh: m\nhosts: {a: {ssh: r@a, adress: x}}\n": (2, 23, "unknown-word", "adress", "did you mean address?"),
    "mesh: m\nhosts: {a: r@a}\nlnks: full\n": (3, 1, "unknown-word", "lnks", "did you mean links?"),
    "mesh: m\nhosts: {a: {ssh: r@a, nat: yes}}\n": (2, 28, "type", "nat is true or false, not 'yes'", "nat: true"),
    "mesh: m\nhosts: {a: {ssh: r@a, port: x}}\n": (2, 29, "type", "port is a whole number", "port: 51820"),
    "mesh: m\nhosts: {a: {ssh: r@a, port: 65536}}\n": (2, 29, "range", "from 1 to 65535, not 65536", "port: 51820"),
    "mesh: m\nmtu: 1279\nhosts: {a: r@a}\n": (2, 6, "range", "from 1280 to 65455, not 1279", "mtu: 1420"),
    "mesh: m\nhosts: {a: {ssh: r@a, lan: 192.168.1.0/33}}\n": (2, 28, "cidr", "is not a network", "192.168.20.0/24"),
    "mesh: m\nhosts: {a: {ssh: r@a, lan: 192.168.1.1/24}}\n": (
        2,
        28,
        "cidr",
        "host bits",
        "did you mean 192.168.1.0/24?",
    ),
    "mesh: m\nhosts: {a: {ssh: r@a, lan: 10.0.0.0/255.0.0.0}}\n": (2, 28, "cidr", "is not a network", "/24"),
    "mesh: m\nhosts: {a: {ssh: r@a, lan: 0.0.0.0/0}}\n": (2, 28, "cidr", "whole internet", "exit: true"),
    "mesh: m\nhosts: {a: {ssh: r@a, lan: 127.0.0.0/8}}\n": (2, 28, "cidr", "never leaves a host", "192.168.20.0/24"),
    "mesh: m\nhosts:\n  a: {ssh: r@a, lan: 10.1.0.0/16}\n  b: {ssh: r@b, lan: 10.1.2.0/24}\n": (
        4,
        22,
        "overlap",
        "lan 10.1.2.0/24 of b overlaps lan 10.1.0.0/16 of a (line 3)",
        "give each network to one host",
    ),
    "mesh: m\nnetwork: 10.1.0.0/16\nhosts: {a: {ssh: r@a, lan: 10.1.2.0/24}}\n": (
        3,
        28,
        "overlap",
        "overlaps the mesh's own network",
        "network:",
    ),
    "mesh: m\nnetwork: 8.8.0.0/16\nhosts: {a: r@a}\n": (2, 10, "network", "belongs to the internet", "10.77.0.0/16"),
    "mesh: m\nnetwork: 127.1.0.0/16\nhosts: {a: r@a}\n": (2, 10, "network", "a meaning of its own", "10.77.0.0/16"),
    "mesh: m\nnetwork: [10.1.0.0/16, 10.2.0.0/16]\nhosts: {a: r@a}\n": (
        2,
        24,
        "network",
        "a second IPv4",
        "one network",
    ),
    "mesh: m\nnetwork: 10.1.0.0/31\nhosts: {a: r@a}\n": (2, 10, "network", "no room", "/24"),
    "mesh: m\nhosts: {a: {ssh: r@a, address: 10.1.0.1}}\n": (2, 32, "address", "network of your own", "network:"),
    "mesh: m\nnetwork: 10.1.0.0/16\nhosts: {a: {ssh: r@a, address: 10.2.0.1}}\n": (
        3,
        32,
        "address",
        "not in the mesh's network",
        "10.1.0.0/16",
    ),
    "mesh: m\nnetwork: 10.1.0.0/16\nhosts: {a: {ssh: r@a, address: 10.1.0.0}}\n": (
        3,
        32,
        "address",
        "no host's",
        "next",
    ),
    "mesh: m\nnetwork: 10.1.0.0/16\nhosts: {a: {ssh: r@a, address: 10.1.0.1}, b: {ssh: r@b, address: 10.1.0.1}}\n": (
        3,
        66,
        "duplicate",
        "10.1.0.1 is the address of a too",
        "give it to one host",
    ),
    "mesh: m\nhosts: {a: {ssh: r@a, groups: b}, b: r@b}\n": (2, 31, "duplicate", "b is a host", "rename the group"),
    "mesh: m\nhosts: {a: {ssh: r@a, kill_switch: on}}\n": (
        2,
        36,
        "type",
        "true, false or {allow: …}",
        "{allow: [tcp/22]}",
    ),
    "mesh: m\nhosts: {a: {ssh: r@a, kill_switch: {allow: [22]}}}\n": (2, 23, "port", "22 is not a TCP", "tcp/22"),
    EXITS + "  a: {ssh: r@a, route: ful}\n": (4, 24, "type", "route is all or {users: …}", "route: all"),
    EXITS + "  a: {ssh: r@a, route: {users: []}}\n": (4, 17, "missing", "users is empty", "route: all"),
    EXITS + "  a: {ssh: r@a, route: {users: [root]}}\n": (4, 17, "user", "'root': what the kernel", "other users"),
    EXITS + "  a: {ssh: r@a, route: {users: 9-7}}\n": (4, 17, "user", "ends before it begins", "lower number first"),
    EXITS + "  a: {ssh: r@a, route: {users: true}}\n": (4, 17, "user", "true is not a user", "users: [alice"),
    EXITS + "  a: {ssh: r@a, route: {users: }}\n": (4, 17, "user", "an empty value is not a user", "users: [alice"),
    THREE + "  d: {ssh: r@d, route: all}\n": (6, 24, "exit", "there is no exit in this mesh", "add exit: true"),
    THREE + "  d: {ssh: r@d, route: all, via: a}\n": (6, 34, "exit", "a is no exit", "add exit: true to a"),
    EXITS + "  a: {ssh: r@a, route: all, via: z}\n": (4, 34, "unknown-name", "no host z", "declared: a, x"),
    EXITS + "  a: {ssh: r@a, via: x}\n": (4, 22, "exit", "nothing of a leaves by an exit", "add route: all"),
    EXITS.replace("true}", "true, route: all}"): (3, 36, "exit", "what an exit sends leaves by itself", "take one"),
    EXITS.replace("true}", "true, kill_switch: true}"): (3, 23, "exit", "a closed host", "kill_switch: false for x"),
    EXITS + "  a: {ssh: r@a, route: {users: bob}, kill_switch: true}\n": (
        4,
        17,
        "exit",
        "a way out for some users",
        "route: all",
    ),
    EXITS + "  y: {ssh: r@y, exit: true}\n  a: {ssh: r@a, route: all}\n": (
        5,
        24,
        "exit",
        "several exits to choose from: x, y",
        "add via: x",
    ),
    THREE + "links: ful\n": (6, 8, "link", "not a way to link", "did you mean full?"),
    THREE + "links: {hub: d}\n": (6, 14, "unknown-name", "there is no host d", "declared: a, b, c"),
    THREE + "links: {hub: []}\n": (6, 14, "missing", "hub is empty", "name at least one"),
    THREE + "links: {hub: [a, a]}\n": (6, 18, "duplicate", "hub a is named twice", "once"),
    THREE + "links: {hubs: a}\n": (6, 9, "unknown-word", "unknown word hubs", "did you mean hub?"),
    THREE + "links: [a -> b]\n": (6, 9, "link", "is not a link", '"a -- b"'),
    THREE + "links: [a -- a]\n": (6, 9, "self-link", "linked with itself", "another host"),
    THREE + "links: [a -- dbs]\n": (6, 9, "unknown-name", "there is no host or group dbs", "declared: a, b, c"),
    THREE + "lab: {latency: 20}\n": (6, 16, "amount", "20 can't be read", "20ms"),
    THREE + "lab: {loss: 101%}\n": (6, 13, "range", "more than all", "at most 100%"),
    THREE + "lab: {hosts: {d: {}}}\n": (6, 15, "unknown-name", "there is no host d", "declared"),
    THREE + "lab: {hosts: {a: {behind: nta}}}\n": (6, 27, "type", "behind can't be 'nta'", "nat or none"),
}


def test_a_host_without_an_address_hides_nothing_else() -> None:
    told = problems_of('mesh: m\nhosts:\n  a:\n  b: 5\n  c: root@c\nlinks: ["a -- nobody"]\n')
    assert [(p.where and p.where.line, p.code) for p in told] == [(3, "missing"), (4, "missing"), (6, "unknown-name")]


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_named_where_it_stands(text: str) -> None:
    line, column, code, what, hint = FAULTS[text]
    problems = problems_of(text)
    told = [(p.code, p.what, p.hint) for p in problems]
    found = next((p for p in problems if p.code == code and what in p.what), None)
    assert found is not None, told
    assert hint in (found.hint or ""), told
    assert found.where is not None
    assert (found.where.line, found.where.column) == (line, column), told


@pytest.mark.parametrize("text", [t for t in FAULTS if t not in ("mesh: m\n",)])
def test_one_fault_is_one_problem(text: str) -> None:
    """No fault draws others after it."""
    assert len(problems_of(text)) == 1, [p.what for p in problems_of(text)]


@pytest.mark.parametrize(
    "addition",
    [
        "devices: {phone: {via: a, route: all}}",
        "pools: {runner: {size: 9}}",
        'allow: ["a -> b"]',
        'expect: ["a reaches b"]',
        "defaults: {keys: host}",
    ],
)
def test_words_of_later_versions_are_never_ignored(addition: str) -> None:
    (problem,) = problems_of(THREE + addition + "\n")
    assert problem.code == "not-yet"
    assert "doesn't carry out yet" in problem.what
    assert problem.hint


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
mesh: Prod
hosts:
  a: {ssh: root@a, adress: 1, lan: 10.0.0.1/8}
  b: {ssh: "root@b c", port: 0}
  c: {ssh: root@c, nat: maybe}
  c: root@d
links: {hub: z}
devices: {}
"""
    found = problems_of(text)
    assert [p.code for p in found] == [
        "name",
        "unknown-word",
        "cidr",
        "name",
        "range",
        "type",
        "duplicate",
        "unknown-name",
        "not-yet",
    ]
    assert [p.where.line for p in found if p.where] == [1, 3, 3, 4, 4, 5, 6, 7, 8]


def test_a_list_is_no_mesh() -> None:
    from meshctl.core.errors import Invalid

    with pytest.raises(Invalid, match="not a mesh"):
        parse(yamlfile.parse(b"- a\n", "mesh.yaml"), "mesh.yaml")
