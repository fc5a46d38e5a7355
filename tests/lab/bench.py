"""One lab, and how tests look into it."""

from __future__ import annotations

import subprocess
import sys

from meshctl.shell import lab
from meshctl.shell.lab import LabAddress, LabHost, LabOptions

ENTER = """\
import os, sys
from meshctl.shell import lab
lab.enter(sys.argv[1])
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Bench:
    def __init__(self, name: str) -> None:
        self.name = name
        self.hosts: dict[str, LabAddress] = {}

    def up(self, *hosts: LabHost, **options: object) -> Bench:
        self.hosts = lab.up(self.name, hosts, LabOptions(**options))  # type: ignore[arg-type]
        return self

    def run(self, host: str, script: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A shell script on a host, without SSH."""
        pipe = subprocess.PIPE
        process = lab.start(self.name, host, ["sh", "-c", script], stdin=pipe, stdout=pipe, stderr=pipe)
        out, err = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    def says(self, host: str, script: str) -> str:
        """Its output; the script must succeed."""
        done = self.run(host, script)
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        return done.stdout.decode().strip()

    def inside(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """A program of this machine in the controller's network namespace, by `enter`."""
        command = [sys.executable, "-c", ENTER, self.name, *argv]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
        )

    def ssh(self, host: str, script: str) -> subprocess.CompletedProcess[str]:
        """A shell script on a host, by plain ssh."""
        address = self.hosts[host]
        known = address.identity.with_name("known_hosts")
        options = ["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known}"]
        options += [
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-i",
            str(address.identity),
            "-p",
            str(address.port),
        ]
        return self.inside("ssh", *options, f"{address.user}@{address.hostname}", script)
