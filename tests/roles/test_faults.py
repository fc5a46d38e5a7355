"""What can be wrong with one host: a code and a hint for it, nothing changed there, and the others are done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import bundles
from .conftest import listing, same
from .hosts import Fleet, Host
from .image import PASSWORD
from .play import Played, play

pytestmark = [pytest.mark.root, pytest.mark.slow]


@contextmanager
def broken(host: Host, how: str, repair: str) -> Iterator[list[str]]:
    """The host with `how` done to it; gives its listing then. `repair` is run whatever happens."""
    host.run(how)
    try:
        yield listing(host)
    finally:
        host.run(repair)


def failed_alone(played: Played, host: Host, code: str) -> None:
    assert played.error(host.name)["code"] == code, played.output
    assert played.error(host.name)["hint"]
    assert played.of("b")["confirm"]["status"] == "changed", played.output


FAULTS = {
    "no-tun": ("mv /dev/net/tun /dev/net/away", "mv /dev/net/away /dev/net/tun", "no-tun"),
    "port taken": ("nc -u -l -p 51820 > /dev/null 2>&1 < /dev/null & echo $! > /run/nc.pid; sleep 0.3",
                   "kill $(cat /run/nc.pid); rm /run/nc.pid", "port-taken"),
    "foreign link": ("ip link add prod type bridge", "ip link delete prod", "foreign-link"),
    "disk full": ("mkdir -p /usr/local/lib/meshd && mount -t tmpfs -o size=256k tmpfs /usr/local/lib/meshd",
                  "umount /usr/local/lib/meshd && rmdir /usr/local/lib/meshd", "disk-full"),
    "read-only": ("mount --bind /usr/local /usr/local && mount -o remount,ro,bind /usr/local",
                  "umount /usr/local", "other"),
    "a disk that fails": ("printf '#!/bin/sh\\necho Input/output error >&2; exit 1\\n' > /usr/local/bin/sync;"
                          " chmod 755 /usr/local/bin/sync", "rm /usr/local/bin/sync", "other"),
    "the service does not start": (
        "mkdir /etc/systemd/system/meshd@.service.d; cd /etc/systemd/system/meshd@.service.d;"
        " printf '[Service]\\nExecStartPre=/bin/false\\n' > no.conf",
        "rm -r /etc/systemd/system/meshd@.service.d; systemctl daemon-reload", "service"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_the_host_as_it_was(fleet: Fleet, tmp_path: Path, fault: str) -> None:
    how, repair, code = FAULTS[fault]
    a = fleet["a"]
    bundles.write(tmp_path, fleet)
    with broken(a, how, repair) as before:
        played = play(fleet, "site", tmp_path)
        failed_alone(played, a, code)
        same(listing(a), before)


def test_files_are_on_the_disk_before_they_have_their_names(fleet: Fleet, tmp_path: Path) -> None:
    """So that no power failure leaves an empty unit or program behind."""
    a = fleet["a"]
    bundles.write(tmp_path, fleet)
    tells = (
        """printf '#!/bin/sh\necho $(ls -d /usr/local/bin/meshd 2> /dev/null) : "$@" >> /run/synced\n'"""
        " > /usr/local/bin/sync; chmod 755 /usr/local/bin/sync"
    )
    with broken(a, tells, "rm -f /usr/local/bin/sync /run/synced"):
        assert play(fleet, "site", tmp_path, "--limit", "a,b").exit == 0
        before, after = a.run("cat /run/synced").stdout.splitlines()
    assert before.startswith(": ")
    new = {path.removesuffix(".meshctl-new") for path in before.split()[1:]}
    assert {"/etc/systemd/system/meshd@.service", "/etc/meshd/prod.manifest.json"} < new
    assert any(path.endswith("/meshd") for path in new)
    named, folders = after.split(" : ")
    assert named == "/usr/local/bin/meshd"
    assert {str(Path(path).parent) for path in new} <= set(folders.split())


def test_the_next_run_finishes_what_a_fault_left(fleet: Fleet, tmp_path: Path) -> None:
    how, repair, code = FAULTS["disk full"]
    bundles.write(tmp_path, fleet)
    with broken(fleet["a"], how, repair):
        assert play(fleet, "site", tmp_path).error("a")["code"] == code
    done = play(fleet, "site", tmp_path)
    assert done.exit == 0, done.output
    fleet["a"].reaches("b.prod")


def test_a_tun_device_that_is_root_s_alone(fleet: Fleet, tmp_path: Path) -> None:
    """No fault: without udev the kernel makes it so (drivers/net/tun.c), and then the daemon is root."""
    bundles.write(tmp_path, fleet)
    a = fleet["a"]
    with broken(a, "chmod 0600 /dev/net/tun", "chmod 0666 /dev/net/tun"):
        done = play(fleet, "site", tmp_path)
        assert done.exit == 0, done.output
        a.reaches("b.prod")
        a.run("! grep -q ^DynamicUser /etc/systemd/system/meshd@.service")
    assert play(fleet, "site", tmp_path, "--limit", "a").exit == 0
    a.run("grep -q ^DynamicUser /etc/systemd/system/meshd@.service")
    a.reaches("b.prod")


def test_an_upgrade_that_fails_leaves_the_old_daemon_running(fleet: Fleet, tmp_path: Path) -> None:
    """The host has an older unit, without the first line, and a drop-in that lets only that one start."""
    a = fleet["a"]
    bundles.write(tmp_path, fleet)
    assert play(fleet, "site", tmp_path).exit == 0
    unit = "/etc/systemd/system/meshd@.service"
    only_older = f"""
        sed -i 1d {unit}; mkdir {unit}.d
        printf '[Service]\nExecStartPre=/bin/sh -c "! grep -q ^#.meshd.as {unit}"\n' > {unit}.d/no.conf
        systemctl daemon-reload; systemctl restart meshd@prod
    """
    with broken(a, only_older, f"rm -r {unit}.d; systemctl daemon-reload"):
        before = a.run(f"sha256sum {unit}").stdout
        played = play(fleet, "site", tmp_path)
        assert played.error("a")["code"] == "service", played.output
        assert a.run(f"sha256sum {unit}").stdout == before
        a.run("systemctl is-active meshd@prod")
        a.reaches("b.prod")


def test_a_user_without_sudo(fleet: Fleet, tmp_path: Path) -> None:
    bundles.write(tmp_path, fleet)
    before = listing(fleet["a"])
    for user in ("guest", "deputy"):
        played = play(fleet, "site", tmp_path, "--limit", "a", ansible_user=user, ansible_become=True)
        assert played.error("a")["code"] == "no-sudo", played.output
    played = play(fleet, "site", tmp_path, "--limit", "a", ansible_user="guest")
    assert played.error("a")["code"] == "no-root", played.output
    wrong = play(
        fleet, "site", tmp_path, "--limit", "a", ansible_user="deputy", ansible_become=True, ansible_become_password="x"
    )
    assert wrong.error("a")["code"] == "no-sudo", wrong.output
    same(listing(fleet["a"]), before)


@pytest.mark.parametrize(("user", "password"), [("admin", None), ("deputy", PASSWORD)])
def test_a_user_with_sudo(fleet: Fleet, tmp_path: Path, user: str, password: str | None) -> None:
    bundles.write(tmp_path, fleet)
    become = {"ansible_become": True} | ({"ansible_become_password": password} if password else {})
    played = play(fleet, "site", tmp_path, "--limit", "a,b", ansible_user=user, **become)
    assert played.exit == 0, played.output
    fleet["a"].reaches("b.prod")


def test_an_unreachable_host_and_one_with_another_key(fleet: Fleet, tmp_path: Path) -> None:
    bundles.write(tmp_path, fleet)
    nowhere = play(fleet, "site", tmp_path, "--limit", "a", ansible_port=2)
    assert nowhere.error("a")["code"] == "unreachable"
    stranger = play(fleet, "site", tmp_path, "--limit", "a", ansible_ssh_extra_args="-o UserKnownHostsFile=/dev/null")
    assert stranger.error("a")["code"] == "host-key", stranger.output
    locked = play(fleet, "site", tmp_path, "--limit", "a", ansible_user="nobody")
    assert locked.error("a")["code"] == "auth", locked.output


def test_a_processor_that_is_not_carried(fleet: Fleet, tmp_path: Path) -> None:
    bundles.write(tmp_path, fleet)
    before = listing(fleet["a"])
    played = play(fleet, "site", tmp_path, "--limit", "a", meshd_arch="riscv64")
    assert played.error("a")["code"] == "arch"
    same(listing(fleet["a"]), before)


def test_a_bundle_that_is_not_whole(fleet: Fleet, tmp_path: Path) -> None:
    bundles.write(tmp_path, fleet)
    (tmp_path / "a" / "prod.conf").write_text("[Interface]\n")
    before = listing(fleet["a"])
    played = play(fleet, "site", tmp_path)
    failed_alone(played, fleet["a"], "bad-conf")
    same(listing(fleet["a"]), before)
