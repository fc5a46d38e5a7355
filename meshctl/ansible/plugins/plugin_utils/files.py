"""Which files a host gets, and what differs from what it has: values in, values out.

The binary and the links to it, and the files its init wants: the service, and the guard that closes the host at
boot. A plan is what place.sh does on the host: what is
equal there already (digest and mode) is not in it, so the binary travels only when it must.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.meshctl.mesh.plugins.plugin_utils.bundle import Bundle
from ansible_collections.meshctl.mesh.plugins.plugin_utils.fault import Fault
from ansible_collections.meshctl.mesh.plugins.plugin_utils.host import Host, Placed

LIB = "/usr/local/lib/meshd"


@dataclass(frozen=True)
class File:
    path: str
    mode: str
    content: bytes

    @property
    def placed(self) -> Placed:
        return Placed(hashlib.sha256(self.content).hexdigest(), self.mode)


@dataclass(frozen=True)
class Link:
    path: str
    target: str

    @property
    def placed(self) -> Placed:
        return Placed(hashlib.sha256(self.target.encode()).hexdigest(), "link")


@dataclass(frozen=True)
class Plan:
    """Steps of place.sh. Empty when the host has it all."""

    place: tuple[File | Link, ...]
    retire: tuple[str, ...]
    reload: bool
    restart: bool
    upgrade: bool
    """The daemon makes way for the new binary, which loses no session."""
    enable: bool
    start: bool

    @property
    def changes(self) -> list[str]:
        """Paths and words, as the host will report them."""
        words = [word for word, so in (("enabled", self.enable), ("started", self.start)) if so]
        if not self.start:
            words += [word for word, so in (("restarted", self.restart), ("upgraded", self.upgrade)) if so]
        return [*(entry.path for entry in self.place), *words, *self.retire]


def wanted(host: Host, bundle: Bundle, files: Path) -> tuple[File | Link, ...]:
    """Everything the host is to have, manifest last. `files` is the daemon role's files folder. Fault `arch`."""
    binary = files / "bin" / host.arch / "meshd"
    if not binary.is_file():
        raise Fault("arch", f"there is no meshd for {host.arch} here")
    entries: list[File | Link] = [
        File(f"{LIB}/{bundle.version}/meshd", "0755", binary.read_bytes()),
        Link(f"{LIB}/current", bundle.version),
        Link("/usr/local/bin/meshd", f"{LIB}/current/meshd"),
    ]
    if host.init == "systemd":
        unit = "meshd@.service" if host.credentials else "without-credentials/meshd@.service"
        entries.append(File("/etc/systemd/system/meshd@.service", "0644", (files / unit).read_bytes()))
        guard = files / "meshd-guard@.service"
        entries.append(File("/etc/systemd/system/meshd-guard@.service", "0644", guard.read_bytes()))
    elif host.init == "openrc":
        for script, source in (("meshd", "meshd.openrc"), ("meshd-guard", "meshd-guard.openrc")):
            entries.append(File(f"/etc/init.d/{script}.{bundle.name}", "0755", (files / source).read_bytes()))
    manifest = {
        "schema": 1,
        "name": bundle.name,
        "version": bundle.version,
        "conf_id": bundle.conf_id,
        "conf_sha256": bundle.conf_sha256,
        "files": [{"path": e.path, "mode": e.placed.mode, "sha256": e.placed.sha256} for e in entries],
    }
    text = json.dumps(manifest, separators=(",", ":")) + "\n"
    return (*entries, File(manifest_path(bundle.name), "0600", text.encode()))


def plan(host: Host, bundle: Bundle, files: Path) -> Plan:
    """What place.sh must do so that `host` has what it is to have and its service runs."""
    entries = wanted(host, bundle, files)
    manifest = entries[-1]
    assert isinstance(manifest, File)
    place = tuple(entry for entry in entries[:-1] if host.files.get(entry.path) != entry.placed)
    if _of_files(host.manifest) != _of_files(json.loads(manifest.content)):
        place = (*place, manifest)
    retire = tuple(sorted(_own_paths(host) - {entry.path for entry in entries}))
    reload = any(entry.path.endswith(".service") for entry in place)
    restart = any(entry.path == "/etc/systemd/system/meshd@.service" for entry in place)
    return Plan(
        place=place,
        retire=retire,
        reload=reload,
        restart=restart,
        upgrade=not restart and any(entry.path.startswith(LIB) for entry in place),
        enable=not host.enabled,
        start=not host.active,
    )


def _of_files(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """A manifest without what it says of the configuration: that follows with the stage step."""
    return {key: value for key, value in (manifest or {}).items() if key not in ("conf_id", "conf_sha256")}


def _own_paths(host: Host) -> set[str]:
    """Paths that this mesh's manifest names and that are there."""
    named = {entry.get("path") for entry in (host.manifest or {}).get("files", []) if isinstance(entry, dict)}
    return {path for path, placed in host.files.items() if path in named and placed.sha256 != "missing"}


def manifest_path(name: str) -> str:
    return f"/etc/meshd/{name}.manifest.json"
