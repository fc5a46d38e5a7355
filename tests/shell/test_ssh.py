"""The SSH roads against a real sshd: paramiko's and the ssh command's give the same answers and the same refusals."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sshd import Sshd, keygen, ssh_agent

from meshctl.core.errors import HostError
from meshctl.shell import sshparamiko
from meshctl.shell.completed import Completed
from meshctl.shell.ssh import Command, Pool, at_once
from meshctl.shell.sshconfig import Road, known_keys, resolve

Start = Callable[..., Sshd]


@pytest.fixture(params=["paramiko", "openssh"])
def road(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts the connections that paramiko makes (they are real)."""
    made: list[str] = []
    init = sshparamiko.ParamikoConnection.__init__

    def counted(self: sshparamiko.ParamikoConnection, host: str, address: Road) -> None:
        made.append(host)
        init(self, host, address)

    monkeypatch.setattr(sshparamiko.ParamikoConnection, "__init__", counted)
    return made


def address_of(server: Sshd, name: str = "server", road: str = "paramiko", pins: tuple[str, ...] | None = None) -> Road:
    address = resolve("a", name, config=server.config)
    pins = tuple(server.host_keys.values()) if pins is None else pins
    return replace(address.pinned(pins), openssh_only=road == "openssh", connect_timeout=5)


def ask(address: Road, text: str = "true", stdin: bytes = b"", **more: float) -> Completed | HostError:
    with Pool({"a": address}) as pool:
        return pool.run("a", Command(text, stdin, **more))  # type: ignore[arg-type]


def test_a_command_gives_its_status_and_both_outputs(start_sshd: Start, road: str) -> None:
    address = address_of(start_sshd(), road=road)
    assert ask(address, "cat; echo no >&2; exit 7", b"hello\n") == Completed(7, "hello\n", "no\n")


def test_large_input_and_output_cross_without_a_stall(start_sshd: Start, road: str) -> None:
    address = address_of(start_sshd(), road=road)
    data = bytes(range(33, 127)) * 30_000
    answer = ask(address, "cat; head -c 300000 /dev/zero | tr '\\0' x >&2", data)
    assert isinstance(answer, Completed)
    assert (answer.exit, answer.stdout.encode() == data, len(answer.stderr)) == (0, True, 300_000)


def test_a_child_left_behind_does_not_hold_the_command(start_sshd: Start) -> None:
    address = address_of(start_sshd())
    began = time.monotonic()
    assert ask(address, "sleep 5 & echo done") == Completed(0, "done\n", "")
    assert time.monotonic() - began < 3


def test_commands_of_one_pool_share_a_connection_and_a_fresh_pool_does_not(
    start_sshd: Start, opened: list[str]
) -> None:
    address = address_of(start_sshd())
    with Pool({"a": address}) as pool:
        pool.run("a", Command("true"))
        pool.run("a", Command("true"))
        assert opened == ["a"]
        with pool.fresh() as fresh:
            assert fresh.run("a", Command("true")) == Completed(0, "", "")
    assert opened == ["a", "a"]


def test_a_host_without_a_pin_is_not_contacted(start_sshd: Start, opened: list[str]) -> None:
    answer = ask(address_of(start_sshd(), pins=()))
    assert answer == HostError("a", "host-key", "its SSH host key is not known yet", "meshctl trust a")
    assert opened == []


def test_a_wrong_host_key_is_refused(start_sshd: Start, road: str, tmp_path: Path) -> None:
    server = start_sshd()
    answer = ask(address_of(server, road=road, pins=(keygen(tmp_path / "other"),)))
    assert isinstance(answer, HostError)
    assert (answer.code, answer.hint) == (
        "host-key",
        "find out why; if the host was made anew: meshctl trust a --replace",
    )


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_any_key_type_can_be_pinned_whatever_the_host_prefers(start_sshd: Start, road: str, kind: str) -> None:
    server = start_sshd(kinds=("ed25519", "ecdsa", "rsa"))
    assert ask(address_of(server, road=road, pins=(server.host_keys[kind],))) == Completed(0, "", "")


def test_a_host_that_lost_the_pinned_type_is_a_wrong_host_key(start_sshd: Start, tmp_path: Path) -> None:
    answer = ask(address_of(start_sshd(), pins=(keygen(tmp_path / "other", "ecdsa"),)))
    assert isinstance(answer, HostError)
    assert answer.code == "host-key"


def test_a_key_the_host_does_not_take_is_auth(start_sshd: Start, road: str) -> None:
    server = start_sshd()
    (server.folder / "authorized_keys").write_text("")
    answer = ask(address_of(server, road=road))
    assert isinstance(answer, HostError)
    assert (answer.code, "takes none of your keys" in answer.what) == ("auth", True)


def test_nobody_listening_is_unreachable(start_sshd: Start, road: str) -> None:
    answer = ask(replace(address_of(start_sshd(), road=road), port=1))
    assert isinstance(answer, HostError)
    assert (answer.code, answer.what) == ("unreachable", "no SSH connection to 127.0.0.1 port 1: connection refused")


def test_a_command_that_hangs_ends_at_its_timeout(start_sshd: Start, road: str) -> None:
    began = time.monotonic()
    answer = ask(address_of(start_sshd(), road=road), "sleep 30", timeout=1.0)
    assert isinstance(answer, HostError)
    assert (answer.code, answer.what) == ("unreachable", "the command did not end in time")
    assert time.monotonic() - began < 10


def test_a_jump_host_is_taken_with_the_users_known_hosts(start_sshd: Start, road: str, tmp_path: Path) -> None:
    bastion, inner = start_sshd("bastion"), start_sshd("inner")
    with inner.config.open("a") as config:
        config.write("Host behind\n  ProxyJump bastion\n")
    config_text = inner.config.read_text().replace("Host inner\n", "Host inner behind\n")
    inner.config.write_text(config_text)
    address = address_of(inner, "behind", road)
    refused = ask(address)
    assert isinstance(refused, HostError)
    assert refused.code in ("unreachable", "host-key")  # nobody trusts the jump host yet
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{bastion.port} {bastion.host_keys['ed25519']}\n")
    assert ask(address, "echo here") == Completed(0, "here\n", "")


def test_no_hop_takes_an_unknown_key_whatever_the_configuration_says(
    start_sshd: Start, road: str, tmp_path: Path
) -> None:
    """Two jump hosts, and a configuration that would take any key of any host."""
    server, first, second = (start_sshd(name) for name in ("server", "first", "second"))
    for hop in (first, second):
        (hop.folder / "authorized_keys").write_text((server.folder / "authorized_keys").read_text())
    with server.config.open("a") as config:
        config.write(f"Host *\n  StrictHostKeyChecking no\n  IdentityFile {server.identity}\n")
    address = replace(address_of(server, road=road), proxyjump="first,second")
    known = tmp_path / "known_hosts"
    for trusted in ((), (first,), (second,)):
        known.write_text("".join(f"[127.0.0.1]:{hop.port} {hop.host_keys['ed25519']}\n" for hop in trusted))
        before = known.read_text()
        refused = ask(address)
        assert isinstance(refused, HostError)
        assert known.read_text() == before
    known.write_text("".join(f"[127.0.0.1]:{hop.port} {hop.host_keys['ed25519']}\n" for hop in (first, second)))
    assert ask(address, "echo here") == Completed(0, "here\n", "")


def test_a_proxy_command_is_taken_and_its_last_words_are_told(start_sshd: Start, tmp_path: Path) -> None:
    server = start_sshd()
    broken = ask(replace(address_of(server), proxycommand="echo no way through >&2; exit 1"))
    assert isinstance(broken, HostError)
    assert broken.what.endswith("through its ProxyCommand: no way through")
    pipe = f"ssh -F {tmp_path}/ssh_config -W 127.0.0.1:{server.port} server"
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {server.host_keys['ed25519']}\n")
    assert ask(replace(address_of(server), proxycommand=pipe), "echo here") == Completed(0, "here\n", "")


def test_a_user_certificate_opens_the_door(start_sshd: Start, road: str, tmp_path: Path) -> None:
    keygen(tmp_path / "ca")
    server = start_sshd(options=f"TrustedUserCAKeys {tmp_path}/ca.pub")
    (server.folder / "authorized_keys").write_text("")
    sign = ["ssh-keygen", "-q", "-s", str(tmp_path / "ca"), "-I", "test", "-n", "root", str(server.identity)]
    subprocess.run(sign, check=True)
    assert ask(address_of(server, road=road)) == Completed(0, "", "")


def test_a_host_certificate_is_enough_when_its_authority_is_pinned(start_sshd: Start, tmp_path: Path) -> None:
    authority = keygen(tmp_path / "ca")
    keygen(tmp_path / "signed")
    sign = [
        "ssh-keygen",
        "-q",
        "-h",
        "-s",
        str(tmp_path / "ca"),
        "-I",
        "test",
        "-n",
        "127.0.0.1",
        str(tmp_path / "signed"),
    ]
    subprocess.run(sign, check=True)
    server = start_sshd(options=f"HostKey {tmp_path}/signed\nHostCertificate {tmp_path}/signed-cert.pub", kinds=())
    assert ask(address_of(server, pins=(f"@cert-authority {authority}",))) == Completed(0, "", "")
    refused = ask(address_of(server, pins=(f"@cert-authority {keygen(tmp_path / 'other')}",)))
    assert isinstance(refused, HostError)
    assert refused.code == "host-key"


def test_keys_in_the_agent_are_used(start_sshd: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_sshd()
    socket = tmp_path / "agent"
    with ssh_agent(socket, server.identity):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        server.identity.unlink()
        text = server.config.read_text()
        server.config.write_text(text.replace("  IdentityAgent none\n", "").replace("  IdentitiesOnly yes\n", ""))
        assert ask(address_of(server)) == Completed(0, "", "")


def test_what_known_hosts_holds_is_read_hashed_or_not(start_sshd: Start, tmp_path: Path) -> None:
    server = start_sshd()
    address = resolve("a", "server", config=server.config)
    assert known_keys(address) == ()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {server.host_keys['ed25519']} a comment\n")
    assert known_keys(address) == (server.host_keys["ed25519"],)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(tmp_path / "known_hosts")], check=True, capture_output=True)
    assert known_keys(address) == (server.host_keys["ed25519"],)


def test_a_revoked_key_is_not_known(start_sshd: Start, tmp_path: Path) -> None:
    server = start_sshd()
    (tmp_path / "known_hosts").write_text(f"@revoked [127.0.0.1]:{server.port} {server.host_keys['ed25519']}\n")
    assert known_keys(resolve("a", "server", config=server.config)) == ()


def test_the_key_a_host_shows_can_be_read_without_trusting_it(start_sshd: Start) -> None:
    server = start_sshd()
    address = resolve("a", "server", config=server.config)
    assert sshparamiko.offered_host_key("a", address) == server.host_keys["ed25519"]


def test_one_dead_host_is_an_answer_among_the_others(start_sshd: Start) -> None:
    address = address_of(start_sshd())
    hosts = {f"h{i}": address for i in range(5)} | {"dead": replace(address, port=1)}
    seen: list[str] = []
    with Pool(hosts) as pool:
        answers = pool.run_all({host: Command("echo hi") for host in hosts}, lambda host, _: seen.append(host))
    assert list(answers) == list(hosts)
    assert sorted(seen) == sorted(hosts)
    assert {host for host, answer in answers.items() if isinstance(answer, HostError)} == {"dead"}


def test_hosts_are_worked_on_at_once() -> None:
    def slow(host: str) -> int:
        time.sleep(0.3)
        return int(host)

    began = time.monotonic()
    assert at_once({str(i): i for i in range(20)}, slow) == {str(i): i for i in range(20)}
    assert time.monotonic() - began < 3  # in series it would be 6


def test_whatever_a_server_says_is_that_hosts_answer_alone(start_sshd: Start) -> None:
    """A server that greets like SSH and goes on with rubbish, one that speaks HTTP, and a good one."""
    good = address_of(start_sshd())
    with strange(b"SSH-2.0-\xff\xfe\r\n" + bytes(range(256)) * 40) as rubbish, strange(b"HTTP/1.1 400\r\n") as http:
        roads = {"good": good, "rubbish": replace(good, port=rubbish), "http": replace(good, port=http)}
        with Pool(roads) as pool:
            answers = pool.run_all(dict.fromkeys(roads, Command("true")))
        assert answers["good"] == Completed(0, "", "")
        for name in ("rubbish", "http"):
            error = answers[name]
            assert isinstance(error, HostError)
            assert error.code == "unreachable"
        with pytest.raises(HostError, match="what listens there does not speak SSH"):
            sshparamiko.offered_host_key("http", roads["http"])


def test_what_the_library_stumbles_over_goes_by_the_ssh_command(
    start_sshd: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> None:
        raise IndexError("odd")

    address = address_of(start_sshd())
    monkeypatch.setattr(sshparamiko.ParamikoConnection, "_authenticate", stumble)
    assert ask(address, "echo yes") == Completed(0, "yes\n", "")


@contextmanager
def strange(words: bytes) -> Iterator[int]:
    """A TCP server that says this to everybody and hangs up; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller, suppress(OSError):
                    caller.sendall(words)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_what_breaks_in_a_thread_is_raised_in_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        at_once({"a": 0}, lambda _: 1 // 0)


def test_ssh_that_refuses_a_destination_is_an_error_of_that_host(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("NoSuchOption yes\n")
    with pytest.raises(HostError) as caught:
        resolve("a", "server", config=config)
    assert caught.value.code == "unreachable"
