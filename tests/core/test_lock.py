"""mesh.lock: a text that diffs well, and a reader that trusts no hand."""

from __future__ import annotations

import pytest

from meshctl.core import lock
from meshctl.core.errors import Invalid
from meshctl.core.lock import Lock
from meshctl.shell import yamlfile

from .made import THREE, world

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF"


def read(text: str) -> Lock:
    return lock.read(yamlfile.parse(text.encode(), "mesh.lock"), "mesh.lock")


def test_the_text() -> None:
    made = world("mesh: prod\nhosts: {no: root@a.example.com}\n").lock
    key = made.hosts["no"].public_key
    text = lock.format(lock.pin(made, "no", [KEY]))
    assert text == (
        lock.HEADER
        + f"""\
schema: 1
mesh: prod
networks:
  - 10.47.96.0/20
  - "fd9e:af25:aa9a::/64"
next: 2
psk_epoch: 1
hosts:
  "no":
    ssh: "root@a.example.com"
    addresses:
      - 10.47.96.1
      - "fd9e:af25:aa9a::1"
    port: 51820
    public_key: "{key}"
    ssh_host_keys:
      - "{KEY}"
"""
    )


def test_a_new_host_is_new_lines_only() -> None:
    before = world(THREE)
    after = world(THREE + "  d: root@d\n", before.lock)
    old, new = lock.format(before.lock).splitlines(), lock.format(after.lock).splitlines()
    assert set(old) - set(new) == {"next: 4"}


def test_a_host_that_leaves_stays_until_it_is_forgotten() -> None:
    before = world(THREE)
    without = THREE.replace("  b: root@b.example.com\n", "")
    gone = world(without, lock.pin(before.lock, "b", [KEY])).lock
    assert set(gone.hosts) == {"a", "c"}
    assert gone.leaving["b"].ssh == "root@b.example.com"
    assert gone.ssh_host_keys("b") == (KEY,)
    assert read(lock.format(gone)) == gone
    back = world(THREE, gone)
    assert back.lock == lock.pin(before.lock, "b", [KEY])
    assert lock.forget(gone, ["b"]).leaving == {}


def test_pins_wait_for_their_host() -> None:
    pinned = lock.pin(lock.pin(Lock("prod"), "a", [KEY, KEY]), "zz", [KEY])
    assert read(lock.format(pinned)) == pinned
    made = world(THREE, pinned).lock
    assert made.hosts["a"].ssh_host_keys == (KEY,)
    assert made.pins == {"zz": (KEY,)}
    assert read(lock.format(made)) == made


GOOD = lock.format(world(THREE).lock)


@pytest.mark.parametrize(
    ("was", "becomes", "what"),
    [
        ("schema: 1", "schema: 2", "schema 2"),
        ("schema: 1\n", "", "schema must be"),
        ("root@a.example.com", "root@-oProxyCommand=x", "is not an SSH address"),
        ("mesh: prod", "mesh: Prod", "can't name a mesh"),
        ("next: 4", "next: x", "next must be"),
        ("psk_epoch: 1", "psk_epoch: -1", "psk_epoch must be"),
        ("port: 51820", "port: 70000", "port must be"),
        ("10.47.96.1\n", "10.47.96.300\n", "not an IP address"),
        ("10.47.96.0/20", "10.47.96.1/20", "host bits"),
        ("public_key: ", "publick_key: ", "unknown word publick_key"),
        ("  a:\n", "  A:\n", "can't name a host"),
        ("  b:\n", "  a:\n", "written twice"),
        ("ssh_host_keys: []", "ssh_host_keys: [nonsense]", "TYPE BASE64"),
        ("ssh_host_keys: []", "ssh_host_keys: none", "must be a list"),
        ("hosts:\n", "<<<<<<< HEAD\nhosts:\n", ""),
    ],
)
def test_what_a_hand_or_a_merge_broke_is_told(was: str, becomes: str, what: str) -> None:
    assert was in GOOD
    with pytest.raises(Invalid) as caught:
        read(GOOD.replace(was, becomes, 1))
    problems = caught.value.problems
    assert any(what in p.what for p in problems)
    assert all(p.where and p.where.line for p in problems)


def test_a_bad_public_key_is_told() -> None:
    key = str(world(THREE).lock.hosts["a"].public_key)
    with pytest.raises(Invalid, match="public_key: a key is base64 of 32 bytes"):
        read(GOOD.replace(key, "AAAA"))


def test_two_hosts_never_share_a_key() -> None:
    hosts = world(THREE).lock.hosts
    with pytest.raises(Invalid, match="b has the public key of a"):
        read(GOOD.replace(str(hosts["b"].public_key), str(hosts["a"].public_key)))


@pytest.mark.parametrize("pin", ["ssh-ed25519 AAAA", "@cert-authority ssh-ed25519 AAAA"])
def test_what_is_pinned_is_read_back(pin: str) -> None:
    assert read(lock.format(lock.pin(read(GOOD), "a", [pin]))).ssh_host_keys("a") == (pin,)


@pytest.mark.parametrize("pin", ["@revoked ssh-ed25519 AAAA", "@cert-authority AAAA", "ssh-ed25519 AAAA\\n* AAAA"])
def test_no_other_line_of_known_hosts_is_a_pin(pin: str) -> None:
    with pytest.raises(Invalid, match="TYPE BASE64"):
        read(GOOD.replace("ssh_host_keys: []", f'ssh_host_keys: ["{pin}"]', 1))
