"""mesh.lock: what must not change by itself. Nothing in it is secret; it belongs into git.

The text is written by hand here, not by a YAML library: sorted by name, one fact a line, so that a diff shows what
changed and nothing else, whatever the version of a library. A host taken out of mesh.yaml stays under `leaving:` (with
the way to reach it) until it was taken down or forgotten, and comes back with its old address when it is written again
before that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from meshctl.core import ip, names, tree
from meshctl.core.errors import Invalid, Problem, Where
from meshctl.core.keys import PublicKey
from meshctl.core.spec import SshAddress

SCHEMA = 1
HEADER = """\
# mesh.lock: what must not change by itself (addresses, ports, public keys, SSH host keys).
# Written by meshctl; commit it to git. Nothing in it is secret.
"""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LockedHost:
    """`ssh` is how it was last written in mesh.yaml; `ssh_host_keys` are pins like `ssh-ed25519 AAAA…`."""

    ssh: str
    addresses: tuple[ip.Addr, ...]
    port: int
    public_key: PublicKey
    ssh_host_keys: tuple[str, ...] = ()
    next_public_key: PublicKey | None = None


class Stage(StrEnum):
    """How far a change of keys is. ANNOUNCE: the next keys are told beside the current ones. MOVE: they are the current
    ones, and the old ones are being taken out.
    """

    ANNOUNCE = "announce"
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class Rotation:
    """A change of keys under way (core/rotation.py). `psk_epoch` is the next one; None when that doesn't change, and
    after ANNOUNCE. `waits_for` are the hosts that aren't known to have what this stage brings.
    """

    stage: Stage
    psk_epoch: int | None = None
    waits_for: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Lock:
    """`pins` are SSH host keys of hosts that were trusted before they were first applied."""

    mesh: str
    networks: tuple[ip.Net, ...] = ()
    next: int = 1
    psk_epoch: int = 1
    hosts: Mapping[str, LockedHost] = field(default_factory=dict)
    leaving: Mapping[str, LockedHost] = field(default_factory=dict)
    pins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rotation: Rotation | None = None

    def ssh_host_keys(self, name: str) -> tuple[str, ...]:
        host = self.hosts.get(name) or self.leaving.get(name)
        return (host.ssh_host_keys if host else ()) or self.pins.get(name, ())

    def public_keys(self) -> dict[str, PublicKey]:
        """The keys of all hosts, leaving ones too."""
        return {name: h.public_key for name, h in sorted((dict(self.leaving) | dict(self.hosts)).items())}

    def next_public_keys(self) -> dict[str, PublicKey]:
        """The keys that hosts are changing to."""
        known = dict(self.leaving) | dict(self.hosts)
        return {name: h.next_public_key for name, h in sorted(known.items()) if h.next_public_key is not None}


def pin(lock: Lock, name: str, keys: Iterable[str]) -> Lock:
    """The lock with these SSH host keys for this host, in place of the ones before."""
    pinned = tuple(sorted(set(keys)))
    if (host := lock.hosts.get(name)) is not None:
        return replace(lock, hosts=dict(lock.hosts) | {name: replace(host, ssh_host_keys=pinned)})
    if (host := lock.leaving.get(name)) is not None:
        return replace(lock, leaving=dict(lock.leaving) | {name: replace(host, ssh_host_keys=pinned)})
    return replace(lock, pins=dict(lock.pins) | {name: pinned})


def forget(lock: Lock, gone: Iterable[str]) -> Lock:
    """The lock without these leaving hosts: they were taken down, or will never come back."""
    left = set(gone)
    return replace(lock, leaving={n: h for n, h in lock.leaving.items() if n not in left})


def format(lock: Lock) -> str:
    lines = [HEADER.rstrip("\n"), f"schema: {SCHEMA}", f"mesh: {_quoted(lock.mesh)}"]
    lines += ["networks:" if lock.networks else "networks: []"]
    lines += [f"  - {_quoted(ip.net_text(n))}" for n in lock.networks]
    lines += [f"next: {lock.next}", f"psk_epoch: {lock.psk_epoch}"]
    lines += _rotation(lock.rotation) if lock.rotation is not None else []
    for title, hosts in (("hosts", lock.hosts), ("leaving", lock.leaving)):
        if hosts:
            lines.append(f"{title}:")
        for name, host in sorted(hosts.items()):
            lines += [f"  {_quoted(name)}:", f"    ssh: {_quoted(host.ssh)}"]
            lines += _list("    ", "addresses", map(ip.addr_text, host.addresses))
            lines += [f"    port: {host.port}", f"    public_key: {_quoted(str(host.public_key))}"]
            if host.next_public_key is not None:
                lines.append(f"    next_public_key: {_quoted(str(host.next_public_key))}")
            lines += _list("    ", "ssh_host_keys", host.ssh_host_keys)
    if lock.pins:
        lines.append("pins:")
    for name, keys in sorted(lock.pins.items()):
        lines += _list("  ", _quoted(name), keys)
    return "\n".join(lines) + "\n"


def read(document: tree.Tree, file: str) -> Lock:
    """The Lock of this document. Invalid when a hand or a merge left it in another form than `format` writes."""
    flat, problems = tree.flatten(document, file)
    return _Reader(file, list(problems)).lock(flat)


# YAML 1.2 core schema: what is written plain must come back as the same string, also in a YAML 1.1 reader
_PLAIN = re.compile(r"[a-z][a-z0-9-]*|\d+\.\d+\.\d+\.\d+(/\d+)?")
_TOP = {"schema", "mesh", "networks", "next", "psk_epoch", "rotation", "hosts", "leaving", "pins"}
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and text not in _WORDS:
        return text
    # a JSON string is a YAML double-quoted scalar
    return json.dumps(text)


def _list(indent: str, key: str, items: Iterable[str]) -> list[str]:
    lines = [f"{indent}  - {_quoted(i)}" for i in items]
    return [f"{indent}{key}:", *lines] if lines else [f"{indent}{key}: []"]


def _rotation(rotation: Rotation) -> list[str]:
    lines = ["rotation:", f"  stage: {rotation.stage}"]
    lines += [f"  psk_epoch: {rotation.psk_epoch}"] if rotation.psk_epoch is not None else []
    return lines + _list("  ", "waits_for", sorted(rotation.waits_for))


class _Reader:
    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file, self.problems = file, problems

    def lock(self, root: tree.Tree) -> Lock:
        top = self.map(root, _TOP)
        if self.problems and not isinstance(root, tree.Map):
            raise Invalid(self.problems)
        schema = self.whole(top, root, "schema")
        if not self.problems and schema != SCHEMA:
            hint = "use the meshctl that wrote it, or a newer one"
            self.add(root, f"this lock has schema {schema}; this meshctl knows {SCHEMA}", hint)
        if self.problems:
            raise Invalid(self.problems)
        lock = Lock(
            mesh=self.text(top, root, "mesh", _mesh),
            networks=self.texts(top, "networks", ip.parse_net),
            next=self.whole(top, root, "next"),
            psk_epoch=self.whole(top, root, "psk_epoch"),
            hosts=self.hosts(top.get("hosts")),
            leaving=self.hosts(top.get("leaving")),
            pins=self.pins(top.get("pins")),
            rotation=self.rotation(top.get("rotation")),
        )
        if both := sorted(set(lock.hosts) & set(lock.leaving)):
            self.add(root, f"{', '.join(both)} is both a host and leaving", "delete it under leaving:")
        if lock.next_public_keys() and (lock.rotation is None or lock.rotation.stage is not Stage.ANNOUNCE):
            self.add(root, "next_public_key stands in it, and no rotation announces it")
        if self.problems:
            raise Invalid(self.problems)
        return lock

    def hosts(self, node: tree.Tree | None) -> dict[str, LockedHost]:
        found: dict[str, LockedHost] = {}
        owner: dict[PublicKey, str] = {}
        if node is None:
            return found
        for name, value in self.map(node, None).items():
            words = self.map(value, {"ssh", "addresses", "port", "public_key", "next_public_key", "ssh_host_keys"})
            before = len(self.problems)
            key = self.text(words, value, "public_key", PublicKey.parse)
            if (fault := names.label_fault(name, "host")) is not None:
                self.add(value, fault)
            coming = self.text(words, value, "next_public_key", PublicKey.parse) if "next_public_key" in words else None
            for held in (key, coming) if len(self.problems) == before else ():
                if held is not None and owner.setdefault(held, name) != name:
                    what = f"{name} has the public key of {owner[held]}"
                    hint = "two hosts with one key can't be told apart; restore mesh.lock from git"
                    self.add(words["public_key"], what, hint)
            found[name] = LockedHost(
                ssh=self.text(words, value, "ssh", _ssh),
                addresses=self.texts(words, "addresses", ip.parse_addr),
                port=self.whole(words, value, "port"),
                public_key=key,
                ssh_host_keys=self.texts(words, "ssh_host_keys", _pin),
                next_public_key=coming,
            )
        return found

    def rotation(self, node: tree.Tree | None) -> Rotation | None:
        if node is None:
            return None
        words = self.map(node, {"stage", "psk_epoch", "waits_for"})
        stage = self.text(words, node, "stage", _stage)
        epoch = self.whole(words, node, "psk_epoch") if "psk_epoch" in words else None
        if "waits_for" not in words:  # nobody may be taken for ready because a line is missing
            self.add(node, "waits_for is missing")
        return Rotation(stage, epoch, frozenset(self.texts(words, "waits_for", str)))

    def pins(self, node: tree.Tree | None) -> dict[str, tuple[str, ...]]:
        words = self.map(node, None) if node is not None else {}
        return {name: self.texts(words, name, _pin) for name in words}

    def map(self, node: tree.Tree, known: set[str] | None) -> dict[str, tree.Tree]:
        if not isinstance(node, tree.Map):
            empty = isinstance(node, tree.Scalar) and node.value is None
            self.add(node, "there is nothing here" if empty else "a mapping belongs here")
            return {}
        for entry in node.entries:
            if known is not None and entry.key.text not in known:
                self.add(entry.key, f"unknown word {entry.key.text}", names.did_you_mean(entry.key.text, known))
        return {e.key.text: e.value for e in node.entries}

    def whole(self, words: Mapping[str, tree.Tree], parent: tree.Tree, key: str) -> int:
        node = words.get(key)
        value = node.value if isinstance(node, tree.Scalar) else None
        limit = 65535 if key == "port" else 2**63
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit:
            return value
        self.add(node or parent, f"{key} must be a whole number from 1")
        return 1

    def text(self, words: Mapping[str, tree.Tree], parent: tree.Tree, key: str, make: Callable[[str], T]) -> T:
        node = words.get(key)
        if isinstance(node, tree.Scalar) and isinstance(node.value, str):
            made = self.make(node, key, node.value, make)
            if made is not None:
                return made
        else:
            self.add(node or parent, f"{key} is missing")
        # never used: a problem was reported, so no Lock is made
        return None  # type: ignore[return-value]

    def texts(self, words: Mapping[str, tree.Tree], key: str, make: Callable[[str], T]) -> tuple[T, ...]:
        node = words.get(key)
        if node is None:
            return ()
        if not isinstance(node, tree.Seq):
            self.add(node, f"{key} must be a list")
            return ()
        for item in node.items:
            if not isinstance(item, tree.Scalar):
                self.add(item, f"{key} must be a list of texts")
        made = [self.make(i, key, i.text, make) for i in node.items if isinstance(i, tree.Scalar)]
        return tuple(m for m in made if m is not None)

    def make(self, node: tree.Scalar, key: str, text: str, make: Callable[[str], T]) -> T | None:
        try:
            return make(text)
        except ValueError as fault:
            self.add(node, f"{key}: {fault.args[0]}")
            return None

    def add(self, node: tree.Tree, what: str, hint: str | None = None) -> None:
        where = Where(self.file, node.line, node.column)
        self.problems.append(Problem(what, where, hint or f"restore {self.file} from git", "lock"))


def _mesh(text: str) -> str:
    if (fault := names.mesh_name_fault(text)) is not None:
        raise ValueError(fault)
    return text


def _stage(text: str) -> Stage:
    if text not in list(Stage):
        raise ValueError(f"it is neither {' nor '.join(Stage)}")
    return Stage(text)


def _ssh(text: str) -> str:
    """Checked here too: it ends on a command line, and a lock may come from anybody's branch."""
    return str(SshAddress.parse(text))


def _pin(text: str) -> str:
    """`TYPE BASE64`, as in known_hosts (sshd(8)) without the host; the mark of an authority may stand before it."""
    if re.fullmatch(r"(@cert-authority )?[a-z0-9][a-z0-9@.-]* [A-Za-z0-9+/]+={0,3}", text) is None:
        raise ValueError("an SSH host key is written as TYPE BASE64")
    return text
