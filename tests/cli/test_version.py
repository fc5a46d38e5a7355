"""One version, written in four places because each tool reads its own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from meshctl.version import VERSION

TOP = Path(__file__).parents[2]


def test_every_place_says_the_same_version() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    cargo = tomllib.loads((TOP / "meshd" / "Cargo.toml").read_text())["workspace"]["package"]
    galaxy = re.search(r"^version: (\S+)$", (TOP / "meshctl/ansible/galaxy.yml").read_text(), re.M)
    assert galaxy is not None
    assert (project["version"], cargo["version"], galaxy[1]) == (VERSION, VERSION, VERSION)
