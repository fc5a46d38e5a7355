"""Hosts of a lab: reached by SSH and by exec, freshly installed, and apart from the machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from meshctl.core.errors import Failed
from meshctl.shell import lab
from meshctl.shell.lab import LabHost

from .bench import Bench

pytestmark = pytest.mark.root


@pytest.mark.parametrize("host", ["a", "b", "c"])
def test_ssh_reaches_every_host_with_the_keys_of_the_record(three: Bench, host: str) -> None:
    done = three.ssh(host, "hostname; id -un")
    assert (done.stdout.split(), done.stderr) == ([host, three.hosts[host].user], "")


def test_another_user_than_root_has_sudo_without_a_password(three: Bench) -> None:
    assert three.ssh("b", "sudo -n id -u").stdout == "0\n"


def test_the_machine_itself_is_not_in_the_lab(three: Bench) -> None:
    address = three.hosts["a"].hostname
    assert "203.0.113." in address
    outside = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    assert address not in outside
    assert "203.0.113." not in subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout


def test_exec_passes_exit_status_input_and_output(three: Bench) -> None:
    done = three.run("a", "cat; pwd; echo no >&2; exit 7", b"hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"hello\n/root\n", b"no\n")
    assert three.run("a", "kill -9 $$").returncode == 128 + 9
    assert lab.exec_(three.name, "a", ["true"]) == 0


def test_exec_of_a_missing_command_is_127(three: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert lab.exec_(three.name, "a", ["nonesuch"]) == 127
    assert "nonesuch" in capfd.readouterr().err


def test_an_unknown_host_is_named_with_the_known_ones(three: Bench) -> None:
    with pytest.raises(Failed) as raised:
        lab.exec_(three.name, "z", ["true"])
    assert (raised.value.code, raised.value.hint) == ("lab-host", "its hosts are a, b, c")


def test_a_host_has_processes_of_its_own_and_no_init_system(three: Bench) -> None:
    assert int(three.says("a", "ps ax | wc -l")) < 15
    assert three.says("a", "ls /run/systemd /run/openrc 2>/dev/null | wc -l") == "0"
    assert three.says("a", "cat /proc/1/comm") == "sh"


def test_a_host_is_freshly_installed(three: Bench) -> None:
    paths = "/etc/meshd /usr/local/bin/meshd /usr/local/lib/meshd /run/meshd /run/wireguard /home/* /tmp/*"
    assert three.run("a", f"ls -d {paths} 2>/dev/null").stdout == b""
    assert three.says("a", "stat -c %a /tmp") == "1777"


def test_what_a_host_writes_stays_there(three: Bench) -> None:
    for path in ("/etc/lab-test", "/usr/local/bin/lab-test", "/run/lab-test", "/tmp/lab-test", "/root/lab-test"):
        three.says("a", f"echo x > {path} && test -s {path}")
        assert not Path(path).exists()
        assert three.run("b", f"test -e {path}").returncode == 1


def test_root_on_a_host_can_not_reach_the_clock_or_the_sysctls_of_the_machine(three: Bench) -> None:
    assert three.run("a", "date -s 12:00").returncode != 0
    assert three.run("a", "echo 1 > /proc/sys/kernel/panic").returncode != 0
    assert three.ssh("a", "echo 1 > /proc/sys/net/ipv4/ip_forward").returncode == 0


def test_a_host_is_no_router_and_its_root_can_be_entered_by_all(three: Bench) -> None:
    assert three.says("b", "cat /proc/sys/net/ipv4/ip_forward") == "0"
    assert three.says("b", "stat -c %a /") == "755"
    assert three.ssh("b", "ls /etc/hostname").returncode == 0


def test_orphans_are_collected(three: Bench) -> None:
    three.says("a", "(sleep 0.1 &) ; sleep 0.4; ps ax -o stat | grep -c Z; true")
    assert three.says("a", "ps ax -o stat= | grep -c ^Z || true") == "0"


def test_sshd_comes_back_when_it_dies(three: Bench) -> None:
    three.says("a", "kill $(cat /run/sshd.pid); sleep 2")
    assert three.ssh("a", "true").returncode == 0


def test_names_and_addresses_of_the_file_are_the_hosts_own(three: Bench) -> None:
    assert three.says("b", "getent ahostsv4 a.example.com").split()[0] == three.hosts["a"].hostname
    assert three.hosts["b"].hostname == "198.51.100.77"
    three.says("a", "ping -c1 -W2 198.51.100.77 && ping -c1 -W2 a.example.com")


def test_both_families_cross_the_internet(three: Bench) -> None:
    three.says("a", f"ping -c1 -W2 {three.hosts['b'].hostname} && ping -c1 -W2 {three.hosts['b'].address6}")


def test_a_directory_can_be_hidden_from_the_hosts(bench: Bench) -> None:
    full = Path("/usr/share")  # on every machine, and none of the places that are fresh on a host anyway
    bench.up(LabHost("a"), hide=(str(full),))
    assert bench.says("a", f"ls -A {full}") == ""
    assert any(full.iterdir())


def test_a_host_can_lack_tun(bench: Bench) -> None:
    bench.up(LabHost("a", tun=False), LabHost("b"))
    assert bench.run("a", "test -e /dev/net/tun").returncode == 1
    assert bench.run("a", "mkdir -p /dev/net && mknod /dev/net/tun c 10 200").returncode != 0
    assert bench.ssh("a", "mknod /dev/tun c 10 200").returncode != 0
    bench.says("b", "ip tuntap add dev t0 mode tun")


def test_a_host_can_have_a_small_disk(bench: Bench) -> None:
    bench.up(LabHost("a", disk_mib=2))
    done = bench.ssh("a", "head -c 4000000 /dev/zero > /usr/local/lib/big")
    assert done.returncode != 0
    assert "No space left" in done.stderr


def test_sudo_can_be_missing_or_want_a_password(bench: Bench) -> None:
    bench.up(LabHost("a", user="admin", sudo=False), LabHost("b", user="admin", sudo_password="lab secret"))
    assert bench.ssh("a", "sudo -n true").returncode != 0
    assert bench.ssh("b", "sudo -n true").returncode != 0
    assert bench.ssh("b", "echo 'lab secret' | sudo -S -p '' id -u").stdout == "0\n"
    assert bench.ssh("b", "echo wrong | sudo -S -p '' id -u").stdout == ""


def test_a_lab_needs_a_proper_name() -> None:
    for name in ("", "../x", "A", "x" * 16):
        with pytest.raises(Failed):
            lab.down(name)


def test_without_root_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failed) as raised:
        lab.up("prod", [LabHost("a")])
    assert raised.value.code == "lab-root"
