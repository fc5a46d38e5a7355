"""The folder of a mesh: whole files or none, and one run at a time."""

from __future__ import annotations

import os
import subprocess
import sys
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
