"""Root by sudo on lab hosts: without a password, with one, with a wrong one, and where there is no sudo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshctl.core.errors import HostError
from meshctl.shell import lab
from meshctl.shell.become import Sudo
from meshctl.shell.completed import Completed
from meshctl.shell.lab import LabHost

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

NAME = f"sudo-{os.getpid()}"
HOSTS = (
    LabHost("free", user="admin"),
    LabHost("asks", user="admin", sudo_password="open sesame"),
    LabHost("without", user="admin", sudo=False),
    LabHost("root", user="root"),
)
# In a process of its own: entering a lab moves the whole process.
ASK = """
import json, sys
from meshctl.core.errors import HostError
from meshctl.flow.labs import road
from meshctl.shell import lab
from meshctl.shell.ssh import Command, Pool
name, text, stdin, password = json.load(sys.stdin)
addresses = lab.addresses(name)
lab.enter(name)
roads = {host: road(host, address) for host, address in addresses.items()}
with Pool(roads, become_password=password.encode() if password else None) as pool:
    answers = pool.run_all(dict.fromkeys(roads, Command(text, stdin.encode(), timeout=20.0)))
print(json.dumps({
    host: [a.code, a.what] if isinstance(a, HostError) else [a.exit, a.stdout, a.stderr] for host, a in answers.items()
}))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    lab.up(NAME, HOSTS)
    yield
    lab.down(NAME)


def ask(text: str, stdin: str = "", password: str | None = None) -> dict[str, list[object]]:
    given = json.dumps([NAME, text, stdin, password])
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=given, capture_output=True, text=True, check=True, timeout=90
    )
    answers: dict[str, list[object]] = json.loads(done.stdout)
    return answers


def test_without_a_password(hosts: None) -> None:
    answers = ask("id -u; cat; echo told >&2; exit 3", "hello\n")
    assert answers["free"] == answers["root"] == [3, "0\nhello\n", "told\n"]
    assert answers["asks"][0] == "no-sudo"
    assert "password" in str(answers["asks"][1])
    assert answers["without"][0] == "no-sudo"


def test_with_a_password_that_only_sudo_ever_reads(hosts: None) -> None:
    answers = ask("id -u; cat", "hello\n", "open sesame")
    # `free` has sudo that asks nothing: the password must not become its input
    assert answers["asks"] == answers["free"] == answers["root"] == [0, "0\nhello\n", ""]


def test_with_a_wrong_password(hosts: None) -> None:
    answers = ask("id -u", "", "open barley")
    assert answers["asks"] == ["no-sudo", "sudo does not take this password"]
    assert answers["free"] == [0, "0\n", ""]


def test_sudo_that_wants_a_terminal_says_what_to_do() -> None:
    sudo = Sudo("a", "true")
    with pytest.raises(HostError) as told:
        sudo.finish(Completed(1, "", "lecture\nsudo: sorry, you must have a tty to run sudo\n"))
    assert (told.value.code, "requiretty" in (told.value.hint or "")) == ("no-sudo", True)


def test_a_script_on_stdin_runs_as_root(hosts: None) -> None:
    answers = ask("sh -s -- word", 'echo "$1 $(id -u)"\n', "open sesame")
    assert answers["asks"] == answers["free"] == [0, "word 0\n", ""]
