"""One host through the `ssh` command: for whatever paramiko can't do.

Strategy: the user's destination and configuration, the pins as the only known_hosts, BatchMode, and no control socket
of the user's (a shared master would not be a fresh connection). ssh's own failures (exit 255) become HostErrors.

What it does not do: keep the connection; each command is one of its own. It asks nothing, so FIDO keys that want a
touch work and passphrases must be in the agent.
"""

from __future__ import annotations

import os
import select
import selectors
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from meshctl.core.errors import HostError
from meshctl.shell.become import Sudo
from meshctl.shell.completed import Completed
from meshctl.shell.sshconfig import Road, by_hand, known_hosts_lines, ssh_options, unreachable, wrong_host_key

_SSH_FAILED = 255  # ssh(1), EXIT STATUS


class CommandConnection:
    """The same face as ParamikoConnection, with a process behind each command."""

    def __init__(self, host: str, address: Road) -> None:
        self._host = host
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None

    alive = True

    def run(self, command: str, stdin: bytes, timeout: float, sudo: Sudo | None = None) -> Completed:
        """Run a command to its end; raises HostError when ssh fails or `timeout` seconds pass."""
        with tempfile.TemporaryDirectory(prefix="meshctl-") as folder:
            known_hosts = Path(folder) / "known_hosts"
            known_hosts.write_text("".join(f"{line}\n" for line in known_hosts_lines(self._address)))
            options = [*ssh_options(self._address, known_hosts), "-o", "ControlPath=none", "-T"]
            process = subprocess.Popen(
                ["ssh", *options, "--", self._address.destination, command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            self._process = process
            try:
                out, err = _converse(self._host, process, stdin, time.monotonic() + timeout, sudo)
            finally:
                self.close()
        stderr = err.decode(errors="replace")
        if process.returncode == _SSH_FAILED:
            raise _classify(self._host, self._address, stderr)
        return Completed(process.returncode, out.decode(errors="replace"), stderr)

    def close(self) -> None:
        """End the ssh process of a command in flight."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()


def _converse(
    host: str, process: subprocess.Popen[bytes], stdin: bytes, deadline: float, sudo: Sudo | None
) -> tuple[bytes, bytes]:
    """Write stdin and read both outputs, whichever is ready."""
    assert process.stdin and process.stdout and process.stderr  # Popen made all three
    out, err = bytearray(), bytearray()
    pending = b"" if sudo is not None and sudo.waits else stdin
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ, out)
        ready.register(process.stderr, selectors.EVENT_READ, err)
        outputs, writing = 2, False
        while outputs > 0:
            if time.monotonic() > deadline:
                raise HostError(host, "unreachable", "the command did not end in time", "look at the host's load")
            if sudo is not None and sudo.waits and not pending:
                pending = sudo.answer(bytes(err), stdin)
            if pending and not writing and not process.stdin.closed:
                ready.register(process.stdin, selectors.EVENT_WRITE)
                writing = True
            for key, _ in ready.select(0.2):
                if key.fileobj is process.stdin:
                    pending = _write_some(process.stdin, pending)
                elif data := os.read(key.fd, 65536):
                    key.data.extend(data)
                else:
                    ready.unregister(key.fileobj)
                    outputs -= 1
            if not pending and not process.stdin.closed:
                if writing:
                    ready.unregister(process.stdin)
                    writing = False
                if sudo is None or not sudo.waits:
                    process.stdin.close()
    process.wait(timeout=max(1.0, deadline - time.monotonic()))
    return bytes(out), bytes(err)


def _write_some(pipe: IO[bytes], data: bytes) -> bytes:
    """Write what surely fits (POSIX: PIPE_BUF bytes after a ready select never block); return the rest."""
    try:
        return data[os.write(pipe.fileno(), data[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        return b""  # the command did not want it all: its exit status tells


def _classify(host: str, address: Road, stderr: str) -> HostError:
    """ssh's own last words as one of our codes. The texts are those of OpenSSH's ssh.c and sshconnect*.c."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else "ssh gave no reason"
    if "Host key verification failed" in stderr:
        return wrong_host_key(host, address)
    if "Permission denied" in stderr or "Too many authentication failures" in stderr:
        return HostError(
            host,
            "auth",
            f"{address.user}@{address.hostname} takes none of your keys",
            f"try: {by_hand(address)}; a key with a passphrase must be in the agent: ssh-add",
        )
    why = last.rpartition(": ")[2].rstrip(".")
    return unreachable(host, address, why[:1].lower() + why[1:])
