"""mesh.keys: the private keys and the root of the pre-shared keys, at rest.

Strategy: a small YAML text, mode 0600, in Ansible Vault's format (made and read by Ansible's own library) when a vault
password is given. A file that others can read is refused. What is wrong is said without ever repeating a value of it.

What it does not do: make a key when mesh.lock already knows the host's (core/keys.py checks), or keep a password.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshctl.core import keys, names
from meshctl.core.errors import Invalid, Problem, Where
from meshctl.core.keys import KEY_BYTES, KeyRing, NextRoot, PrivateKey, Secret
from meshctl.core.tree import Map, Scalar, Tree
from meshctl.shell import meshdir, yamlfile

ENVIRONMENT = "ANSIBLE_VAULT_PASSWORD_FILE"
_WORDS = ("schema", "psk_root", "private", "next_psk_epoch", "next_psk_root", "next_private")
_VAULT_MARK = b"$ANSIBLE_VAULT;"
_HEADER = """\
# mesh.keys: private keys and the root of the pre-shared keys. Written by meshctl.
# Never commit it in clear. Back it up: with mesh.lock it is the identity of every host.
"""


@dataclass(frozen=True, slots=True)
class VaultSource:
    """Where the vault password comes from, as Ansible users say it; the environment counts when nothing is said."""

    file: Path | None = None
    ask: bool = False

    @property
    def given(self) -> bool:
        return self.ask or self.file is not None or bool(os.environ.get(ENVIRONMENT))

    def password(self, prompt: Callable[[str], str]) -> Secret[bytes] | None:
        """The password, or None when none is given. `prompt` asks the user; Invalid when the file can't be used."""
        if self.ask:
            return Secret(prompt("Vault password").encode())
        path = self.file or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
        return None if path is None else password_from(path.expanduser(), "the vault password")


def password_from(path: Path, noun: str) -> Secret[bytes]:
    """A file's content, or an executable's output, without white space at its ends (ansible-core, parsing/vault).

    Invalid when there is none to be had.
    """
    where = Where(str(path))
    try:
        if os.access(path, os.X_OK) and path.is_file():
            answer = subprocess.run([path.absolute()], stdout=subprocess.PIPE, check=False)
            if answer.returncode != 0:
                what = f"the script for {noun} ended with {answer.returncode}"
                raise Invalid([Problem(what, where, "run it by hand", "password")])
            password = answer.stdout.strip()
        else:
            password = path.read_bytes().strip()
    except OSError as error:
        what = f"can't read {noun}: {(error.strerror or str(error)).lower()}"
        raise Invalid([Problem(what, where, "name another file", "password")]) from error
    if not password:
        raise Invalid([Problem(f"{noun} is empty", where, "write it into the file", "password")])
    return Secret(password)


def read(path: Path, password: Secret[bytes] | None) -> KeyRing | None:
    """The keys of a file, or None when there is none. Invalid when it is open to others, locked to us, or damaged."""
    shown = str(path)
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"can't read it: {(error.strerror or str(error)).lower()}"
        raise Invalid([Problem(what, Where(shown), code="unreadable")]) from error
    if mode & 0o077:
        problem = Problem(f"others may read it: its mode is {mode:04o}", Where(shown), f"chmod 600 {shown}", "mode")
        raise Invalid([problem])
    if data.startswith(_VAULT_MARK):
        data = _decrypt(data, password, shown)
    return _parse(data, shown)


def write(path: Path, ring: KeyRing, password: Secret[bytes] | None) -> None:
    """Write the keys, 0600, encrypted when there is a password. Failed when the folder doesn't let us."""
    text = Secret(_format(ring))
    if password is None:
        meshdir.write(path, text.reveal(), mode=0o600)
        return
    # imported here: Ansible's own library, wanted by those who give a password
    from ansible.parsing.vault import VaultLib, VaultSecret  # noqa: PLC0415

    secret = VaultSecret(password.reveal())
    meshdir.write(path, VaultLib([("default", secret)]).encrypt(text.reveal(), secret), mode=0o600)


def is_encrypted(path: Path) -> bool:
    """Whether a file is in Ansible Vault's format."""
    try:
        with path.open("rb") as file:
            return file.read(len(_VAULT_MARK)) == _VAULT_MARK
    except OSError:
        return False


def grown(ring: KeyRing, names: Iterable[str]) -> KeyRing:
    """The ring with a key for each of these hosts, drawn from the kernel; keys that are there stay."""
    return keys.grow(ring, {name: os.urandom(KEY_BYTES) for name in keys.missing(ring, names)}, os.urandom(KEY_BYTES))


def announced(ring: KeyRing, names: Iterable[str], psk_epoch: int | None) -> KeyRing:
    """The ring with a next key for each of these hosts, and with a next PSK root from this epoch on, drawn from the
    kernel.
    """
    root = NextRoot(psk_epoch, Secret(os.urandom(KEY_BYTES))) if psk_epoch is not None else None
    return keys.announce(ring, {name: os.urandom(KEY_BYTES) for name in names}, root)


def _decrypt(data: bytes, password: Secret[bytes] | None, shown: str) -> bytes:
    if password is None:
        hint = f"give its password: --ask-vault-pass, --vault-password-file FILE or {ENVIRONMENT}"
        raise Invalid([Problem("it is encrypted and no vault password is given", Where(shown), hint, "vault")])
    from ansible.errors import AnsibleError  # noqa: PLC0415
    from ansible.parsing.vault import VaultLib, VaultSecret  # noqa: PLC0415

    try:
        return bytes(VaultLib([("default", VaultSecret(password.reveal()))]).decrypt(data))
    except AnsibleError as error:
        hint = "check the vault password; if it is right, the file is damaged: restore it from your backup"
        raise Invalid([Problem("the vault password does not open it", Where(shown), hint, "vault")]) from error


def _format(ring: KeyRing) -> str:
    lines = [_HEADER + "schema: 1"]
    if ring.psk_root is not None:
        lines.append(f'psk_root: "{keys.encode(ring.psk_root).reveal()}"')
    lines.append("private:" if ring.private else "private: {}")
    lines += [f'  "{name}": "{keys.encode(key).reveal()}"' for name, key in sorted(ring.private.items())]
    if ring.next_root is not None:
        lines.append(f"next_psk_epoch: {ring.next_root.epoch}")
        lines.append(f'next_psk_root: "{keys.encode(ring.next_root.key).reveal()}"')
    if ring.next_private:
        lines.append("next_private:")
    lines += [f'  "{name}": "{keys.encode(key).reveal()}"' for name, key in sorted(ring.next_private.items())]
    return "\n".join(lines) + "\n"


def _parse(data: bytes, shown: str) -> KeyRing:
    reader = _Reader(shown)
    if not data.strip():
        raise Invalid(
            [Problem("there is nothing in it", Where(shown, 1, 1), f"restore {shown} from your backup", "keys")]
        )
    try:
        tree = yamlfile.parse(data, shown)
    except Invalid as error:  # the parser's words may quote what is there
        what, hint = "this is not as meshctl writes it", f"restore {shown} from your backup"
        raise Invalid([Problem(what, problem.where, hint, "keys") for problem in error.problems]) from None
    ring = reader.ring(tree)
    if reader.problems:
        raise Invalid(reader.problems)
    return ring


class _Reader:
    """Reads the tree of a key file; problems hold places and names, never values."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self.problems: list[Problem] = []

    def ring(self, tree: Tree) -> KeyRing:
        words = self._map(tree)
        for word, value in words.items():
            if word not in _WORDS:
                self._add(value, f"this isn't one of {', '.join(_WORDS)}")
        schema = words.get("schema")
        if not isinstance(schema, Scalar) or schema.value != 1:
            self._add(schema or tree, "schema must be 1")
        private = {name: self._key(value, name) for name, value in self._map(words.get("private", tree)).items()}
        root, following = words.get("psk_root"), words.get("next_private")
        coming = {name: self._key(value, name) for name, value in self._map(following).items()} if following else {}
        return KeyRing(private, None if root is None else self._key(root, "psk_root"), coming, self._next_root(words))

    def _next_root(self, words: Mapping[str, Tree]) -> NextRoot | None:
        root, epoch = words.get("next_psk_root"), words.get("next_psk_epoch")
        if root is None and epoch is None:
            return None
        if root is None or not isinstance(epoch, Scalar) or type(epoch.value) is not int or epoch.value < 1:
            self._add(epoch or words["next_psk_root"], "next_psk_epoch must be a whole number, with next_psk_root")
            return None
        return NextRoot(epoch.value, self._key(root, "next_psk_root"))

    def _map(self, tree: Tree) -> dict[str, Tree]:
        if not isinstance(tree, Map):
            self._add(tree, "a mapping belongs here")
            return {}
        found: dict[str, Tree] = {}
        for entry in tree.entries:
            if entry.key.text in found:
                self._add(entry.key, "this is written twice")
            found[entry.key.text] = entry.value
        return found

    def _key(self, value: Tree, name: str) -> PrivateKey:
        if names.label_fault(name, "host") is not None and name not in _WORDS:
            name = "this"  # it may be a part of a key
            self._add(value, "what stands before this can't name a host")
        try:
            return Secret(keys.decode(value.text if isinstance(value, Scalar) else ""))
        except ValueError as fault:
            self._add(value, f"{name}: {fault}")
            return Secret(bytes(KEY_BYTES))  # never used: a problem was reported

    def _add(self, at: Tree, what: str) -> None:
        where = Where(self._shown, at.line, at.column)
        self.problems.append(Problem(what, where, f"restore {self._shown} from your backup", "keys"))
