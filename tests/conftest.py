"""What holds for all tests: a lab that one of them makes ends with the run, however the run ends."""

from __future__ import annotations

import os
import sys

from meshctl.shell import lab
from meshctl.shell.lab.kernel import Process


def pytest_configure() -> None:
    if sys.platform.startswith("linux"):
        run = Process.of(os.getpid())
        os.environ[lab.OWNER] = f"{run.pid} {run.start}"
