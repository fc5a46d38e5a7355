"""mesh.keys at rest: read what was written, refuse what is open, never repeat a value."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from meshctl.core.errors import Invalid
from meshctl.core.keys import KeyRing, Secret
from meshctl.shell import keyring
from meshctl.shell.keyring import VaultSource

RING = keyring.grown(KeyRing(), ["a", "no"])
PASSWORD = Secret(b"correct horse")


def no_prompt(_: str) -> str:
    raise AssertionError("nobody is asked here")


def fault(path: Path, password: Secret[bytes] | None = None) -> str:
    with pytest.raises(Invalid) as caught:
        keyring.read(path, password)
    return str(caught.value)


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_what_is_written_is_read_again(tmp_path: Path, password: Secret[bytes] | None) -> None:
    path = tmp_path / "mesh.keys"
    keyring.write(path, RING, password)
    assert keyring.read(path, password) == RING
    assert path.stat().st_mode & 0o777 == 0o600
    assert keyring.is_encrypted(path) == (password is not None)


def test_an_encrypted_file_is_ansible_vaults_and_shows_no_key(tmp_path: Path) -> None:
    path = tmp_path / "mesh.keys"
    keyring.write(path, RING, PASSWORD)
    assert path.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    (tmp_path / "password").write_text("correct horse\n")
    vault = [
        str(Path(sys.executable).with_name("ansible-vault")),
        "view",
        "--vault-password-file",
        "password",
        "mesh.keys",
    ]
    clear = subprocess.run(vault, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert base64.b64encode(RING.private["a"].reveal()).decode() in clear


def test_no_file_is_no_ring(tmp_path: Path) -> None:
    assert keyring.read(tmp_path / "mesh.keys", None) is None


def test_keys_once_made_are_never_made_again() -> None:
    more = keyring.grown(RING, ["a", "b"])
    assert (more.private["a"], more.psk_root) == (RING.private["a"], RING.psk_root)
    assert set(more.private) == {"a", "b", "no"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "mesh.keys"
    keyring.write(path, RING, None)
    path.chmod(mode)
    assert f"its mode is {mode:04o}" in fault(path)


def test_a_wrong_password_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "mesh.keys"
    keyring.write(path, RING, PASSWORD)
    assert "does not open it" in fault(path, Secret(b"wrong"))
    assert "no vault password is given" in fault(path)


def test_a_damaged_file_is_told_without_its_values(tmp_path: Path) -> None:
    path = tmp_path / "mesh.keys"
    keyring.write(path, RING, None)
    value = base64.b64encode(RING.private["a"].reveal()).decode()
    path.write_text(path.read_text().replace(value, value[:-5]))
    said = fault(path)
    assert "mesh.keys:6:" in said
    assert value[:8] not in said


@pytest.mark.parametrize(
    "line", ["{key}: 1", '  "{key}": "{key}"', "  a: *{key}", "  a: !{key} x", '  "{key}', "{key}"]
)
def test_a_key_that_went_astray_is_not_told_either(tmp_path: Path, line: str) -> None:
    """As a word, as a host's name, as an alias or a tag, in what YAML's parser quotes."""
    path = tmp_path / "mesh.keys"
    keyring.write(path, RING, None)
    value = base64.b64encode(RING.private["a"].reveal()).decode().replace("/", "0").replace("+", "1")
    path.write_text(path.read_text() + line.replace("{key}", value) + "\n" + line.replace("{key}", value) + "\n")
    said = fault(path)
    assert "mesh.keys:" in said
    assert value[:8] not in said


def test_the_password_comes_from_a_file_a_script_the_environment_or_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, script = tmp_path / "password", tmp_path / "script"
    file.write_text("correct horse\n")
    script.write_text("#!/bin/sh\necho correct horse\n")
    script.chmod(0o700)
    assert VaultSource().password(no_prompt) is None
    assert VaultSource(file).password(no_prompt) == PASSWORD
    assert VaultSource(script).password(no_prompt) == PASSWORD
    assert VaultSource(ask=True).password(lambda _: "correct horse") == PASSWORD
    monkeypatch.setenv(keyring.ENVIRONMENT, str(file))
    assert VaultSource().password(no_prompt) == PASSWORD


@pytest.mark.parametrize(("text", "mode"), [("", 0o600), ("#!/bin/sh\nexit 3\n", 0o700), (None, 0)])
def test_a_password_that_can_not_be_had_is_invalid(tmp_path: Path, text: str | None, mode: int) -> None:
    path = tmp_path / "password"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(Invalid):
        VaultSource(path).password(no_prompt)
