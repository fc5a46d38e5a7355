"""Writes wireguard.txt: a whole WireGuard exchange, computed by implementations that are not ours.

Noise comes from PyPI `noiseprotocol` 0.3.1 (on `cryptography`), the cookie's XChaCha20-Poly1305 from PyNaCl
(libsodium), BLAKE2s, HMAC and HKDF from Python's own hashlib and hmac. All inputs are fixed, so the output never
changes.

    pip install noiseprotocol==0.3.1 pynacl && python generate.py > wireguard.txt
"""

import hashlib
import hmac
import struct
import sys

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as xseal
from nacl.bindings import crypto_scalarmult_base
from noise.connection import Keypair, NoiseConnection

NAME = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
PROLOGUE = b"WireGuard v1 zx2c4 Jason@zx2c4.com"


def show(name: str, value: bytes) -> None:
    sys.stdout.write(f"{name} = {value.hex()}\n")


def blake2s(data: bytes, size: int = 32, key: bytes = b"") -> bytes:
    return hashlib.blake2s(data, digest_size=size, key=key).digest()


def secret(label: str) -> bytes:
    key = bytearray(hashlib.sha256(label.encode()).digest())
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return bytes(key)


def end(static: bytes, ephemeral: bytes, psk: bytes) -> NoiseConnection:
    noise = NoiseConnection.from_name(NAME)
    noise.set_prologue(PROLOGUE)
    noise.set_psks(psk=psk)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, static)
    noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    return noise


def with_macs(body: bytes, receiver_public: bytes, cookie: bytes | None = None) -> bytes:
    mac1 = blake2s(body, 16, blake2s(b"mac1----" + receiver_public))
    mac2 = blake2s(body + mac1, 16, cookie) if cookie else bytes(16)
    return body + mac1 + mac2


def main() -> None:
    sys.stdout.write(
        "# A WireGuard exchange with fixed keys; written by generate.py, which says how. All hexadecimal.\n"
    )
    chain = blake2s(NAME)
    show("chain", chain)
    show("hash", blake2s(chain + PROLOGUE))

    alice, bob = secret("alice static"), secret("bob static")
    alice_ephemeral, bob_ephemeral = secret("alice ephemeral"), secret("bob ephemeral")
    alice_public, bob_public = crypto_scalarmult_base(alice), crypto_scalarmult_base(bob)
    psk = hashlib.sha256(b"preshared").digest()
    timestamp = bytes.fromhex("400000006553f10a01000000")
    for name, value in [
        ("alice_private", alice),
        ("alice_public", alice_public),
        ("alice_ephemeral", alice_ephemeral),
        ("bob_private", bob),
        ("bob_public", bob_public),
        ("bob_ephemeral", bob_ephemeral),
        ("preshared", psk),
        ("timestamp", timestamp),
    ]:
        show(name, value)

    initiator = end(alice, alice_ephemeral, psk)
    initiator.set_as_initiator()
    initiator.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, bob_public)
    initiator.start_handshake()
    responder = end(bob, bob_ephemeral, psk)
    responder.set_as_responder()
    responder.start_handshake()

    first = bytes(initiator.write_message(timestamp))
    responder.read_message(first)
    cookie = hashlib.sha256(b"cookie").digest()[:16]
    first_body = struct.pack("<II", 1, 0x01020304) + first
    initiation = with_macs(first_body, bob_public)
    show("initiation", initiation)
    show("cookie", cookie)
    show("initiation_with_cookie", with_macs(first_body, bob_public, cookie))

    nonce = hashlib.sha256(b"cookie nonce").digest()[:24]
    mac1 = initiation[116:132]
    sealed = xseal(cookie, mac1, nonce, blake2s(b"cookie--" + bob_public))
    show("cookie_reply", struct.pack("<II", 3, 0x01020304) + nonce + sealed)

    second = bytes(responder.write_message(b""))
    initiator.read_message(second)
    show("response", with_macs(struct.pack("<III", 2, 0x05060708, 0x01020304) + second, alice_public))

    for counter, text in enumerate([b"", b"from alice to bob".ljust(32, b"\0")]):
        sealed = bytes(initiator.encrypt(text))
        show(f"alice_data_{counter}", struct.pack("<IIQ", 4, 0x05060708, counter) + sealed)
    sealed = bytes(responder.encrypt(b"from bob to alice".ljust(32, b"\0")))
    show("bob_data_0", struct.pack("<IIQ", 4, 0x01020304, 0) + sealed)

    key, data = hashlib.sha256(b"mac key").digest(), b"some data"
    show("mac_key", key)
    show("mac", blake2s(data, 16, key))
    show("hmac", hmac.new(key, data, hashlib.blake2s).digest())
    derived = hmac.new(key, data, hashlib.blake2s).digest()
    output = b""
    for number in (1, 2, 3):
        output = hmac.new(derived, output + bytes([number]), hashlib.blake2s).digest()
        show(f"kdf_{number}", output)


main()
