"""The life of a mesh on real hosts, from nothing to nothing: systemd on a and b, no init on c."""

import json
from pathlib import Path

import pytest

from meshctl.version import VERSION

from . import bundles
from .conftest import clean, listing, same
from .hosts import Fleet, Host
from .play import play

BINARY = f"/usr/local/lib/meshd/{VERSION}/meshd"

pytestmark = [pytest.mark.root, pytest.mark.slow]


def peers_alive(host: Host, count: int) -> None:
    """Every peer of `host` has shaken hands, as `wg show` tells it."""
    dump = host.run("wg show prod dump").stdout.splitlines()[1:]
    assert len(dump) == count
    assert all(int(line.split("\t")[4]) > 0 for line in dump), dump


def test_from_nothing_to_nothing(fleet: Fleet, tmp_path: Path) -> None:
    before = {host.name: listing(host) for host in fleet.hosts}
    bundles.write(tmp_path, fleet)

    first = play(fleet, "site", tmp_path)
    assert first.exit == 0, first.output
    for host in fleet.hosts:
        assert {BINARY, "started", "staged", "switched", "confirmed"} <= set(first.changed(host.name))
        host.reaches("-4 a", "-4 b", "-4 c", "-6 a.prod", "-6 b.prod", "-6 c.prod")
        peers_alive(host, 2)

    second = play(fleet, "site", tmp_path)
    assert second.exit == 0, second.output
    assert {host.name: second.changed(host.name) for host in fleet.hosts} == {"a": [], "b": [], "c": []}

    gone = play(fleet, "remove", tmp_path)
    assert gone.exit == 0, gone.output
    for host in fleet.hosts:
        same(listing(host), before[host.name])

    again = play(fleet, "remove", tmp_path)
    assert {host.name: again.changed(host.name) for host in fleet.hosts} == {"a": [], "b": [], "c": []}


def test_check_mode_says_what_would_change_and_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    before = {host.name: listing(host) for host in fleet.hosts}
    bundles.write(tmp_path, fleet)

    checked = play(fleet, "site", tmp_path, "--check", "--diff")
    assert checked.exit == 0, checked.output
    for host in fleet.hosts:
        same(listing(host), before[host.name])

    done = play(fleet, "site", tmp_path, "--diff", "-vvvv")
    assert done.exit == 0, done.output
    for host in fleet.hosts:
        foretold = set(checked.changed(host.name))
        assert foretold == set(done.changed(host.name)) - {"/etc/meshd/prod.conf"}
    secrets = [key for host in fleet.hosts for key in _secret_keys(tmp_path / host.name / "prod.conf")]
    assert len(secrets) == 3 + 6
    assert not any(secret in checked.output + done.output for secret in secrets)


def _secret_keys(conf: Path) -> list[str]:
    fields = (line.partition(" = ") for line in conf.read_text().splitlines())
    return [value for key, _, value in fields if key in ("PrivateKey", "PresharedKey")]


def test_only_the_binary_that_differs_is_sent(fleet: Fleet, tmp_path: Path) -> None:
    bundles.write(tmp_path, fleet)
    assert play(fleet, "site", tmp_path).exit == 0
    fleet["a"].run("echo drift >> /etc/systemd/system/meshd@.service")
    fleet["b"].run("systemctl disable --now meshd@prod")

    healed = play(fleet, "site", tmp_path)
    assert healed.exit == 0, healed.output
    assert healed.of("a")["daemon"]["changed"] == ["/etc/systemd/system/meshd@.service", "restarted"]
    assert healed.of("b")["daemon"]["changed"] == ["enabled", "started"]
    assert healed.of("c")["daemon"]["changed"] == []
    for host in fleet.hosts:
        host.reaches("a", "b", "c")


def test_the_last_mesh_takes_the_shared_files_along(fleet: Fleet, tmp_path: Path) -> None:
    bundles.write(tmp_path / "prod", fleet)
    bundles.write(tmp_path / "blue", fleet, "defaults: {port: 51821}\n", name="blue")
    try:
        assert play(fleet, "site", tmp_path / "prod").exit == 0
        second = play(fleet, "site", tmp_path / "blue")
        assert second.exit == 0, second.output
        assert BINARY not in second.changed("a")

        assert play(fleet, "remove", tmp_path / "prod").exit == 0
        for host in fleet.hosts:
            host.reaches("b.blue")
            host.run("test -x /usr/local/bin/meshd && ! test -e /sys/class/net/prod")
    finally:
        clean(fleet, "blue", "prod")


def test_after_a_reboot_the_mesh_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    bundles.write(tmp_path, fleet)
    assert play(fleet, "site", tmp_path).exit == 0
    fleet.reboot("a", "b")
    fleet["a"].reaches("b.prod")


def test_a_closed_host_boots_closed(fleet: Fleet, tmp_path: Path) -> None:
    """The guard comes before the network and before the daemon, and holds without one."""
    closed = "defaults: {kill_switch: {allow: [tcp/22]}}\n"
    bundles.write(tmp_path, fleet, closed)
    first = play(fleet, "site", tmp_path)
    assert first.exit == 0, first.output
    assert "/etc/systemd/system/meshd-guard@.service" in first.changed("a")
    again = play(fleet, "site", tmp_path)
    assert [again.changed(host.name) for host in fleet.hosts] == [[], [], []]

    fleet["a"].run("systemctl is-enabled meshd-guard@prod && systemctl mask meshd@prod")
    fleet.reboot("a", "b")
    when = "systemctl show --value -p ActiveEnterTimestampMonotonic"
    fleet["a"].run(
        f"systemctl is-active meshd-guard@prod && test $({when} meshd-guard@prod) -le $({when} network-pre.target)"
    )
    way = fleet["a"].run("ip route get 203.0.113.9 2>&1", check=False).stdout
    assert "No route to host" in way, way
    fleet["a"].run("nft list table inet meshd_prod && systemctl unmask meshd@prod && systemctl start meshd@prod")
    fleet["a"].reaches("b.prod")
    fleet["b"].run("systemctl is-active meshd-guard@prod")

    gone = play(fleet, "remove", tmp_path)
    assert gone.exit == 0, gone.output
    fleet["a"].run("! systemctl is-active meshd-guard@prod && ! nft list table inet meshd_prod")


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_exit_turns_forwarding_on_and_back(fleet: Fleet, tmp_path: Path, name: str) -> None:
    """What the unit leaves writable is enough for the daemon, and a stop of the service puts everything back."""
    bundles.write(tmp_path, fleet)
    assert play(fleet, "site", tmp_path).exit == 0
    host = fleet[name]
    link = host.run("ip -o -4 route show default | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -1").stdout.strip()
    switches = "cd /proc/sys/net; grep -H . ipv4/ip_forward ipv[46]/conf/*/*forwarding | grep -v /prod/"
    before = host.run(switches).stdout
    host.run(f"ip -6 route show default | grep -q . || ip -6 route add default via fe80::1 dev {link} metric 4321")
    try:
        host.run(
            "sed 's/^\\[Interface\\]$/&\\nExit = on/' /etc/meshd/prod.conf > /run/exit && "
            "id=$(sha256sum < /run/exit | cut -c 1-64) && meshd stage prod --id $id < /run/exit && rm /run/exit && "
            "meshd switch prod --id $id --within 60 && meshd confirm prod --id $id"
        )
        report = json.loads(host.run("meshd report prod --json").stdout)
        assert "Exit = on\n" in report["running"]
        assert report["running"] == report["conf"]
        turned = host.run(switches).stdout
        assert f"ipv4/conf/{link}/forwarding:1\n" in turned
        assert "ipv6/conf/all/forwarding:1\n" in turned or f"ipv6/conf/{link}/force_forwarding:1\n" in turned
        host.run("systemctl kill -s KILL meshd@prod; sleep 1; systemctl is-active meshd@prod")
        assert host.run(switches).stdout == turned
        host.run("systemctl stop meshd@prod")
        assert host.run(switches).stdout == before
    finally:
        host.run("ip -6 route del default metric 4321 2> /dev/null || true")


def test_a_host_is_the_way_out_of_another_ones_user(fleet: Fleet, tmp_path: Path) -> None:
    """c stands for the internet: it knows neither the mesh nor the way to it. The daemon of a has one capability."""
    out = {4: "203.0.113.9", 6: "2001:db8:9::9"}
    a, b, c = (fleet[name] for name in "abc")
    ways = {4: f"{out[4]}/32 via {c.address}", 6: f"{out[6]}/128 via {c.address6}"}
    for version in (4, 6):
        c.run(f"ip addr add {ways[version].split()[0]} dev lo")
        a.run(f"ip -{version} route add {ways[version]}")
    ask = "setpriv --reuid={} --clear-groups --inh-caps=+net_raw --ambient-caps=+net_raw ping -c 1 -W 2 {}"
    switches = "grep -s . /proc/sys/net/ipv[46]/conf/*/forwarding /proc/sys/net/ipv6/conf/*/accept_ra"
    before = a.run(switches).stdout
    words = {"a": "exit: true", "b": "route: {users: [guest]}"}
    try:
        bundles.write(tmp_path, fleet, words=words)
        first = play(fleet, "site", tmp_path)
        assert first.exit == 0, first.output
        assert [play(fleet, "site", tmp_path).changed(host.name) for host in fleet.hosts] == [[], [], []]
        for address in out.values():
            b.run(ask.format("guest", address))
            assert b.run(ask.format("root", address), check=False).returncode != 0, address
        a.run("systemctl restart meshd@prod")
        for address in out.values():
            b.run(ask.format("guest", address))
    finally:
        gone = play(fleet, "remove", tmp_path)
        c.run(f"ip addr del {out[4]}/32 dev lo; ip addr del {out[6]}/128 dev lo")
        a.run(f"ip -4 route del {ways[4]}; ip -6 route del {ways[6]}")
    assert gone.exit == 0, gone.output
    assert a.run(switches).stdout == before


def test_an_interface_in_a_namespace_outlives_daemon_and_reboot(fleet: Fleet, tmp_path: Path) -> None:
    """Under systemd the daemon may not enter the namespace: the unit hands it over, and systemd keeps it."""
    bundles.write(tmp_path, fleet)
    assert play(fleet, "site", tmp_path).exit == 0
    host = fleet["a"]
    host.run(
        "sed 's/^\\[Interface\\]$/&\\nNamespace = work/' /etc/meshd/prod.conf > /run/moved && "
        "id=$(sha256sum < /run/moved | cut -c 1-64) && meshd stage prod --id $id < /run/moved && rm /run/moved && "
        "meshd switch prod --id $id --within 60 && meshd confirm prod --id $id"
    )
    try:
        works = "for n in 1 2 3 4 5 6 7 8 9 10; do meshd exec prod -- ping -c 1 -W 1 b.prod && exit 0; done; exit 1"
        index = "ip -n work -o link show prod | cut -d: -f1"
        host.run(f"{works} && ! ip link show prod")
        before = host.run(index).stdout
        host.run("systemctl kill -s KILL meshd@prod; sleep 1; systemctl is-active meshd@prod")
        host.run(works)
        host.run("systemctl restart meshd@prod")
        host.run(works)
        assert host.run(index).stdout == before, "the same link"
        host.run("systemctl stop meshd@prod; systemctl start meshd@prod")
        host.run(works)
        fleet.reboot("a")
        host.run(works)
    finally:
        gone = play(fleet, "remove", tmp_path)
    assert gone.exit == 0, gone.output
    host.run("! ls /run/netns")
