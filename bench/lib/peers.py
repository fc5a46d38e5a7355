"""The daemons that are compared: where each comes from and how it is started on an interface.

Peers are released packages from their registries, built once into build/bench/peers; nothing of theirs is committed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = ROOT / "roles/daemon/files/bin" / os.uname().machine / "meshd"
STORE = ROOT / "build" / "bench" / "peers"
# Options of the daemons made after boringtun: stay in the foreground, and root.
STAY = ("--foreground", "--disable-drop-privileges")
NAMES = ("bare", "meshd", "wireguard-go", "boringtun", "gotatun")


@dataclass(frozen=True)
class Daemon:
    """One way to join the ends. `command` gets the interface's name appended; empty for the bare veth.

    `name` is the program's name, and after a space how this one differs. `peers`: silent ones besides, on every end.
    """

    name: str
    version: str
    binary: Path | None
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    peers: int = 0

    @property
    def program(self) -> str:
        """The name without what makes this one different."""
        return self.name.partition(" ")[0]

    @property
    def is_bare(self) -> bool:
        """True for the veth pair without any tunnel: the ceiling of the table."""
        return not self.command


def find(names: list[str], meshd_env: dict[str, str], meshd: Path | None = None) -> list[Daemon]:
    """Builds what is missing and returns the daemons in the order asked; one that can't be had is said and left out."""
    makers: dict[str, Callable[[], Daemon]] = {
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


def in_turns(daemons: list[Daemon], variable: str, values: list[str]) -> list[Daemon]:
    """meshd once for each value of a variable of its environment; the others as they are."""
    return [
        turn
        for d in daemons
        for turn in (
            [replace(d, name=f"{d.name} {variable}={v}", env=d.env | {variable: v}) for v in values]
            if d.program == "meshd"
            else [d]
        )
    ]


def with_peers(daemons: list[Daemon], peers: int) -> list[Daemon]:
    """Each daemon, and beside it the same with silent peers."""
    return [
        turn
        for d in daemons
        for turn in ([d] if d.is_bare else [d, replace(d, name=f"{d.name} {peers} peers", peers=peers)])
    ]


def _meshd(binary: Path, env: dict[str, str]) -> Daemon:
    said = subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout.strip()
    # Between two releases the version stays, and what is measured doesn't.
    version = f"{said} ({hashlib.sha256(binary.read_bytes()).hexdigest()[:8]})"
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
