"""A real sshd on loopback with a throw-away configuration, for the tests of the SSH roads."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
_prctl = ctypes.CDLL(None).prctl
USER = pwd.getpwuid(os.getuid()).pw_name


@dataclass
class Sshd:
    """One server: its port, the public host keys it shows, and a client's configuration that leads to it."""

    folder: Path
    port: int
    config: Path
    host_keys: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> Path:
        return self.folder / "id_ed25519"


def keygen(path: Path, kind: str = "ed25519", *more: str) -> str:
    """Make a key pair; returns the public half as `TYPE BASE64`."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path), *more], check=True)
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """A function that starts a server; all of them end with the test."""
    if SSHD is None:
        pytest.skip("there is no sshd here")
    servers: list[subprocess.Popen[bytes]] = []

    def start(name: str = "server", *, kinds: tuple[str, ...] = ("ed25519",), options: str = "") -> Sshd:
        folder = tmp_path / name
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        server = Sshd(folder, port, tmp_path / "ssh_config")
        (folder / "authorized_keys").write_text(keygen(server.identity) + "\n")
        lines = [
            f"ListenAddress 127.0.0.1:{port}",
            f"PidFile {folder}/pid",
            f"AuthorizedKeysFile {folder}/authorized_keys",
        ]
        lines += ["StrictModes no", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no"]
        lines += ["PermitRootLogin yes", "LogLevel ERROR", options]
        for kind in kinds:
            server.host_keys[kind] = keygen(folder / f"host_{kind}", kind)
            lines.append(f"HostKey {folder}/host_{kind}")
        config = folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        command = [str(SSHD), "-D", "-e", "-f", str(config)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=_end_with_us)  # noqa: PLW1509  one call
        servers.append(process)
        with server.config.open("a") as client:
            client.write(
                f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User {USER}\n  IdentityFile {server.identity}\n"
                f"  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {tmp_path}/known_hosts\n"
                f"  GlobalKnownHostsFile /dev/null\n"
            )
        _wait_for(port)
        return server

    yield start
    for process in servers:
        process.terminate()
        process.wait()


@contextmanager
def ssh_agent(socket: Path, *identities: Path) -> Iterator[None]:
    """An agent with these keys, which ends with the block, or with us: `cat` reads until we are gone."""
    script = 'ssh-agent -D -a "$1" > /dev/null & cat; kill $!; wait'
    process = subprocess.Popen(["sh", "-c", script, "sh", str(socket)], stdin=subprocess.PIPE)
    try:
        began = time.monotonic()
        while not socket.exists():
            assert time.monotonic() - began < 10, "ssh-agent makes no socket"
            time.sleep(0.01)
        for identity in identities:
            environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            subprocess.run(["ssh-add", "-q", str(identity)], env=environment, check=True)
        yield
    finally:
        process.communicate()


def _end_with_us() -> None:
    """A run of tests that is killed leaves no server (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(1, signal.SIGTERM)


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"sshd does not listen on port {port}")
