"""Keys: the derivations against known answers, and secrets that stay secret."""

from __future__ import annotations

import pytest

from meshctl.core import keys
from meshctl.core.errors import Invalid
from meshctl.core.keys import KeyRing, PublicKey, Secret

from .made import ring_of


def test_public_key_of_rfc_7748() -> None:
    """Section 6.1, Alice."""
    alice = keys.decode("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=")
    assert keys.public_of(Secret(alice)).raw.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


def test_a_private_key_is_clamped() -> None:
    made = keys.private_key(bytes([255] * 32)).reveal()
    assert made[0] == 248
    assert made[31] == 127


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_private_key_needs_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        keys.private_key(bytes(size))


def test_a_pre_shared_key_belongs_to_a_pair_and_an_epoch() -> None:
    root, other = Secret(b"r" * 32), Secret(b"s" * 32)
    key = keys.psk(root, "a", "b", 1)
    assert key == keys.psk(root, "b", "a", 1)
    others = [keys.psk(root, "a", "b", 2), keys.psk(root, "a", "c", 1), keys.psk(other, "a", "b", 1)]
    assert key not in others
    assert len(key.reveal()) == 32


def test_names_do_not_run_together() -> None:
    root = Secret(b"r" * 32)
    assert keys.psk(root, "a", "bc", 1) != keys.psk(root, "ab", "c", 1)


@pytest.mark.parametrize("text", ["", "x", "A" * 43, "A" * 44, "A" * 42 + "B=", "AAAA" * 11 + "=", "AAAA\n" * 10])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="base64 of 32 bytes") as caught:
        PublicKey.parse(text)
    assert text == "" or text == "x" or text not in str(caught.value)


def test_a_secret_shows_nothing() -> None:
    secret = Secret("hush")
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret!r:>20}", repr({"k": [secret]})):
        assert "hush" not in shown
    assert secret.reveal() == "hush"
    assert secret == Secret("hush")
    assert secret != "hush"


def test_a_ring_grows_and_keeps_what_it_has() -> None:
    ring = ring_of("a")
    grown = keys.grow(ring, {"a": bytes(32), "b": bytes(32)}, b"x" * 32)
    assert grown.private["a"] == ring.private["a"]
    assert set(grown.private) == {"a", "b"}
    assert grown.psk_root == ring.psk_root
    assert keys.missing(grown, ["c", "b"]) == ("c",)


def test_a_lock_without_its_keys_is_refused() -> None:
    locked = ring_of("a", "b").public()
    keys.check(ring_of("a", "b", "c"), locked, "mesh.keys")
    with pytest.raises(Invalid) as caught:
        keys.check(KeyRing(), locked, "mesh.keys")
    assert [p.hint for p in caught.value.problems] == ["restore mesh.keys from your backup"] * 2


def test_another_key_than_the_locked_one_is_refused() -> None:
    ring = ring_of("a", "b")
    locked = {"a": ring.public()["b"]}
    with pytest.raises(Invalid, match="another key for a"):
        keys.check(ring, locked, "mesh.keys")
