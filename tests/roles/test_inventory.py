"""The inventory plugin: what `ansible-inventory -i mesh.yaml` makes of a mesh, and that no key is among it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .hosts import ROOT

MESH = """\
mesh: prod
hosts:
  a: root@a.example.com
  no: {ssh: "admin@b.example.com:2222", groups: [db-east], nat: true, lan: 192.168.20.0/24}
"""


def inventory(mesh: Path, collections: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_HOME": str(mesh.parent / "home"),
        "ANSIBLE_INVENTORY_ENABLED": "meshctl.mesh.mesh",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
    }
    command = [sys.executable, "-m", "ansible", "inventory", "-i", str(mesh), "--list", "--export"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def render(mesh: Path) -> None:
    command = [sys.executable, "-m", "meshctl", "render", str(mesh), str(mesh.parent / "bundles")]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)


def test_hosts_groups_and_public_variables(tmp_path: Path, collections: Path) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text(MESH)
    render(mesh)
    done = inventory(mesh, collections)
    assert done.returncode == 0, done.stderr
    # Data of a source is marked, as {"__ansible_unsafe": TEXT}.
    said = json.loads(done.stdout, object_hook=lambda members: members.get("__ansible_unsafe", members))
    hosts = said["_meta"]["hostvars"]
    assert said["prod"]["hosts"] == ["a", "no"]
    assert said["db_east"]["hosts"] == ["no"]
    assert hosts["no"]["ansible_host"] == "b.example.com"
    assert (hosts["no"]["ansible_user"], hosts["no"]["ansible_port"]) == ("admin", 2222)
    assert (hosts["a"]["ansible_become"], hosts["no"]["ansible_become"]) == (False, True)
    assert hosts["a"]["meshd_bundle"] == str(tmp_path / "bundles" / "a")
    assert len(hosts["a"]["mesh_addresses"]) == 2
    conf = (tmp_path / "bundles" / "a" / "prod.conf").read_text()
    private = next(line.partition(" = ")[2] for line in conf.splitlines() if line.startswith("PrivateKey"))
    assert private not in done.stdout


def test_a_mistake_in_the_file_is_told_with_its_place(tmp_path: Path, collections: Path) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text(MESH + "colour: red\n")
    done = inventory(mesh, collections)
    assert done.returncode != 0
    assert "mesh.yaml:5:1: unknown word colour" in done.stderr
