"""Keys: secrets that don't print, public keys, and the derivations between them.

Randomness is an argument: the shell draws 32 bytes a key. A pre-shared key is derived for each pair, so that state
stays O(hosts): BLAKE2s-256 keyed with the PSK root over the two names and the epoch. Nothing here writes a key
anywhere.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2s
from typing import Generic, NoReturn, TypeVar

from meshctl.core.errors import Invalid, Problem, Where

KEY_BYTES = 32
T = TypeVar("T", bound=str | bytes)


class Secret(Generic[T]):
    """A value that no str, repr, format, json, copy or pickle shows. `reveal()` is the last door."""

    __slots__ = ("__value",)

    def __init__(self, value: T) -> None:
        self.__value = value

    def reveal(self) -> T:
        return self.__value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.__value == other.reveal()

    def __hash__(self) -> int:
        return hash(self.__value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")


@dataclass(frozen=True, slots=True, order=True)
class PublicKey:
    """A Curve25519 public key (RFC 7748), 32 bytes; its text is base64, as wg(8) writes it."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise ValueError("a key is 32 bytes")

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()

    def __repr__(self) -> str:
        return f"PublicKey({self})"

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """ValueError when the text isn't base64 of 32 bytes."""
        return cls(decode(text))


PrivateKey = Secret[bytes]


@dataclass(frozen=True, slots=True)
class NextRoot:
    """The root of the pre-shared keys from this epoch on."""

    epoch: int
    key: PrivateKey


@dataclass(frozen=True, slots=True)
class KeyRing:
    """What mesh.keys holds: a private key for each host's name, and the root of the pre-shared keys; while keys are
    being changed also those that they change to.
    """

    private: Mapping[str, PrivateKey] = field(default_factory=dict)
    psk_root: PrivateKey | None = None
    next_private: Mapping[str, PrivateKey] = field(default_factory=dict)
    next_root: NextRoot | None = None

    def public(self) -> dict[str, PublicKey]:
        return {name: public_of(key) for name, key in self.private.items()}

    def root(self, epoch: int) -> PrivateKey | None:
        """The root of the pre-shared keys of this epoch."""
        later = self.next_root
        return later.key if later is not None and epoch >= later.epoch else self.psk_root

    def only(self, names: Iterable[str]) -> KeyRing:
        """The ring without the keys of other hosts."""
        kept = set(names)
        private, following = (
            {name: key for name, key in keys.items() if name in kept} for keys in (self.private, self.next_private)
        )
        return replace(self, private=private, next_private=following)


def decode(text: str) -> bytes:
    """32 bytes from base64. ValueError says what is wrong and never repeats the text: it may be a private key."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a key is base64 of 32 bytes; this isn't base64") from None
    if len(raw) != KEY_BYTES or base64.b64encode(raw).decode() != text:
        raise ValueError(f"a key is base64 of 32 bytes; this is {len(raw)} bytes or not written in full")
    return raw


def encode(key: Secret[bytes]) -> Secret[str]:
    return Secret(base64.b64encode(key.reveal()).decode())


def private_key(random: bytes) -> PrivateKey:
    """A private key from 32 random bytes, clamped as RFC 7748 section 5 says (so it is what wg genkey would write)."""
    if len(random) != KEY_BYTES:
        raise ValueError("a private key is made from 32 random bytes")
    head, tail = random[0] & 248, (random[31] & 127) | 64
    return Secret(bytes([head]) + random[1:31] + bytes([tail]))


def public_of(key: PrivateKey) -> PublicKey:
    # imported here: libsodium is a good part of meshctl's start-up time, and most commands derive no key
    from nacl.bindings import crypto_scalarmult_base  # noqa: PLC0415

    return PublicKey(crypto_scalarmult_base(key.reveal()))


def psk(root: PrivateKey, a: str, b: str, epoch: int) -> Secret[bytes]:
    """The pre-shared key of the pair {a, b}: the same from both ends, another in each epoch."""
    first, second = sorted((a, b))
    # names hold no NUL, so the input can't be read in two ways
    text = b"meshctl psk v1\0" + first.encode() + b"\0" + second.encode() + b"\0" + str(epoch).encode()
    return Secret(blake2s(text, key=root.reveal(), digest_size=KEY_BYTES).digest())


def psk_fingerprint(key: Secret[bytes]) -> str:
    """The public form of a pre-shared key (contracts §2): equal exactly when the keys are."""
    digest = blake2s(key.reveal(), key=b"meshd psk fingerprint v1", digest_size=16)
    return f"blake2s:{digest.hexdigest()}"


def missing(ring: KeyRing, names: Iterable[str]) -> tuple[str, ...]:
    """Hosts that have no private key yet."""
    return tuple(sorted(set(names) - set(ring.private)))


def grow(ring: KeyRing, random: Mapping[str, bytes], root: bytes | None = None) -> KeyRing:
    """The ring with a key for each name in `random` (32 random bytes each), and a PSK root when it has none.

    Keys that are there already stay as they are.
    """
    new = {name: private_key(drawn) for name, drawn in random.items() if name not in ring.private}
    psk_root = ring.psk_root or (Secret(root) if root is not None else None)
    return replace(ring, private=dict(ring.private) | new, psk_root=psk_root)


def announce(ring: KeyRing, random: Mapping[str, bytes], root: NextRoot | None) -> KeyRing:
    """The ring with a next key for each name in `random`, and a next root when there is to be one."""
    return replace(ring, next_private={name: private_key(drawn) for name, drawn in random.items()}, next_root=root)


def settled(
    ring: KeyRing, current: Mapping[str, PublicKey], following: Mapping[str, PublicKey], epoch: int, to: int | None
) -> KeyRing:
    """The ring as mesh.lock has it: its keys current, its next ones next, and none that nothing knows any more.

    The two files are written one after the other; a run that ended in between left a next key that is current by now,
    or one that nobody was told of.
    """
    if not ring.next_private and ring.next_root is None:
        return ring
    private = {n: _of(ring, n, current[n]) or key if n in current else key for n, key in ring.private.items()}
    coming = {name: key for name, public in following.items() if (key := _of(ring, name, public)) is not None}
    later = ring.next_root if ring.next_root is not None and ring.next_root.epoch == to else None
    return KeyRing(private, ring.root(epoch), coming, later)


def check(
    ring: KeyRing, locked: Mapping[str, PublicKey], file: str, following: Mapping[str, PublicKey] | None = None
) -> None:
    """The private key of every locked one, and of every `following` one, is in the ring; else Invalid, never a new
    key.
    """
    problems = []
    for name, public in sorted((*locked.items(), *(following or {}).items())):
        if name not in ring.private:
            what = f"{file} has no private key for {name}, which mesh.lock knows"
        elif _of(ring, name, public) is None:
            what = f"{file} has another key for {name} than mesh.lock"
        else:
            continue
        problems.append(Problem(what, Where(file), f"restore {file} from your backup", "keys"))
    if problems:
        raise Invalid(problems)


def _of(ring: KeyRing, name: str, public: PublicKey) -> PrivateKey | None:
    """The private key of this public one, whichever of the host's two it is."""
    keys = (ring.private.get(name), ring.next_private.get(name))
    return next((key for key in keys if key is not None and public_of(key) == public), None)
