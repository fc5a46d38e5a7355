"""NAME.conf: what meshctl writes, and every fault of what others wrote."""

from __future__ import annotations

import pytest

from meshctl.core import wgconf, wgread
from meshctl.core.errors import Invalid
from meshctl.core.keys import Secret, decode
from meshctl.core.wgconf import WgConf

from .made import THREE, world

KEY = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
PEER = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
MINIMAL = f"[Interface]\nPrivateKey = {KEY}\n"


def test_what_is_written() -> None:
    text = world(THREE).bundles["c"].conf.reveal()
    assert text.startswith("# prod on c: written by meshctl")
    assert "\nName = c\n" in text
    assert "\nPersistentKeepalive = 25\n" in text
    assert "MTU" not in text
    assert text.endswith("\n")
    assert "\n\n\n" not in text


def test_absent_is_the_empty_text() -> None:
    assert wgconf.format(None) == Secret("")
    assert wgread.read("", "x") is None
    assert wgread.read("# nothing here\n", "x") is None


def test_the_smallest() -> None:
    assert wgread.read(MINIMAL, "x") == WgConf(Secret(decode(KEY)))


FAULTS = {
    "PrivateKey = x\n": (1, "neither a section"),
    "[Peer]\nPublicKey = x\n": (1, "[Peer] without [Interface]"),
    "[Interface]\n": (1, "exactly one of PrivateKey and PrivateKeyFile"),
    MINIMAL + "[Interface]\n": (3, "a second [Interface]"),
    MINIMAL + "[Peers]\n": (3, "unknown section [Peers]"),
    MINIMAL + "Addres = 10.0.0.1\n": (3, "unknown key addres"),
    MINIMAL + "PostUp = iptables -F\n": (3, "PostUp is refused: meshd runs no hooks"),
    MINIMAL + "SaveConfig = false\n": (3, "SaveConfig is refused"),
    MINIMAL + "nonsense\n": (3, "neither a section nor Key = value"),
    MINIMAL + f"PrivateKey = {KEY}\n": (3, "privatekey is given twice"),
    MINIMAL + "ListenPort = 70000\n": (3, "not a number from 0 to 65535"),
    MINIMAL + "ListenPort = -1\n": (3, "not a number"),
    MINIMAL + "ListenPort = ١\n": (3, "not a number"),
    MINIMAL + "MTU = 1279\n": (3, "not a number from 1280"),
    MINIMAL + "FwMark = 0x100000000\n": (3, "not a number"),
    MINIMAL + "Table = main\n": (3, "not a number"),
    MINIMAL + "Relay = yes\n": (3, "neither on nor off"),
    MINIMAL + "Name = a b\n": (3, "not a label"),
    MINIMAL + "Address = 10.0.0.1/255.0.0.0\n": (3, "not an address"),
    MINIMAL + "Host = 10.0.0.1\n": (3, "at least one name"),
    MINIMAL + "Host = 10.0.0.1 a;b\n": (3, "at least one name"),
    MINIMAL + "[Peer]\nEndpoint = a:1\n": (3, "a peer without PublicKey"),
    MINIMAL + f"[Peer]\nPublicKey = {PEER}\n[Peer]\nPublicKey = {PEER}\n": (5, "the peer of line 3 again"),
    MINIMAL + f"[Peer]\nPublicKey = {PEER}\n[Peer]\nPublicKey = {KEY}\nNextPublicKey = {PEER}\n": (
        5,
        "the peer of line 3",
    ),
    MINIMAL + f"NextPrivateKey = {KEY}\n": (3, "nextprivatekey is the current key"),
    MINIMAL + f"[Peer]\nPublicKey = {PEER}\nNextPresharedKey = {KEY}\nPresharedKey = {KEY}\n": (
        5,
        "nextpresharedkey is the current key",
    ),
    MINIMAL + f"[Peer]\nPublicKey = {PEER}\nEndpoint = 2001:db8::1:51820\n": (5, "not HOST:PORT"),
    MINIMAL + f"[Peer]\nPublicKey = {PEER}\nEndpoint = a:0\n": (5, "not a number from 1"),
    MINIMAL + "Exit = yes\n": (3, "neither on nor off"),
    MINIMAL + "RouteUsers = alice, root\n": (3, "counts as root's"),
    MINIMAL + "RouteUsers = 9-7\n": (3, "it ends before it begins"),
    MINIMAL + "RouteUsers = 7x\n": (3, "not a number"),
    MINIMAL + "RouteUsers = a b\n": (3, "not a user"),
    MINIMAL + f"[Peer]\nPublicKey = {PEER}\nExpires = 2026-02-30T00:00:00Z\n": (5, "not an RFC 3339 time"),
    MINIMAL + f"[Peer]\nPublicKey = {PEER}\nExpires = 2026-02-03T00:00:00+01:00\n": (5, "not an RFC 3339 time"),
    MINIMAL + f"[Peer]\nPublicKey = {PEER}\nPersistentKeepalive = 65536\n": (5, "not a number"),
    MINIMAL
    + f"[Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.0.0.1\n[Peer]\nPublicKey = {KEY}\nAllowedIPs = 10.0.0.1/32\n": (
        6,
        "10.0.0.1/32 belongs to the peer of line 3 too",
    ),
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults(text: str) -> None:
    line, what = FAULTS[text]
    with pytest.raises(Invalid) as caught:
        wgread.read(text, "prod.conf")
    (problem,) = caught.value.problems
    assert what in problem.what
    assert problem.where is not None
    assert problem.where.line == line
    assert problem.hint


def test_a_bad_key_is_never_repeated() -> None:
    """It may be a real one with a slip of the finger."""
    slip = KEY.replace("d", "*", 1)
    with pytest.raises(Invalid) as caught:
        wgread.read(f"[Interface]\nPrivateKey = {slip}\n[Peer]\nPublicKey = {PEER}\nPresharedKey = {slip}\n", "x")
    assert slip[1:] not in str(caught.value)
    assert [p.where.line for p in caught.value.problems if p.where] == [1, 2, 5]
