"""The folder of a mesh: whole files or none, and one run at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meshctl.core.errors import Failed, Invalid
from meshctl.shell import meshdir
from meshctl.shell.meshdir import MeshDir


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_files_of_a_mesh_have_its_name() -> None:
    mesh = MeshDir(Path("x/prod.yaml"))
    assert (mesh.lock, mesh.keys) == (Path("x/prod.lock"), Path("x/prod.keys"))


def test_a_folder_means_its_mesh_yaml(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text("")
    assert meshdir.find(tmp_path).yaml == tmp_path / "mesh.yaml"


def test_a_missing_file_is_invalid_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        meshdir.find(tmp_path / "nope.yaml")
    assert [p.code for p in caught.value.problems] == ["missing"]
    assert "meshctl init" in (caught.value.problems[0].hint or "")


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mesh.lock"
    path.write_text("old")
    meshdir.write(path, "new", mode=0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777, names(tmp_path)) == ("new", 0o600, ["mesh.lock"])


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "mesh.lock"
    path.mkdir()  # a rename of a file over a folder fails, for root too
    (path / "kept").write_text("")
    with pytest.raises(Failed):
        meshdir.write(path, "new")
    assert names(tmp_path) == ["mesh.lock"]


def test_the_run_lock_says_who_holds_it(tmp_path: Path) -> None:
    mesh = MeshDir(tmp_path / "mesh.yaml")
    with meshdir.run_lock(mesh):
        with pytest.raises(Failed) as caught, meshdir.run_lock(mesh):
            pass
        assert f"process {os.getpid()} on " in caught.value.what
    assert names(tmp_path) == []
    with meshdir.run_lock(mesh):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="to be two users takes root")
def test_two_users_of_one_folder_hear_of_each_other() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as shared:  # pytest's own folders are root's alone
        Path(shared).chmod(0o777)
        mesh = MeshDir(Path(shared) / "mesh.yaml")
        with meshdir.run_lock(mesh):
            said = as_nobody(mesh)
        assert said.startswith(f"another run holds the run lock: process {os.getpid()} on ")
        mesh.run_lock.write_text("{}")  # of root's run that was killed
        mesh.run_lock.chmod(0o644)
        assert as_nobody(mesh) == "held"


def as_nobody(mesh: MeshDir) -> str:
    """What another user's run says of the run lock."""
    hear, say = os.pipe()
    if (child := os.fork()) == 0:
        os.setresuid(65534, 65534, 65534)
        try:
            with meshdir.run_lock(mesh):
                os.write(say, b"held")
        except Failed as error:
            os.write(say, error.what.encode())
        finally:
            os._exit(0)
    os.close(say)
    os.waitpid(child, 0)
    with os.fdopen(hear) as heard:
        return heard.read()


def test_the_run_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    mesh = MeshDir(tmp_path / "mesh.yaml")
    code = (
        "import os, sys; from pathlib import Path; from meshctl.shell import meshdir\n"
        "with meshdir.run_lock(meshdir.MeshDir(Path(sys.argv[1]))): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(mesh.yaml)], check=False)
    assert mesh.run_lock.exists()
    with meshdir.run_lock(mesh):
        pass


def test_a_full_disk_does_not_stop_a_run_from_holding_its_lock(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from meshctl.shell import meshdir\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "with meshdir.run_lock(meshdir.MeshDir(Path(sys.argv[1]))): sys.stdout.write('held')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.yaml")], capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"held", b"")


def test_what_a_symbolic_link_leads_to_is_replaced(tmp_path: Path) -> None:
    kept, link = tmp_path / "safe" / "keys", tmp_path / "mesh.keys"
    kept.parent.mkdir()
    link.symlink_to("safe/keys")
    for text in ("first", "second"):
        meshdir.write(link, text, mode=0o600)
        assert (link.is_symlink(), kept.read_text(), names(kept.parent)) == (True, text, ["keys"])


@pytest.mark.parametrize("name", ["mesh.lock", "prod.keys"])
def test_a_mesh_cannot_be_called_as_what_meshctl_writes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mesh: m\n")
    for begin in (meshdir.find, meshdir.new):
        with pytest.raises(Invalid, match="written by meshctl"):
            begin(tmp_path / name)
