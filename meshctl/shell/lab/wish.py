"""What a lab is asked for (LabHost, LabOptions) and what it answers with (LabAddress, LabStatus): frozen values.

Everything is checked by whoever reads mesh.yaml; here values are only carried, and turned into JSON and back, since
the lab is built by a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class LabHost:
    """One host of the mesh file, as the lab should make it."""

    name: str
    user: str = "root"  # who logs in by SSH; another one than root gets sudo without a password
    names: tuple[str, ...] = ()
    """How the world calls it (ssh HostName, endpoint). A name goes into the hosts files, an address becomes its own."""
    site_names: tuple[str, ...] = ()  # the same at its own site: what it is called by those behind the same NAT box
    behind: str | None = None  # name of the NAT box it stands behind; hosts with the same box share a site
    lan: tuple[
        str, ...
    ] = ()  # site networks in CIDR: in each, the host has the first address and a machine has the second
    loss: float = 0.0  # 0 to 1: share of the packets to it, and of those from it, that get lost on the line

    # Faults, for tests
    tun: bool = True
    disk_mib: int = 1024  # size of all it can write
    sudo: bool = True
    sudo_password: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        lists = {word: tuple(data[word]) for word in ("names", "site_names", "lan")}
        return cls(**{**data, **lists})


@dataclass(frozen=True, slots=True)
class LabOptions:
    """What holds for the lab as a whole."""

    loss: float = 0.0  # 0 to 1: share of the packets lost crossing the internet, each way
    latency_ms: float = 0.0  # one way across the internet: a ping takes twice as long
    symmetric_nat: bool = (
        False  # NAT boxes give each destination another port (RFC 4787, address and port-dependent mapping)
    )
    hide: tuple[str, ...] = ()
    """Directories of this machine that are empty on the hosts, as homes and /tmp are; the mesh file's, say."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "hide": tuple(data["hide"])})


@dataclass(frozen=True, slots=True)
class Wish:
    """A whole lab."""

    name: str
    hosts: tuple[LabHost, ...]
    options: LabOptions = LabOptions()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(data["name"], tuple(map(LabHost.from_json, data["hosts"])), LabOptions.from_json(data["options"]))


@dataclass(frozen=True, slots=True)
class LabAddress:
    """How to reach one host by SSH from the lab's controller namespace."""

    name: str
    hostname: str  # an address; of the NAT box for a host behind one
    port: int
    user: str
    become: bool  # root takes sudo
    identity: Path
    host_keys: tuple[str, ...]  # `ssh-ed25519 AAAA…`; of this lab alone
    address6: str | None  # None behind a NAT box, which is IPv4 only
    behind: str | None


@dataclass(frozen=True, slots=True)
class LabHostStatus:
    name: str
    running: bool
    address: LabAddress


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab that was up and then lost its keeper (killed, or the machine was rebooted) is not running."""

    name: str
    running: bool
    hosts: tuple[LabHostStatus, ...]
