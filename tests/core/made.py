"""Whole meshes made of a few lines of YAML, with keys that are the same in every run, and hosts that report.

Nothing here is random or secret: a host's private key is its name, hashed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from meshctl.core import bundle, canonical, keys, mesh, plan
from meshctl.core.bundle import Bundle
from meshctl.core.errors import HostError, Invalid, Problem
from meshctl.core.keys import KeyRing
from meshctl.core.lock import Lock
from meshctl.core.mesh import Mesh, Place
from meshctl.core.parse import parse
from meshctl.core.plan import Plan, Release
from meshctl.core.report import Configured, Daemon, PeerVitals, Report
from meshctl.core.spec import Spec
from meshctl.shell import yamlfile

RELEASE = Release("0.1.0", {"x86_64": "11" * 32, "aarch64": "22" * 32})

THREE = """\
mesh: prod
hosts:
  a: root@a.example.com
  b: root@b.example.com
  c: {ssh: root@c.example.com, nat: true}
"""


def spec_of(text: str) -> Spec:
    return parse(yamlfile.parse(text.encode(), "mesh.yaml"), "mesh.yaml")


def problems_of(text: str) -> tuple[Problem, ...]:
    """The problems of a file that must be refused."""
    try:
        spec_of(text)
    except Invalid as invalid:
        return invalid.problems
    raise AssertionError("the file was accepted")


def ring_of(*names: str) -> KeyRing:
    drawn = {name: sha256(name.encode()).digest() for name in names}
    return keys.grow(KeyRing(), drawn, sha256(b"the root").digest())


@dataclass(frozen=True)
class World:
    """Everything that meshctl knows of one mesh at one moment."""

    spec: Spec
    mesh: Mesh
    lock: Lock
    ring: KeyRing
    bundles: Mapping[str, Bundle]
    release: Release

    def plan(self, reports: Mapping[str, Report | HostError], limit: frozenset[str] | None = None) -> Plan:
        return plan.diff(self.mesh, self.bundles, reports, self.lock, self.release, limit=limit)

    def fresh(self) -> dict[str, Report]:
        """Reports of hosts that never heard of meshctl."""
        return {name: plan.fresh(name) for name in self.mesh.hosts}

    def applied(self, before: Mapping[str, Report] | None = None) -> dict[str, Report]:
        """Reports of hosts on which this mesh was applied."""
        before = before or self.fresh()
        return {n: plan.after(b, before.get(n, plan.fresh(n)), self.release) for n, b in self.bundles.items()}


def world(
    text: str,
    before: Lock | None = None,
    *,
    places: Mapping[str, Place] | None = None,
    taken: Mapping[str, frozenset[int]] | None = None,
    release: Release = RELEASE,
) -> World:
    return world_of(spec_of(text), before, places=places, taken=taken, release=release)


def world_of(
    spec: Spec,
    before: Lock | None = None,
    *,
    places: Mapping[str, Place] | None = None,
    taken: Mapping[str, frozenset[int]] | None = None,
    release: Release = RELEASE,
) -> World:
    ring = ring_of(*spec.hosts)
    resolved, lock = mesh.resolve(spec, before, ring.public(), places or {}, taken or {})
    return World(spec, resolved, lock, ring, bundle.render(resolved, ring, release.version), release)


def observed(report: Report) -> str:
    """What observe.sh would print on this host (contracts §6)."""
    manifest = "none"
    if report.manifest is not None:
        m = report.manifest
        files = [{"path": f.path, "mode": f.mode, "sha256": f.sha256} for f in m.files]
        manifest = _line(
            {
                "schema": 1,
                "name": m.name,
                "version": m.version,
                "conf_id": m.conf_id,
                "conf_sha256": m.conf_sha256,
                "files": files,
            }
        )
    lines = [
        "meshctl-observe 1",
        f"uid {report.uid}",
        f"arch {report.arch}",
        f"kernel {report.kernel}",
        f"init {report.init}",
        *([f"systemd {report.systemd}"] if report.systemd is not None else []),
        f"tun {'yes' if report.tun else 'no'}",
        f"binary {report.binary or 'none'}",
        f"manifest {manifest}",
        *(f"file {f.sha256 or 'missing'} {f.mode} {f.path}" for f in report.files),
        f"service {'active' if report.active else 'inactive'} {'enabled' if report.enabled else 'disabled'}",
        f"link {report.link}",
        f"ports {','.join(map(str, sorted(report.ports)))}",
        *([f"ssh {report.ssh[0]} {report.ssh[1]}"] if report.ssh is not None else []),
        f"report {_daemon(report.daemon) if report.daemon is not None else 'none'}",
        "end",
    ]
    return "\n".join(lines) + "\n"


def _daemon(daemon: Daemon) -> str:
    return _line(
        {
            "schema": 1,
            "version": daemon.version,
            "arch": "x86_64",
            "name": "prod",
            "state": daemon.state,
            "conf": daemon.conf.text,
            "conf_sha256": sha256(daemon.conf.text.encode()).hexdigest(),
            "running": daemon.running.text,
            "running_sha256": sha256(daemon.running.text.encode()).hexdigest(),
            "staged_id": daemon.staged_id,
            "switched_id": daemon.switched_id,
            "rollback_in_s": daemon.rollback_in_s,
            "public_key": None,
            "listen_port": None,
            "peers": [peer_json(p) for p in daemon.peers],
        }
    )


def peer_json(peer: PeerVitals) -> dict[str, object]:
    return {name: getattr(peer, name) for name in PeerVitals.__slots__}


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def drifted(report: Report, **changes: object) -> Report:
    """The report with these fields of its running configuration changed behind meshctl's back."""
    daemon = report.daemon
    assert daemon is not None
    assert daemon.running.public is not None
    running = Configured(canonical.format(replace(daemon.running.public, **changes)))  # type: ignore[arg-type]
    return replace(report, daemon=replace(daemon, running=running))
