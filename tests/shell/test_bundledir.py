"""The private folder of a run: ours alone, gone at its end, and short enough for the sockets in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
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
        with bundledir.private_folder() as (folder, _):
            assert folder.is_relative_to(runtime) == fitting
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            # unix(7): 108 bytes; ssh makes it first under a name that is 17 bytes longer (mux.c)
            assert len(f"{folder}/masters/0123456789") + 17 < 108
        assert not folder.exists()


def test_a_runtime_folder_that_is_not_there_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent/runtime")
    with bundledir.private_folder() as (folder, _):
        assert folder.is_dir()


def test_what_a_killed_run_left_goes_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys too. Not where its playbook is still at work, nor what another run has just made."""
    code = (
        "import os, subprocess, sys; from meshctl.shell import bundledir\n"
        "with bundledir.private_folder() as (folder, at_work):\n"
        "    (folder / 'key').write_text('secret')\n"
        "    if sys.argv[1:]: subprocess.Popen(['cat'], pass_fds=[at_work], stdout=2)\n"  # until our end of it closes
        "    print(folder, flush=True); os.kill(os.getpid(), 9)"
    )
    hold, close = os.pipe()
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        left, busy = (
            Path(
                subprocess.run(
                    [sys.executable, "-c", code, *more], stdin=hold, stdout=subprocess.PIPE, text=True, check=False
                ).stdout.strip()
            )
            for more in ([], ["busy"])
        )
        with bundledir.private_folder():
            assert (left.exists(), busy.exists()) == (True, True)
        for folder in (left, busy):
            os.utime(folder, (0, 0))
        with bundledir.private_folder():
            assert (left.exists(), busy.exists()) == (False, True)
    os.close(close)
    os.close(hold)
