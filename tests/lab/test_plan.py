"""The simulated internet as a plan: pure, so no root is needed."""

from __future__ import annotations

from ipaddress import ip_address

from meshctl.shell.lab.plan import plan
from meshctl.shell.lab.wish import LabHost, LabOptions, Wish


def wish(*hosts: LabHost, **options: object) -> Wish:
    return Wish("prod", hosts, LabOptions(**options))  # type: ignore[arg-type]


def test_each_host_has_its_own_addresses() -> None:
    layout = plan(wish(*(LabHost(f"h{n}") for n in range(900))))
    addresses = [a for place in layout.places.values() for a in (place.address, place.address6)]
    assert len(set(addresses)) == len(addresses) == 1800
    assert {ip_address(a).version for a in addresses if a} == {4, 6}


def test_same_wish_same_plan() -> None:
    hosts = LabHost("a"), LabHost("b", behind="home"), LabHost("c", behind="home")
    assert plan(wish(*hosts)) == plan(wish(*hosts))


def test_an_address_in_the_file_is_the_hosts_own_and_nobody_elses() -> None:
    layout = plan(wish(LabHost("a"), LabHost("b", names=("203.0.113.1", "2001:db8::1"))))
    assert (layout.places["b"].address, layout.places["b"].address6) == ("203.0.113.1", "2001:db8::1")
    assert layout.places["a"].address == "203.0.113.2"
    assert layout.places["a"].address6 == "2001:db8::2"


def test_two_hosts_can_not_share_an_address() -> None:
    layout = plan(wish(LabHost("a", names=("198.51.100.7",)), LabHost("b", names=("198.51.100.7",))))
    assert layout.places["a"].address == "198.51.100.7"
    assert layout.places["b"].address != "198.51.100.7"


def test_loopback_is_no_address_of_the_internet() -> None:
    assert plan(wish(LabHost("a", names=("127.0.0.1", "::1")))).places["a"].address == "203.0.113.1"


def test_names_are_in_the_hosts_file_with_both_families() -> None:
    lines = plan(wish(LabHost("a", names=("a.example.com", "vpn.example.com")))).hosts_file.splitlines()
    assert "203.0.113.1\ta.example.com vpn.example.com" in lines
    assert "2001:db8::1\ta.example.com vpn.example.com" in lines


def test_hosts_of_one_site_share_a_box_and_have_ports_of_their_own() -> None:
    home = [LabHost(name, behind="home", names=(f"{name}.example.com",)) for name in ("b", "c")]
    layout = plan(wish(LabHost("a"), *home, LabHost("d", behind="d")))
    b, c, d = (layout.places[name] for name in "bcd")
    assert b.box == c.box == "nat-home"
    assert d.box == "nat-d"
    assert b.address == c.address != d.address
    assert b.port != c.port
    assert b.address6 is None
    assert f"{b.address}\tb.example.com" in layout.hosts_file.splitlines()


def test_behind_a_box_the_private_address_of_the_file_is_the_hosts_own() -> None:
    b = LabHost("b", behind="home", names=("198.51.100.9",), site_names=("192.168.1.7", "b.lan"))
    layout = plan(wish(b, LabHost("c", names=("c.example.com",), site_names=("10.9.0.3", "c.example.com"))))
    lines = {line.node: line for line in layout.lines}
    assert lines["b"].address4 == ("192.168.1.7",)
    assert layout.places["b"].address == "198.51.100.9"
    assert "192.168.1.7\tb.lan" in layout.hosts_file
    assert "dnat ip to 192.168.1.7:22" in layout.rulesets()["nat-home"]
    assert lines["c"].address4 == ("203.0.113.1", "10.9.0.3")
    assert layout.hosts_file.count("c.example.com") == 2  # one for each family


def test_nothing_is_dropped_unless_loss_is_asked_for() -> None:
    assert "numgen" not in "".join(plan(wish(LabHost("a"), LabHost("b", behind="b"))).rulesets().values())


def test_loss_of_a_host_is_on_its_own_line_at_its_own_router() -> None:
    rules = plan(wish(LabHost("a"), LabHost("b", behind="b", loss=0.5), LabHost("c", loss=0.25))).rulesets()
    assert "iifname h1 numgen random mod 1000000 < 500000 counter drop" in rules["nat-b"]
    assert "oifname h2 numgen random mod 1000000 < 250000 counter drop" in rules["internet"]
    assert "500000" not in rules["internet"]


def test_a_wish_survives_json() -> None:
    asked = wish(LabHost("a", names=("x",), site_names=("y",), lan=("192.168.1.0/24",)), loss=0.01, hide=("/srv/x",))
    assert Wish.from_json(asked.to_json()) == asked
