"""Real hosts for the tests of the roles, one fleet for all of them: booting costs more than resetting."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import hosts
from .hosts import ROOT, Fleet, Host
from .play import COLLECTIONS

FLEET = "roles"

# What comes and goes on a booted Debian by itself, with logins above all.
_RESTLESS = (
    "/proc /sys /dev /tmp /var/tmp /var/log/journal /var/lib/sudo /root/.ssh /run/user /run/log /run/sudo /run/systemd "
    "/run/credentials /run/motd.dynamic /home/admin /home/deputy"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = hosts.missing()
    for item in items:
        if reason and item.get_closest_marker("root") and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def collections() -> Path:
    linker = ROOT / "meshctl" / "ansible" / "link_collection.py"
    subprocess.run([sys.executable, str(linker), str(COLLECTIONS)], check=True)
    return COLLECTIONS


@pytest.fixture(scope="session")
def booted(collections: Path) -> Iterator[Fleet]:
    """a is a machine, b a container with systemd, c has no init."""
    try:
        yield hosts.up(FLEET, "a", "b:container", "c:bare")
    finally:
        hosts.down(FLEET)


@pytest.fixture
def fleet(booted: Fleet) -> Iterator[Fleet]:
    """The fleet with no mesh on it, checked before and after: a test that leaves something behind fails."""
    before = {host.name: listing(host) for host in booted.hosts}
    yield booted
    clean(booted)
    for host in booted.hosts:
        same(listing(host), before[host.name])


def clean(fleet: Fleet, *names: str) -> None:
    """Takes meshes away by the removal's own script, without Ansible: quick, and the same for every test."""
    shell = ROOT / "meshctl" / "ansible" / "plugins" / "plugin_utils" / "sh"
    script = (shell / "common.sh").read_text() + (shell / "remove.sh").read_text()
    for host in fleet.hosts:
        for name in names or ("prod",):
            host.run(f"set -- {name} {'none' if host.kind == hosts.BARE else 'systemd'}\n{script}", check=False)


def same(now: list[str], before: list[str]) -> None:
    assert (sorted(set(now) - set(before)), sorted(set(before) - set(now))) == ([], [])


def listing(host: Host) -> list[str]:
    """Every file, link and folder of the host with its mode and owner, and its links, routes and rules."""
    prune = " -o ".join(f"-path {path}" for path in _RESTLESS.split())
    script = rf"""
        find / /run \( {prune} \) -prune -o -printf '%y %m %U %p %l\n' | sort -u
        ip -o link show | sed 's/^[0-9]*: \([^:@]*\).*/\1/'
        ip -4 route; ip -6 route | grep -v expires; ip rule; cat /etc/hosts
    """
    return host.run(script).stdout.splitlines()
