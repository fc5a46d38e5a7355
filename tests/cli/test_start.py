"""Help and completion start fast: nothing heavy is imported for them, and every command's help has an example."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from meshctl.cli import cli

HEAVY = ("paramiko", "ansible", "pydantic", "ruamel", "rich", "nacl", "cryptography", "jinja2")


def commands(group: click.Group, path: str = "meshctl") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in sorted(group.commands.items()):
        inner = f"{path} {name}"
        found += commands(command, inner) if isinstance(command, click.Group) else [(inner, command)]
    return found


@pytest.mark.parametrize("words", ["--help", "apply --help", "lab --help", "completion bash", "--version"])
def test_nothing_heavy_is_loaded(words: str) -> None:
    code = (
        "import sys\nfrom meshctl import cli\nfrom meshctl.screen import Screen\n"
        f"status = cli.run({words.split()!r}, Screen())\n"
        f"heavy = sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r}))\n"
        "assert (status, heavy) == (0, []), (status, heavy)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(("path", "command"), commands(cli), ids=[path for path, _ in commands(cli)])
def test_every_help_has_an_example(path: str, command: click.Command) -> None:
    assert command.help is not None
    assert path in command.help, f"write an example into the help of {path}"


def test_every_command_speaks_json_where_it_has_data() -> None:
    silent = {"meshctl lab exec"}  # another program's output
    without = {p for p, c in commands(cli) if not any("--json" in o.opts for o in c.params)}
    assert without == silent


def test_every_command_that_contacts_hosts_takes_the_same_options() -> None:
    wanted = {"--lab", "--limit", "--yes", "--ask-become-pass", "-K", "--become-password-file"}
    for path, command in commands(cli):
        if path.split()[-1] in ("plan", "apply", "status", "verify", "remove") and "lab" not in path:
            assert wanted <= {word for option in command.params for word in option.opts}, path


def test_hosts_are_completed_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text("mesh: prod\nhosts: {alpha: root@192.0.2.1, beta: root@192.0.2.2}\n")
    words = {"_MESHCTL_COMPLETE": "bash_complete", "COMP_WORDS": "meshctl plan --limit al", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "meshctl"], cwd=tmp_path, env={**os.environ, **words}, capture_output=True, check=True
    )
    assert done.stdout == b"plain,alpha\n"


def test_a_full_disk_behind_stdout_is_one_sentence() -> None:
    for words in (["schema"], ["version", "--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "meshctl", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert (done.returncode, done.stderr) == (1, "error: can't go on: no space left on device\n")


def test_ctrl_c_at_the_very_end_changes_nothing_any_more() -> None:
    """While Python takes itself down, when handlers of ours are gone."""
    code = """
import os, signal, sys
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), order=signal.SIGINT):
        kill(pid, order)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.last_of_all = Last()
sys.argv[1:] = ["version"]
from meshctl.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("meshctl ")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
def test_a_stream_that_the_caller_closed_is_no_fault(closed: str) -> None:
    line = f'"{sys.executable}" -m meshctl version {closed}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["trust", "plan", "apply", "remove", "status", "verify"])
def test_whoever_contacts_hosts_takes_yes_and_offers_it_where_something_is_asked(name: str) -> None:
    (option,) = [param for param in cli.commands[name].params if param.name == "yes"]
    assert isinstance(option, click.Option)
    assert option.hidden == (name in ("plan", "status", "verify"))


@pytest.mark.parametrize("group", ["", "lab"])
def test_no_summary_is_cut(group: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshctl", *group.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    summaries = done.stdout.partition("Commands:")[2].splitlines()[1:]
    assert summaries
    assert [summary for summary in summaries if not summary.endswith(".") or summary.endswith("...")] == []


# Ctrl-C in the middle of importing a module, in the program that a wheel's script starts.
AT_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["plan"]
from {entry} import {function}
{function}()
"""


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("click", "interrupted\n"),
        ("meshctl.options", "interrupted\n"),
        ("meshctl.flow.safely", "interrupted\nnothing was changed\n"),
        ("ruamel.yaml", "interrupted\nnothing was changed\n"),
    ],
)
def test_ctrl_c_while_something_is_imported_is_no_traceback(tmp_path: Path, module: str, said: str) -> None:
    (tmp_path / "mesh.yaml").write_text("mesh: prod\nhosts: {a: root@127.0.0.1:1}\n")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    entry, _, function = project["project"]["scripts"]["meshctl"].partition(":")
    code = AT_IMPORT.format(module=module, entry=entry, function=function)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.lstrip("\n")) == (130, said)
