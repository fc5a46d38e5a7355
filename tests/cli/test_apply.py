"""Apply on lab hosts, seen from outside: what it costs, what it leaves when interrupted, what it never shows."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import ssh_agent

from meshctl.shell import keyring, lab
from meshctl.shell.lab import LabHost

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

NAME = f"u{os.getpid()}"
MESHCTL = [sys.executable, "-m", "meshctl"]
MESH = f"mesh: {NAME}\nhosts:\n  a: root@a.example.com\n  b: admin@b.example.com\n"
PASSWORD = "open sesame"
VAULT = "correct horse"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A mesh of two lab hosts, applied by nobody yet."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    hosts = (
        LabHost("a", names=("a.example.com",)),
        LabHost("b", user="admin", sudo_password=PASSWORD, names=("b.example.com",)),
    )
    lab.up(NAME, hosts)
    try:
        for name, text in (("sudo", PASSWORD), ("vault", VAULT)):
            (tmp_path / name).write_text(text)
        yield tmp_path
    finally:
        lab.down(NAME)


def command(*words: str) -> list[str]:
    return [*MESHCTL, *words, "--lab", "--become-password-file", "sudo", "--vault-password-file", "vault"]


def meshctl(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """meshctl as a person's shell starts it: Ctrl-C reaches it, also where the tests run in the background."""
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    program = [sys.executable, "-c", heeding, *command(*words)]
    return subprocess.Popen(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_second_apply_is_one_connection_and_one_command_a_host_and_no_ansible(folder: Path) -> None:
    assert meshctl(folder, "apply", "--yes").returncode == 0
    log = "grep -c Accepted /var/log/sshd.log"
    before = [host_says(host, log) for host in ("a", "b")]
    code = f"""
import sys
from meshctl import cli
from meshctl.screen import Screen
from meshctl.shell import ssh
ran = []
run = ssh.Pool.run
ssh.Pool.run = lambda self, host, command: ran.append(host) or run(self, host, command)
status = cli.run({command("apply", "--yes")[3:]!r}, Screen())
loaded = sorted(m for m in sys.modules if m.startswith("ansible.executor"))  # the vault's library is, for mesh.keys
assert (status, sorted(ran), loaded) == (0, ["a", "b"], []), (status, ran, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert [host_says(host, log) for host in ("a", "b")] == [str(int(count) + 1) for count in before]


@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_apply_goes_back_and_loses_nothing(folder: Path, order: signal.Signals) -> None:
    running = start(folder, "apply", "--yes")
    assert running.stderr is not None
    said = ""
    for line in running.stderr:
        said += line
        if "switch changed" in line:
            running.send_signal(order)
            break
    out, rest = running.communicate(timeout=120)
    said += rest
    assert running.returncode == 130, (out, said)
    assert "interrupted\n" in said
    assert "rolled back: a, b" in said
    keys, lock = (folder / "mesh.keys").read_bytes(), (folder / "mesh.lock").read_bytes()
    pending = meshctl(folder, "plan", "--detailed-exitcode")
    assert pending.returncode == 2, pending
    assert meshctl(folder, "apply", "--yes").returncode == 0
    assert ((folder / "mesh.keys").read_bytes(), (folder / "mesh.lock").read_bytes()) == (keys, lock)
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".run")]


def test_an_interrupt_before_anything_was_switched_says_so(folder: Path) -> None:
    running = start(folder, "apply", "--yes")
    assert running.stderr is not None
    said = running.stderr.readline()
    running.send_signal(signal.SIGINT)
    said += running.communicate(timeout=60)[1]
    assert running.returncode == 130, said
    assert "nothing is left half-switched; the next run finishes what was begun\n" in said
    assert "Traceback" not in said
    assert meshctl(folder, "apply", "--yes").returncode == 0


def test_a_fault_of_meshctls_own_after_the_switch_takes_it_back(folder: Path) -> None:
    code = f"""
from meshctl import cli
from meshctl.flow import safely
from meshctl.screen import Screen
def stumble(*_):
    raise RuntimeError("a fault of ours")
safely._Doing._why_not = stumble
cli.run({command("apply", "--yes")[3:]!r}, Screen())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert "RuntimeError: a fault of ours" in done.stderr, done
    pending = meshctl(folder, "plan", "--json")
    assert json.loads(pending.stdout)["summary"]["create"] == 2, pending
    for host in ("a", "b"):
        assert host_says(host, f"ip link show {NAME} 2>/dev/null | wc -l") == "0"


def test_nothing_secret_is_shown_anywhere(folder: Path) -> None:
    """Not on stdout or stderr, on no command line, in no file that another user could read, and none stays behind."""
    seen: dict[str, set[str]] = {"arguments": set(), "open files": set()}
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(seen, done))
    watcher.start()
    try:
        first = meshctl(folder, "apply", "--yes", "--json")
        conf = lab_file("a", f"/etc/meshd/{NAME}.conf")
        rotate = meshctl(folder, "rotate", "--yes", "--json")
        plan = meshctl(folder, "plan", "--json")
        status = subprocess.run(
            [*MESHCTL, "status", "--lab", "--become-password-file", "sudo"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        done.set()
        watcher.join()
    runs = (first, rotate, plan, status)
    assert [run.returncode for run in runs] == [0, 0, 0, 0], runs
    secrets, shown = [PASSWORD, VAULT], "".join(r.stdout + r.stderr for r in runs) + "\n".join(seen["arguments"])
    for place in (folder, lab.aside(NAME)):
        ring = keyring.read(place / "mesh.keys", keyring.Secret(VAULT.encode()))
        assert ring is not None
        assert ring.psk_root is not None
        secrets += [base64.b64encode(k.reveal()).decode() for k in (*ring.private.values(), ring.psk_root)]
        shown += (place / "mesh.lock").read_text() + (place / "mesh.keys").read_text()
    conf += lab_file("a", f"/etc/meshd/{NAME}.conf")
    secrets += re.findall(r"^(?:PrivateKey|PresharedKey) = (\S+)$", conf, re.M)
    assert len(set(secrets)) == 2 + 2 * 4, "the keys have changed"
    shown += lab_file("a", f"/etc/meshd/{NAME}.manifest.json")
    assert not [secret for secret in secrets if secret in shown]
    assert seen["arguments"], "the watcher saw nothing"
    assert seen["open files"] == set()
    assert not list(Path("/dev/shm").glob("meshctl-*"))


def test_the_users_own_road_works_as_the_labs_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --lab, from the network where the hosts are: agent, ports, `trust`, pins in mesh.lock, sudo."""
    addresses = lab.addresses(NAME)
    hosts = "".join(f'  {n}: "{a.user}@{a.hostname}:{a.port}"\n' for n, a in addresses.items())
    (folder / "mesh.yaml").write_text(f"mesh: {NAME}\nhosts:\n{hosts}")
    with ssh_agent(folder / "agent", addresses["a"].identity):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(folder / "agent"))
        unknown = inside(folder, "apply", "--yes")
        assert (unknown.returncode, "meshctl trust a" in unknown.stdout) == (4, True), unknown
        trusted = inside(folder, "trust", "--yes")
        assert (trusted.returncode, trusted.stdout.count("pinned ssh-ed25519 SHA256:")) == (0, 2), trusted
        applied = inside(folder, "apply", "--yes", "--become-password-file", "sudo")
        assert (applied.returncode, "1 of 1 link alive" in applied.stdout) == (0, True), applied
        again = inside(folder, "apply", "--yes", "--become-password-file", "sudo")
        assert (again.returncode, "nothing to do" in again.stdout) == (0, True), again
        rotated = inside(folder, "rotate", "--yes", "--become-password-file", "sudo")
        assert (rotated.returncode, "the keys are changed" in rotated.stdout) == (0, True), rotated
        once_more = inside(folder, "plan", "--detailed-exitcode", "--become-password-file", "sudo")
        assert once_more.returncode == 0, once_more
    lock = (folder / "mesh.lock").read_text()
    assert all(key in lock for address in addresses.values() for key in address.host_keys)
    assert "psk_epoch: 2\nhosts:" in lock


def inside(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """meshctl without --lab, in the network namespace from where the lab's hosts are reached."""
    code = "import sys; from meshctl import cli; from meshctl.shell import lab; lab.enter(sys.argv.pop(1)); cli.main()"
    program = [sys.executable, "-c", code, NAME, *words]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def watch(seen: dict[str, set[str]], done: threading.Event) -> None:
    """Every command line there is, and every readable file in the places of temporary files."""
    while not done.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen["arguments"].add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        for top in ("/dev/shm", os.environ.get("TMPDIR", "/tmp")):
            for path in Path(top).glob("meshctl-*"):
                try:
                    if stat.S_IMODE(path.stat().st_mode) & 0o077:
                        seen["open files"].add(str(path))
                except OSError:
                    continue
        time.sleep(0.02)


def host_says(host: str, script: str) -> str:
    process = lab.start(NAME, host, ["sh", "-c", script], stdout=subprocess.PIPE)
    return process.communicate(timeout=30)[0].decode().strip()


def lab_file(host: str, path: str) -> str:
    return host_says(host, f"cat {path}")
