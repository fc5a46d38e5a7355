"""Machines: one machine is one host, however its names in mesh.yaml lead there.

parse sees addresses that are written alike; these are the ones that ssh_config makes the same, by an alias or a port.
A host that left mesh.yaml and one that is new there may well be one machine: then it was renamed, and the SSH host keys
that were pinned for the old name are the new one's. What it does not do: compare machines behind a ProxyJump.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshctl.core.errors import Problem
from meshctl.core.lock import Lock
from meshctl.core.mesh import Place
from meshctl.core.spec import Spec


def problems(spec: Spec, places: Mapping[str, Place]) -> list[Problem]:
    """The hosts that are another host's machine."""
    owner: dict[tuple[str, int], str] = {}
    found = []
    for name, host in spec.hosts.items():
        if (at := _at(places.get(name))) is None:
            continue
        if (first := owner.setdefault(at, name)) != name:
            what = f"{name} is reached at {at[0]} port {at[1]}, as {first} is, and one machine is one host"
            found.append(Problem(what, host.where, "delete one of the two, or correct its address", "duplicate"))
    return found


def renamed(spec: Spec, lock: Lock, places: Mapping[str, Place]) -> dict[str, str]:
    """New name → old name, of the machines that had another one when they were last applied."""
    known = {*lock.hosts, *lock.leaving}
    old = {at: name for name in known - set(spec.hosts) if (at := _at(places.get(name))) is not None}
    new = {name: at for name in spec.hosts if name not in known and (at := _at(places.get(name))) is not None}
    return {name: old[at] for name, at in new.items() if at in old}


def _at(place: Place | None) -> tuple[str, int] | None:
    if place is None or not place.direct or place.endpoint_host is None or place.port is None:
        return None
    return place.endpoint_host.lower(), place.port
