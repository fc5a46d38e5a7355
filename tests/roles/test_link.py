"""The links that make a checkout a collection: Ansible may read by them while another run puts them there again."""

import subprocess
import sys
from pathlib import Path

from .hosts import ROOT

LINKER = ROOT / "meshctl" / "ansible" / "link_collection.py"


def linked(top: Path) -> dict[str, tuple[int, str]]:
    subprocess.run([sys.executable, str(LINKER), str(top)], check=True)
    folder = top / "ansible_collections" / "meshctl" / "mesh"
    return {entry.name: (entry.lstat().st_mtime_ns, str(entry.readlink())) for entry in folder.iterdir()}


def test_a_second_run_touches_no_link(tmp_path: Path) -> None:
    first = linked(tmp_path)
    assert {"roles", "plugins", "playbooks"} <= set(first)
    assert linked(tmp_path) == first


def test_a_link_that_leads_elsewhere_is_replaced(tmp_path: Path) -> None:
    first = linked(tmp_path)
    roles = tmp_path / "ansible_collections" / "meshctl" / "mesh" / "roles"
    roles.unlink()
    roles.symlink_to("/nowhere")
    assert {name: target for name, (_, target) in linked(tmp_path).items()} == {
        name: target for name, (_, target) in first.items()
    }
