"""git as it sees a file of keys; a machine without git, and a folder without a repository, know nothing of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from meshctl.shell import git
from meshctl.shell.git import Kept


def test_a_file_is_open_then_ignored_then_tracked(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "prod[1].keys"
    file.parent.mkdir()
    assert git.kept(file) is None
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert git.kept(file) is Kept.OPEN
    (tmp_path / ".gitignore").write_text("*.keys\n")
    assert git.kept(file) is Kept.IGNORED
    file.write_text("x")
    subprocess.run(["git", "-C", tmp_path, "add", "--force", "--all"], check=True)
    assert git.kept(file) is Kept.TRACKED
    link = tmp_path / "link.keys"
    link.symlink_to(file)
    assert git.kept(link) is Kept.TRACKED


def test_without_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.kept(tmp_path / "mesh.keys") is None
