"""The lab of a mesh file: its hosts as the lab wants them, and the roads to them.

What the file says of a host is kept (names, endpoints, NAT, places, site networks, the user and its sudo), so that the
rehearsal's configurations are the ones the real hosts would get. Only the way in differs: the lab's own addresses, keys
and host keys, none of which ever enters mesh.lock. A change of keys is rehearsed on copies of mesh.lock and mesh.keys
that the lab keeps: else the real hosts would be left without a step of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshctl.core.errors import Failed, HostError
from meshctl.core.ip import net_text
from meshctl.core.spec import HostSpec, Spec
from meshctl.shell import lab, meshdir, sshconfig
from meshctl.shell.lab import LabAddress, LabHost, LabOptions, LabStatus
from meshctl.shell.meshdir import MeshDir
from meshctl.shell.sshconfig import Road


def up(spec: Spec, folder: Path) -> Mapping[str, LabAddress]:
    """Build the lab of this file. The mesh's own folder, with its keys, is not seen on the hosts."""
    hosts = [_host(spec, host) for host in spec.hosts.values()]
    options = LabOptions(loss=spec.lab.loss, latency_ms=spec.lab.latency_ms, hide=(str(folder.resolve()),))
    return lab.up(spec.mesh, hosts, options)


def exec_(spec: Spec, host: str, command: Sequence[str]) -> int:
    """Run a command on a host of the lab; its exit status."""
    return lab.exec_(spec.mesh, host, command)


def status(spec: Spec) -> LabStatus:
    """Which hosts of the lab are up. Failed when there is no lab of this file."""
    return lab.status(spec.mesh)


def down(spec: Spec) -> bool:
    """Take the lab away; False when there was none."""
    return lab.down(spec.mesh)


def own(mesh: MeshDir, name: str) -> MeshDir:
    """The mesh's files, with the lock and the keys of its lab where that has its own."""
    aside = MeshDir(mesh.yaml, lab.aside(name))
    return aside if aside.lock.exists() else mesh


def part(mesh: MeshDir, name: str) -> MeshDir:
    """The mesh's files with a lock and keys of the lab's own: what is done to them there is a rehearsal, and gone with
    the lab.
    """
    aside = MeshDir(mesh.yaml, lab.aside(name))
    if mesh.aside is None:
        meshdir.copy(mesh, aside)
    return aside


def hint(text: str) -> str:
    """A hint about real hosts, said of the lab's."""
    return re.sub(r"meshctl (apply|rotate)", r"meshctl \1 --lab", text)


def roads(spec: Spec) -> dict[str, Road]:
    """Enter the lab of this file; the roads to its hosts from there. Failed when it isn't up, or lacks a host."""
    addresses = lab.addresses(spec.mesh)
    if missing := sorted(set(spec.hosts) - set(addresses)):
        hint = "meshctl lab up adds what the lab lacks"
        raise Failed(f"the lab {spec.mesh} has no host {', '.join(missing)}", hint, "lab-host")
    lab.enter(spec.mesh)
    return {name: road(name, address) for name, address in addresses.items()}


def road(name: str, address: LabAddress) -> Road:
    """The way to one host of a lab: its own keys, nothing of the user's configuration."""
    return Road(
        destination=f"{address.user}@{address.hostname}",
        hostname=address.hostname,
        user=address.user,
        port=address.port,
        alias=f"meshctl-{name}",
        host_keys=address.host_keys,
        identity_files=(str(address.identity),),
        identities_only=True,
        agent=False,
        config="none",
    )


def _host(spec: Spec, host: HostSpec) -> LabHost:
    behind_nat = spec.lab.behind_nat.get(host.name, host.nat)
    place = host.at.place if host.at is not None else host.name
    user, hostname = host.ssh.user or "root", host.ssh.host
    if sshconfig.available():
        try:
            road = sshconfig.resolve(host.name, f"{host.ssh.user}@{hostname}" if host.ssh.user else hostname)
            user, hostname = road.user, road.hostname
        except HostError:
            pass  # the user's configuration is broken: the file's own words must do
    names = [hostname, *([host.endpoint.host] if host.endpoint else [])]
    return LabHost(
        name=host.name,
        user=user,
        names=tuple(dict.fromkeys(names)),
        behind=place if behind_nat else None,
        lan=tuple(map(net_text, host.lan)),
    )
