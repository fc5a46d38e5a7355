"""Bundles of a mesh over test hosts, made the way `meshctl render` makes them, from a mesh.yaml in a few lines."""

from collections.abc import Mapping
from pathlib import Path

from meshctl.core import bundle, parse
from meshctl.core.keys import KeyRing
from meshctl.core.mesh import Place, resolve
from meshctl.shell import bundledir, keyring, yamlfile
from meshctl.version import VERSION

from .hosts import Fleet


def write(
    folder: Path,
    fleet: Fleet,
    more: str = "",
    ring: KeyRing | None = None,
    name: str = "prod",
    words: Mapping[str, str] | None = None,
) -> KeyRing:
    """Bundles for all hosts of the fleet below `folder`; `more` is added to mesh.yaml, to a host's line its `words`.
    The keys, to be used again.
    """
    own = {host.name: f", {words[host.name]}" if words and host.name in words else "" for host in fleet.hosts}
    lines = "".join(f"  {host.name}: {{ssh: root@{host.address}{own[host.name]}}}\n" for host in fleet.hosts)
    text = f"mesh: {name}\nhosts:\n{lines}{more}"
    spec = parse.parse(yamlfile.parse(text.encode(), "mesh.yaml"), "mesh.yaml")
    ring = keyring.grown(ring or KeyRing(), spec.hosts)
    places = {host.name: Place(host.address) for host in fleet.hosts}
    mesh, _ = resolve(spec, None, ring.public(), places, {})
    bundledir.write(folder, bundle.render(mesh, ring, VERSION).values())
    return ring
