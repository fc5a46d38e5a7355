"""The private folder of a run: ours alone, gone at its end, and short enough for the sockets in it."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from meshctl.shell import bundledir


@pytest.mark.parametrize("fitting", [True, False])
def test_the_private_folder_is_ours_alone_and_its_sockets_fit(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, fitting: bool
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        runtime = Path(short) if fitting else tmp_path_factory.mktemp("x" * 60)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        with bundledir.private_folder() as folder:
            assert folder.is_relative_to(runtime) == fitting
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            # unix(7): 108 bytes; ssh makes it first under a name that is 17 bytes longer (mux.c)
            assert len(f"{folder}/masters/0123456789") + 17 < 108
        assert not folder.exists()


def test_a_runtime_folder_that_is_not_there_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent/runtime")
    with bundledir.private_folder() as folder:
        assert folder.is_dir()
