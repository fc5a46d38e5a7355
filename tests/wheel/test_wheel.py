"""The wheel as a user installs it: it carries the collection and the daemon for two architectures, and they run.

The wheel is built from this checkout and installed into a fresh environment that sees the packages of this one.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARIES = "ansible_collections/meshctl/mesh/roles/daemon/files/bin"
PT_INTERP = 3
ROLES = ("preflight", "daemon", "interface", "remove")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("meshctl-*-py3-none-any.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel in it; its dependencies are those of this one."""
    home = tmp_path_factory.mktemp("env") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    bin_dir = home / "bin"
    subprocess.run([bin_dir / "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    own = next((home / "lib").glob("python3*")) / "site-packages"
    # Not a .pth of the whole folder: that holds the editable install of this checkout, which must not be what answers.
    for package in site.iterdir():
        if (
            not (own / package.name).exists()
            and "meshctl" not in package.name
            and package.name != "ansible_collections"
        ):
            (own / package.name).symlink_to(package)
    for program in ("ansible-galaxy", "ansible-doc"):
        text = (Path(sys.executable).parent / program).read_text().split("\n", 1)[1]
        (bin_dir / program).write_text(f"#!{bin_dir / 'python'}\n{text}")
        (bin_dir / program).chmod(0o755)
    return bin_dir


def program_headers(elf: bytes) -> list[int]:
    """The types of a 64-bit little-endian ELF file's program headers (elf(5), Elf64_Ehdr and Elf64_Phdr)."""
    assert elf[:6] == b"\x7fELF\x02\x01"
    (start,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    return [struct.unpack_from("<I", elf, start + number * size)[0] for number in range(count)]


def run(*command: str | Path, folder: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_tool_knows_what_it_carries(installed: Path, tmp_path: Path) -> None:
    shown = json.loads(run(installed / "meshctl", "version", "--json", folder=tmp_path))
    carried = {path.parent.name for path in (ROOT / "roles/daemon/files/bin").glob("*/meshd")}
    assert carried, "nothing was built: make build"
    assert set(shown["binaries"]) == carried
    (tmp_path / "mesh.yaml").write_text("mesh: prod\nhosts: {a: root@192.0.2.1, b: root@192.0.2.2}\n")
    run(installed / "meshctl", "check", folder=tmp_path)
    run(installed / "meshctl", "render", "out", folder=tmp_path)
    assert (tmp_path / "out/a/prod.conf").stat().st_mode & 0o777 == 0o600


def test_ansible_finds_the_collection_by_itself(installed: Path, tmp_path: Path) -> None:
    assert "meshctl.mesh" in run(installed / "ansible-galaxy", "collection", "list", folder=tmp_path)
    listed = run(installed / "ansible-doc", "-t", "role", "-l", folder=tmp_path)
    assert all(f"meshctl.mesh.{role}" in listed for role in ROLES)


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_each_daemon_is_static_and_runs(wheel: Path, architecture: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        member = f"{BINARIES}/{architecture}/meshd"
        if member not in archive.namelist():
            pytest.skip(f"this machine has no tools to build meshd for {architecture}: .ci/packages test")
        binary = Path(archive.extract(member, tmp_path))
    binary.chmod(0o755)
    emulator = shutil.which(f"qemu-{architecture}-static")
    if os.uname().machine != architecture and emulator is None:
        pytest.skip(f"nothing here runs {architecture}: qemu-user-static is not installed")
    command = [binary] if os.uname().machine == architecture else [emulator, binary]
    assert PT_INTERP not in program_headers(binary.read_bytes()), "it asks for a dynamic loader"
    assert run(*command, "version", folder=tmp_path).startswith("meshd ")
    private = run(*command, "genkey", folder=tmp_path)
    done = subprocess.run([*command, "pubkey"], input=private, capture_output=True, text=True, check=True)
    native = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True)
    assert done.stdout == native.stdout
    conf = f"[Interface]\nPrivateKey = {private.strip()}\nAddress = 10.0.0.1\n"
    checked = subprocess.run([*command, "check", "--canonical"], input=conf, capture_output=True, text=True, check=True)
    assert f"PublicKey = {native.stdout.strip()}\n" in checked.stdout
