"""A host as observe.sh saw it (docs/reference/contracts.md §6): the lines become one frozen value.

Nothing is judged here, and nothing is secret here: a report holds public keys and digests only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.meshctl.mesh.plugins.plugin_utils.fault import Fault

FIRST_LINE = "meshctl-observe 1"


@dataclass(frozen=True)
class Placed:
    """A file as it is: SHA-256 in hex (or "missing") and mode ("0644"; "link" goes with the digest of the target)."""

    sha256: str
    mode: str


@dataclass(frozen=True)
class Host:
    uid: int
    arch: str
    init: str
    """systemd, openrc or none."""
    credentials: bool
    """Whether its systemd can hand a file to a service."""
    tun: bool
    manifest: Mapping[str, Any] | None
    files: Mapping[str, Placed]
    """Every path the manifest names, as it is now; without a manifest those that other meshes' manifests name."""
    active: bool
    enabled: bool
    link: str
    """ours, foreign or none."""
    ports: frozenset[int]
    """UDP ports that others than this mesh use."""
    report: Mapping[str, Any] | None
    """`meshd report`, contracts §4; None when there is no meshd."""

    @property
    def confirmed(self) -> str:
        """Canonical text of what boot loads; empty: nothing was ever confirmed."""
        return (self.report or {}).get("conf") or ""

    @property
    def running(self) -> str:
        """Canonical text of what is live; empty when nothing is."""
        return (self.report or {}).get("running") or ""

    def runs(self, conf_sha256: str) -> bool:
        """Whether this canonical digest is both confirmed and live."""
        report = self.report or {}
        return report.get("conf_sha256") == conf_sha256 == report.get("running_sha256")


def parse(text: str) -> Host:
    """The host behind the lines of observe.sh. Fault `other` when they are cut short or are something else."""
    lines = text.replace("\r", "").splitlines()
    if FIRST_LINE not in lines or "end" not in lines:
        raise Fault(
            "other", "the host's answer is cut short", "is its shell a POSIX shell that prints nothing at log-in?"
        )
    said: dict[str, str] = {}
    files: dict[str, Placed] = {}
    for line in lines[lines.index(FIRST_LINE) + 1 :]:
        word, _, rest = line.partition(" ")
        if word == "file":
            digest, mode, path = rest.split(" ", 2)
            files[path] = Placed(digest, mode)
        else:
            said[word] = rest
    try:
        active, enabled = said["service"].split()
        return Host(
            uid=int(said["uid"]),
            arch=said["arch"],
            init=said["init"],
            credentials=said.get("credentials") == "yes",
            tun=said["tun"] == "yes",
            manifest=_json(said["manifest"]),
            files=files,
            active=active == "active",
            enabled=enabled == "enabled",
            link=said["link"],
            ports=frozenset(int(port) for port in said["ports"].split(",") if port),
            report=_json(said["report"]),
        )
    except (KeyError, ValueError) as error:
        raise Fault("other", f"the host's answer makes no sense: {error}") from None


def _json(text: str) -> Mapping[str, Any] | None:
    value = None if text == "none" else json.loads(text)
    if value is not None and not isinstance(value, dict):
        raise ValueError("not an object")
    return value
