"""The observing script under the shells that hosts have, and its answer as core reads it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from sshd import Sshd

from meshctl.core import report
from meshctl.core.errors import HostError
from meshctl.shell import assets, observe
from meshctl.shell.completed import Completed
from meshctl.shell.ssh import Pool
from meshctl.shell.sshconfig import resolve

SHELLS = [["sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"]]


@pytest.fixture(params=SHELLS, ids=[" ".join(shell) for shell in SHELLS])
def shell(request: pytest.FixtureRequest) -> list[str]:
    command: list[str] = request.param
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    return command


def observed(shell: list[str], name: str = "nosuchmesh") -> report.Report:
    answer = subprocess.run(
        [*shell, "-s", "--", name], input=assets.observe_script(), capture_output=True, check=True, timeout=30
    )
    return report.parse("a", answer.stdout.decode())


def test_every_shell_gives_an_answer_that_core_reads(shell: list[str]) -> None:
    seen = observed(shell)
    assert (seen.arch, seen.kernel, seen.uid) == (platform.machine(), platform.release(), os.getuid())
    assert (seen.link, seen.manifest, seen.files, seen.active) == ("none", None, (), False)


def test_a_link_of_that_name_that_is_not_ours_is_foreign(shell: list[str]) -> None:
    assert observed(shell, "lo").link == "foreign"


def test_udp_ports_in_use_are_seen(shell: list[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        assert ours.getsockname()[1] in observed(shell).ports


@pytest.mark.parametrize("hidden", [False, True], ids=["in its own environment", "above sudo"])
def test_it_says_who_asks_over_ssh(shell: list[str], hidden: bool) -> None:
    above = ["sh", "-c", 'unset SSH_CONNECTION; "$@"; exit $?', "sh"] if hidden else []
    answer = subprocess.run(
        [*above, *shell, "-s", "--", "nosuchmesh"],
        input=assets.observe_script(),
        env={**os.environ, "SSH_CONNECTION": "::ffff:198.51.100.7 50000 ::ffff:192.0.2.1 2222"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert report.parse("a", answer.stdout.decode()).ssh == (ip_address("198.51.100.7"), 2222)


def test_over_ssh_it_is_one_connection_and_one_command(start_sshd: Callable[..., Sshd]) -> None:
    server = start_sshd()
    road = resolve("a", "server", config=server.config).pinned(server.host_keys.values())
    done: list[str] = []
    with Pool({"a": road}) as pool:
        answers = observe.observe(pool, ["a"], "nosuchmesh", done.append)
    seen = answers["a"]
    assert isinstance(seen, report.Report)
    assert (seen.host, done) == ("a", ["a"])


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (Completed(1, "", "first\nsh: no way\n"), "sh: no way"),
        (Completed(3, "", ""), "the command ended with 3"),
        (Completed(0, "Welcome!\n", ""), "its report can't be read: it doesn't start with 'meshctl-observe 1'"),
    ],
)
def test_an_answer_that_is_none_is_that_hosts_error(answer: Completed, what: str) -> None:
    error = observe.answered("a", answer, lambda text: report.parse("a", text))
    assert isinstance(error, HostError)
    assert (error.host, error.code, error.what) == ("a", "report", what)


def test_the_collection_is_found_and_is_ours() -> None:
    galaxy = assets.collections() / "ansible_collections/meshctl/mesh/galaxy.yml"
    assert "namespace: meshctl" in galaxy.read_text()
