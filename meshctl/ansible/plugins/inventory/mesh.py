"""The inventory plugin `meshctl.mesh.mesh`: the hosts of a mesh.yaml, for any playbook, AWX or ansible-pull.

It reads the file with meshctl's own parser (YAML 1.2, so a host named `no` is a host) and mesh.lock beside it for
addresses; the controller must have meshctl for that. Only public data becomes a variable: mesh.keys is never opened.
Devices are no hosts and do not appear.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

try:
    from meshctl.core import lock, parse
    from meshctl.core.errors import Failure
    from meshctl.shell import yamlfile
    from meshctl.shell.meshdir import MeshDir
except ImportError as error:
    MISSING = str(error)
else:
    MISSING = ""

if TYPE_CHECKING:
    from ansible.inventory.data import InventoryData
    from ansible.parsing.dataloader import DataLoader

    from meshctl.core.lock import Lock
    from meshctl.core.spec import HostSpec

DOCUMENTATION = """
    name: mesh
    short_description: the hosts of a mesh.yaml
    description:
        - Makes a host of each host of a C(mesh.yaml), in the group of its mesh and in the groups it names.
        - Needs the Python package C(meshctl) on the controller.
        - "Enable it before the plugins that take any YAML file, for example with
          C(ANSIBLE_INVENTORY_ENABLED=meshctl.mesh.mesh,auto)."
        - "Variables of a host: C(ansible_host), C(ansible_user) and C(ansible_port) as C(ssh) says them,
          C(ansible_become) for other users than root, C(mesh_name), C(mesh_nat), C(mesh_lan), C(mesh_addresses),
          C(mesh_port) and C(mesh_public_key) (the last three once there is a mesh.lock), and C(meshd_bundle) when
          there is a folder C(bundles/HOST) beside the file, as C(meshctl render bundles) makes it."
    options:
        plugin:
            description: Only there because Ansible wants it; a mesh.yaml does not have this key.
            required: false
"""

EXAMPLES = """
# ansible-playbook -i mesh.yaml meshctl.mesh.site
mesh: prod
hosts:
  a: root@a.example.com
  b: {ssh: admin@b.example.com, groups: [db]}
"""


class InventoryModule(BaseInventoryPlugin):
    NAME = "meshctl.mesh.mesh"

    def verify_file(self, path: str) -> bool:
        """Takes files called mesh.yaml, prod.mesh.yml and the like, and no others."""
        return super().verify_file(path) and Path(path).name.endswith(("mesh.yaml", "mesh.yml"))

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        if MISSING:
            raise AnsibleParserError(f"{path}: reading it needs meshctl ({MISSING}); pip install meshctl")
        mesh = MeshDir(Path(path))
        try:
            spec = parse.parse(yamlfile.read(mesh.yaml, path), path)
            locked = lock.read(yamlfile.read(mesh.lock, str(mesh.lock)), str(mesh.lock)) if mesh.lock.exists() else None
        except Failure as error:
            raise AnsibleParserError(str(error)) from None
        for host in spec.hosts.values():
            inventory.add_host(host.name)
            for group in (_group(spec.mesh), *map(_group, sorted(host.groups))):
                inventory.add_group(group)
                inventory.add_host(host.name, group=group)
            for key, value in _variables(spec.mesh, host, locked, mesh.yaml.resolve().parent / "bundles").items():
                inventory.set_variable(host.name, key, value)


def _group(name: str) -> str:
    """A group's name as Ansible wants it: letters, digits and underscores."""
    return name.replace("-", "_")


def _variables(mesh: str, host: HostSpec, locked: Lock | None, bundles: Path) -> dict[str, Any]:
    ssh = host.ssh
    values: dict[str, Any] = {
        "ansible_host": ssh.host,
        "mesh_name": mesh,
        "mesh_nat": host.nat,
        "mesh_lan": [str(net) for net in host.lan],
    }
    if ssh.user:
        values |= {"ansible_user": ssh.user, "ansible_become": ssh.user != "root"}
    if ssh.port:
        values["ansible_port"] = ssh.port
    if locked is not None and host.name in locked.hosts:
        known = locked.hosts[host.name]
        values["mesh_addresses"] = [str(address) for address in known.addresses]
        values["mesh_port"] = known.port
        values["mesh_public_key"] = str(known.public_key)
    if (bundles / host.name).is_dir():
        values["meshd_bundle"] = str(bundles / host.name)
    return values
