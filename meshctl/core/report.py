"""Report: what one host says of itself, in the same shape as what is desired of it.

`parse` reads the answer of observe.sh (contracts §6), `vitals` that of `meshd status --json` (§5). Both come from a
machine that may be broken or hostile, so anything unexpected is a HostError with the code `report`, never a traceback
and never half a Report. A configuration that this version can't read isn't an error: an older or newer meshd may have
written it, and the plan says so and replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Literal, TypeVar

from meshctl.core import canonical, ip
from meshctl.core.canonical import PublicConf
from meshctl.core.errors import HostError
from meshctl.core.jsonread import Json, clean, load

OBSERVE_SCHEMA = 1
REPORT_SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file that a role placed, as its manifest says."""

    path: str
    mode: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """/etc/meshd/NAME.manifest.json (contracts §7)."""

    name: str
    version: str
    conf_id: str
    conf_sha256: str
    files: tuple[PlacedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class FileState:
    """A path of the manifest as it is now; `sha256` is None when it is missing."""

    path: str
    mode: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class PeerVitals:
    """A link as one end sees it: times in seconds (`rtt_ms` in milliseconds), `loss` a fraction of 1, None is not
    known.
    """

    name: str | None
    public_key: str
    endpoint: str | None = None
    configured_endpoint: str | None = None
    allowed_ips: tuple[str, ...] = ()
    latest_handshake_s: float | None = None
    rtt_ms: float | None = None
    loss: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    mtu: int | None = None
    keepalive_s: int = 0
    alive: bool | None = None
    reason: str | None = None
    next_public_key: str | None = None
    rotation: str | None = None
    mtu_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """`meshd status --json` (contracts §5)."""

    name: str
    version: str
    state: str
    mtu: int | None = None
    uptime_s: float | None = None
    features: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    peers: tuple[PeerVitals, ...] = ()
    link_up: bool | None = None


@dataclass(frozen=True, slots=True)
class Configured:
    """A canonical text that a host sent. It is read when asked for: mostly it is the desired text, and need not be."""

    text: str = ""

    @property
    def public(self) -> PublicConf | None:
        """The text as a value; None for an absent interface and for a text that can't be read."""
        return _read(self.text)[0]

    @property
    def readable(self) -> bool:
        return _read(self.text)[1]


@lru_cache(maxsize=1024)
def _read(text: str) -> tuple[PublicConf | None, bool]:
    try:
        return canonical.read(text), True
    except ValueError:
        return None, False


ABSENT = Configured()


@dataclass(frozen=True, slots=True)
class Daemon:
    """`meshd report --json` (contracts §4): `conf` is what is confirmed on disk, `running` what the kernel has now."""

    version: str
    state: Literal["running", "absent", "down"]
    conf: Configured = ABSENT
    running: Configured = ABSENT
    staged_id: str | None = None
    switched_id: str | None = None
    rollback_in_s: float | None = None
    peers: tuple[PeerVitals, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One host, observed. `ports` are the UDP ports that others than this mesh use there; `ssh` is the client's address
    and the server's port of the connection that it was asked by, None when it doesn't know.
    """

    host: str
    uid: int
    arch: str
    kernel: str = ""
    init: Literal["systemd", "openrc", "none"] = "systemd"
    systemd: int | None = None
    tun: bool = True
    binary: str | None = None
    manifest: Manifest | None = None
    files: tuple[FileState, ...] = ()
    active: bool = False
    enabled: bool = False
    link: Literal["ours", "foreign", "none"] = "none"
    ports: frozenset[int] = frozenset()
    daemon: Daemon | None = None
    ssh: tuple[ip.Addr, int] | None = None


def parse(host: str, output: str) -> Report:
    """The Report in what observe.sh printed. What a login script prints before its first line is skipped."""
    return _guarded(host, lambda: _report(host, output))


def vitals(host: str, output: str) -> Vitals:
    """The Vitals in what `meshd status --json` (or `ping --json`) printed."""
    return _guarded(host, lambda: _vitals(load(_last_line(output))))


def _guarded(host: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError as fault:
        what = f"its report can't be read: {clean(str(fault.args[0]))[:200]}"
        raise HostError(host, "report", what, f"run meshd report on {host} by hand to see what it prints") from None


def _report(host: str, output: str) -> Report:
    lines = output.splitlines()
    start = f"meshctl-observe {OBSERVE_SCHEMA}"
    if start not in lines:
        raise ValueError(f"it doesn't start with {start!r}")
    lines = lines[lines.index(start) + 1 :]
    if "end" not in lines:
        raise ValueError("it ends half-way")
    words: dict[str, str] = {}
    files = []
    for line in lines[: lines.index("end")]:
        key, _, value = line.partition(" ")
        if key == "file":
            files.append(_file(value))
        elif words.setdefault(key, value) != value:
            raise ValueError(f"{key} is said twice")
    active, enabled = _words(words, "service", ("active", "inactive"), ("enabled", "disabled"))
    manifest, daemon = _get(words, "manifest"), _get(words, "report")
    return Report(
        host=host,
        uid=_whole(words, "uid"),
        arch=clean(_get(words, "arch")),
        kernel=clean(words.get("kernel", "")),
        init=_one_of(_get(words, "init"), "init", ("systemd", "openrc", "none")),
        systemd=_whole(words, "systemd") if "systemd" in words else None,
        tun=_one_of(_get(words, "tun"), "tun", ("yes", "no")) == "yes",
        binary=None if _get(words, "binary") == "none" else clean(_get(words, "binary")),
        manifest=None if manifest == "none" else _manifest(load(manifest)),
        files=tuple(files),
        active=active == "active",
        enabled=enabled == "enabled",
        link=_one_of(_get(words, "link"), "link", ("ours", "foreign", "none")),
        ports=_ports(words.get("ports", "")),
        daemon=None if daemon == "none" else _daemon(load(daemon)),
        ssh=_ssh(words["ssh"]) if "ssh" in words else None,
    )


def _get(words: dict[str, str], key: str) -> str:
    if key not in words:
        raise ValueError(f"{key} is missing")
    return words[key].strip()


def _whole(words: dict[str, str], key: str) -> int:
    text = _get(words, key)
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise ValueError(f"{key} is not a number")
    return int(text)


Word = TypeVar("Word", bound=str)


def _one_of(text: str, key: str, allowed: tuple[Word, ...]) -> Word:
    for word in allowed:
        if text == word:
            return word
    raise ValueError(f"{key} is none of {', '.join(allowed)}")


def _words(words: dict[str, str], key: str, *allowed: tuple[str, ...]) -> tuple[str, ...]:
    given = _get(words, key).split()
    if len(given) != len(allowed):
        raise ValueError(f"{key} has {len(given)} words, not {len(allowed)}")
    return tuple(_one_of(word, key, options) for word, options in zip(given, allowed, strict=True))


def _ports(text: str) -> frozenset[int]:
    items = [item for item in re.split(r"[,\s]+", text) if item not in ("", "none")]
    if not all(re.fullmatch(r"[0-9]{1,5}", item) for item in items):
        raise ValueError("ports holds something that is not a port")
    return frozenset(map(int, items))


def _ssh(text: str) -> tuple[ip.Addr, int]:
    client, _, port = text.strip().partition(" ")
    if not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError("ssh is not ADDRESS PORT")
    try:
        addr = ip_address(client.partition("%")[0])  # a link-local address carries its link
    except ValueError:
        raise ValueError("ssh is not ADDRESS PORT") from None
    return getattr(addr, "ipv4_mapped", None) or addr, int(port)


def _file(text: str) -> FileState:
    parts = text.split(" ", 2)
    if len(parts) != 3 or not (parts[0] == "missing" or re.fullmatch(r"[0-9a-f]{64}", parts[0])):
        raise ValueError("a file line is not SHA256 MODE PATH")
    digest, mode, path = parts
    return FileState(clean(path), clean(mode), None if digest == "missing" else digest)


def _manifest(data: Json) -> Manifest:
    _schema(data, "manifest")
    files = tuple(PlacedFile(f.text("path"), f.text("mode"), f.text("sha256")) for f in data.objects("files"))
    return Manifest(data.text("name"), data.text("version"), data.text("conf_id"), data.text("conf_sha256"), files)


def _daemon(data: Json) -> Daemon:
    _schema(data, "report")
    return Daemon(
        version=data.text("version"),
        state=_one_of(data.text("state"), "state", ("running", "absent", "down")),
        conf=Configured(data.lines("conf")),
        running=Configured(data.lines("running")),
        staged_id=data.text_or_none("staged_id"),
        switched_id=data.text_or_none("switched_id"),
        rollback_in_s=data.number_or_none("rollback_in_s"),
        peers=_peers(data),
    )


def _vitals(data: Json) -> Vitals:
    _schema(data, "status")
    return Vitals(
        name=data.text("name"),
        version=data.text("version"),
        state=data.text("state"),
        mtu=data.whole_or_none("mtu"),
        uptime_s=data.number_or_none("uptime_s"),
        features=data.texts("features"),
        notes=data.texts("notes"),
        peers=_peers(data),
        link_up=data.truth_or_none("link_up"),
    )


def _schema(data: Json, noun: str) -> None:
    if data.whole("schema") != REPORT_SCHEMA:
        raise ValueError(f"its {noun} has schema {data.whole('schema')}; this meshctl knows {REPORT_SCHEMA}")


def _peers(data: Json) -> tuple[PeerVitals, ...]:
    return tuple(
        PeerVitals(
            name=peer.text_or_none("name"),
            public_key=peer.text("public_key"),
            endpoint=peer.text_or_none("endpoint"),
            configured_endpoint=peer.text_or_none("configured_endpoint"),
            allowed_ips=peer.texts("allowed_ips"),
            latest_handshake_s=peer.number_or_none("latest_handshake_s"),
            rtt_ms=peer.number_or_none("rtt_ms"),
            loss=peer.number_or_none("loss"),
            rx_bytes=peer.whole_or_none("rx_bytes") or 0,
            tx_bytes=peer.whole_or_none("tx_bytes") or 0,
            mtu=peer.whole_or_none("mtu"),
            keepalive_s=peer.whole_or_none("keepalive_s") or 0,
            alive=peer.truth_or_none("alive"),
            reason=peer.text_or_none("reason"),
            next_public_key=peer.text_or_none("next_public_key"),
            rotation=peer.text_or_none("rotation"),
            mtu_reason=peer.text_or_none("mtu_reason"),
        )
        for peer in data.objects("peers")
    )


def _last_line(output: str) -> str:
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")
