"""The daemons that are compared: where each comes from and how it is started on an interface.

Peers are released packages from their registries, built once into build/bench/peers; nothing of theirs is committed.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = ROOT / "roles/daemon/files/bin" / os.uname().machine / "meshd"
STORE = ROOT / "build" / "bench" / "peers"
# Options of the daemons made after boringtun: stay in the foreground, and root.
STAY = ("--foreground", "--disable-drop-privileges")
NAMES = ("bare", "meshd", "wireguard-go", "boringtun", "gotatun")


@dataclass(frozen=True)
class Daemon:
    """One way to join the two ends. `command` gets the interface's name appended; empty for the bare veth."""

    name: str
    version: str
    binary: Path | None
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def is_bare(self) -> bool:
        """True for the veth pair without any tunnel: the ceiling of the table."""
        return not self.command


def find(names: list[str], meshd_env: dict[str, str], meshd: Path | None = None) -> list[Daemon]:
    """Builds what is missing and returns the daemons in the order asked; one that can't be had is said and left out."""
    makers = {
        "bare": lambda: Daemon("bare", "-", None),
        "meshd": lambda: _meshd(meshd or BUILT, meshd_env),
        "wireguard-go": _wireguard_go,
        "boringtun": lambda: _cargo("boringtun", "boringtun-cli", "boringtun-cli", STAY),
        "gotatun": lambda: _cargo("gotatun", "gotatun-cli", "gotatun", STAY),
    }
    found = []
    for name in names:
        try:
            found.append(makers[name]())
        except (OSError, subprocess.CalledProcessError) as why:
            print(f"bench: {name} left out: {why}", file=sys.stderr)
    return found


def _meshd(binary: Path, env: dict[str, str]) -> Daemon:
    version = subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout.strip()
    return Daemon("meshd", version, binary, (str(binary), "bare"), env)


def _wireguard_go() -> Daemon:
    binary = STORE / "bin" / "wireguard"
    if not binary.exists():
        env = os.environ | {"GOBIN": str(STORE / "bin"), "CGO_ENABLED": "0"}
        subprocess.run(["go", "install", "-ldflags=-s -w", "golang.zx2c4.com/wireguard@latest"], env=env, check=True)
    shown = subprocess.run(["go", "version", "-m", binary], capture_output=True, text=True, check=True).stdout
    version = next((line.split()[2] for line in shown.splitlines() if line.split()[:1] == ["mod"]), "?")
    return Daemon("wireguard-go", version, binary, (str(binary), "-f"), {"LOG_LEVEL": "error"})


def _cargo(name: str, crate: str, program: str, options: tuple[str, ...]) -> Daemon:
    binary = STORE / "bin" / program
    if not binary.exists():
        if shutil.which("cargo") is None:
            raise FileNotFoundError("cargo is not installed")
        subprocess.run(["cargo", "install", "--quiet", "--root", STORE, crate], check=True)
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return Daemon(name, shown.split()[-1], binary, (str(binary), *options), {"WG_SUDO": "1"})
