"""What holds for every command alike: --json, colour, Ctrl-C, and a place in docs/reference/commands.md."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_start import commands
from transcript import run

from meshctl.cli import cli
from meshctl.shell import keyring

PATHS = [path for path, _ in commands(cli)]
WITH_JSON = [path for path, command in commands(cli) if any("--json" in option.opts for option in command.params)]
MESH = "mesh: prod\nhosts: {a: root@192.0.2.1, b: root@192.0.2.2}\n"
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text()
MORE = {"meshctl completion": ["bash"], "meshctl render": ["bundles"]}


def values(stdout: Iterable[str]) -> list[dict[str, Any]]:
    """Each line of stdout, which is one JSON object."""
    found = [json.loads(line) for line in stdout]
    assert all(isinstance(value, dict) for value in found)
    return found


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There is nobody to ask."""
    monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE", raising=False)
    with Path("/dev/null").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield


@pytest.mark.parametrize("path", WITH_JSON)
def test_with_json_a_failure_is_data_too(path: str, tmp_path: Path) -> None:
    """In a folder without a mesh; what needs none says what it has to say."""
    done = run(" ".join([path, *MORE.get(path, []), "--json"]), tmp_path)
    *_, last = values(done.stdout)
    if path in ("meshctl completion", "meshctl init", "meshctl schema", "meshctl version"):
        assert (done.exit, "problems" in last) == (0, False), done
        return
    assert done.exit == 3, done
    assert [p["code"] for p in last["problems"]] == ["missing"]
    assert last["schema"] == 1


@pytest.mark.parametrize("path", WITH_JSON)
def test_with_json_a_wrong_option_is_data_too(path: str, tmp_path: Path) -> None:
    done = run(f"{path} --json --nonsense", tmp_path)
    (said,) = values(done.stdout)
    assert (done.exit, [p["code"] for p in said["problems"]]) == (1, ["usage"])


def test_what_is_offline_prints_json_alone_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH)
    shown = ""
    for words in ("render bundles", "check", "graph", "graph --format svg"):
        done = run(f"meshctl {words} --json", tmp_path)
        assert (done.exit, len(values(done.stdout))) == (0, 1), done
        shown += "\n".join([*done.stdout, *done.stderr])
    ring = keyring.read(tmp_path / "mesh.keys", None)
    assert ring is not None
    assert ring.psk_root is not None
    secrets = [base64.b64encode(key.reveal()).decode() for key in (*ring.private.values(), ring.psk_root)]
    conf = (tmp_path / "bundles" / "a" / "prod.conf").read_text()
    secrets += re.findall(r"^(?:PrivateKey|PresharedKey) = (\S+)$", conf, re.M)
    assert len(set(secrets)) == 4
    assert not [secret for secret in secrets if secret in shown]


@pytest.mark.parametrize(
    ("terminal", "env", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    tmp_path: Path, terminal: bool, env: dict[str, str], coloured: bool
) -> None:
    two_nats = MESH.replace("root@192.0.2.1", "{ssh: r@192.0.2.1, nat: true}")
    (tmp_path / "mesh.yaml").write_text(two_nats.replace("root@192.0.2.2", "{ssh: r@192.0.2.2, nat: true}"))
    ours, theirs = pty.openpty() if terminal else os.pipe()
    base = {word: value for word, value in os.environ.items() if word != "NO_COLOR"}
    argv = [sys.executable, "-m", "meshctl", "check"]
    child = subprocess.Popen(
        argv, cwd=tmp_path, env={**base, "TERM": "xterm", **env}, stdout=theirs, stdin=subprocess.DEVNULL
    )
    os.close(theirs)
    assert child.wait(timeout=60) == 0
    said = os.read(ours, 65536)
    os.close(ours)
    assert b"mesh.yaml is right" in said
    assert (b"\x1b[" in said) is coloured


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("meshctl check", "nothing was changed"),
        ("meshctl plan", "nothing was changed"),
        ("meshctl apply", "nothing is left half-switched; the next run finishes what was begun"),
        ("meshctl render", None),
    ],
)
def test_ctrl_c_while_a_password_is_awaited(tmp_path: Path, path: str, words: str | None) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / "mesh.keys").write_text("$ANSIBLE_VAULT;1.1;AES256\n")
    (tmp_path / "mesh.keys").chmod(0o600)
    # stopped where it asks; a background job of a shell would have been told to ignore Ctrl-C
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "import os\nfrom meshctl.screen import Screen\n"
    code += f"Screen.password = lambda *_: os.kill(os.getpid(), {signal.SIGINT.value}) or signal.pause()\n"
    argv = [*path.split()[1:], *MORE.get(path, []), "--ask-vault-pass", "--json"]
    code += f"from meshctl import cli\ncli.main({argv!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.lstrip("\n")) == (130, "\n".join(filter(None, ["interrupted", words])) + "\n")
    (said,) = values(done.stdout.splitlines())
    assert [p["code"] for p in said["problems"]] == ["interrupted"]


@pytest.mark.parametrize("path", PATHS)
def test_the_page_of_commands_has_it(path: str) -> None:
    assert f"`{path.removeprefix('meshctl ')}" in PAGE


def test_the_page_of_commands_has_every_option() -> None:
    lacking = {
        f"{path} {option.opts[-1]}"
        for path, command in commands(cli)
        for option in command.params
        if option.opts[-1].startswith("--") and not getattr(option, "hidden", False)
        and not any(f"`{word}" in PAGE or f"{word}" in PAGE for word in option.opts)
    }  # fmt: skip
    assert lacking == set()
