"""Bundles: what each host receives, finished. Roles place it and decide nothing.

A bundle is the text of NAME.conf (a Secret: it holds keys), its digest H, the canonical text that a report is compared
with, the hosts block and the manifest (contracts §7). A host's bundle holds its own private key and no one else's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_interface

from meshctl.core import canonical, wgconf
from meshctl.core.canonical import PublicConf
from meshctl.core.errors import Invalid, Problem
from meshctl.core.keys import KeyRing, Secret, psk
from meshctl.core.mesh import Host, Mesh
from meshctl.core.wgconf import HostLine, WgConf, WgPeer


@dataclass(frozen=True, slots=True)
class Bundle:
    """`id` is H of contracts §3, the SHA-256 of `conf`; `conf_sha256` that of `canonical`.

    `public` is None when the host is to be absent.
    """

    host: str
    name: str
    version: str
    conf: Secret[str]
    id: str
    public: PublicConf | None
    canonical: str
    conf_sha256: str
    hosts: str
    manifest: str

    def files(self) -> dict[str, Secret[str]]:
        """File name → text, as `meshctl render` writes them below DIR/HOST."""
        return {f"{self.name}.conf": self.conf, "hosts": Secret(self.hosts), "manifest.json": Secret(self.manifest)}


def render(mesh: Mesh, ring: KeyRing, version: str) -> dict[str, Bundle]:
    """A bundle for each host of the mesh. Invalid when the ring lacks a key; flow grows it first."""
    lacking = [name for name in mesh.hosts if name not in ring.private]
    lacking += [
        f"the next key of {name}"
        for name, host in mesh.hosts.items()
        if host.next_public_key is not None and name not in ring.next_private
    ]
    lacking += [] if ring.psk_root else ["the PSK root"]
    if lacking:
        what = f"mesh.keys lacks {', '.join(lacking)}"
        raise Invalid([Problem(what, None, "restore mesh.keys from your backup", "keys")])
    return {name: _bundle(name, mesh.name, version, configure(mesh, host, ring)) for name, host in mesh.hosts.items()}


def absent(mesh_name: str, host: str, version: str) -> Bundle:
    """The bundle of a host that leaves: the empty configuration."""
    return _bundle(host, mesh_name, version, None)


def configure(mesh: Mesh, host: Host, ring: KeyRing) -> WgConf:
    """The configuration of one host: its own private key, and a pre-shared key for each of its links."""

    def shared(peer: str, epoch: int | None) -> Secret[bytes] | None:
        root = ring.root(epoch) if epoch is not None else None
        return psk(root, host.name, peer, epoch) if root is not None and epoch is not None else None

    return WgConf(
        private_key=ring.private[host.name],
        next_private_key=ring.next_private[host.name] if host.next_public_key is not None else None,
        name=host.name,
        addresses=tuple(ip_interface(a) for a in host.addresses),
        listen_port=host.port,
        mtu=host.mtu,
        relay=host.relay,
        forward=host.lan,
        exit=host.exit,
        hosts=_host_lines(mesh, host),
        # a mesh of one IP version has no route for the other one, which would go on by itself
        kill_switch=host.kill_switch is not None or (host.route is not None and not host.route.users),
        kill_switch_allow=host.kill_switch.allow if host.kill_switch is not None else (),
        route_users=host.route.users if host.route is not None else (),
        peers=tuple(
            WgPeer(
                name=peer.name,
                public_key=peer.public_key,
                next_public_key=peer.next_public_key,
                preshared_key=shared(peer.name, mesh.psk_epoch),
                next_preshared_key=shared(peer.name, mesh.next_psk_epoch),
                allowed_ips=peer.allowed_ips,
                endpoint=peer.endpoint,
                keepalive_s=peer.keepalive_s,
            )
            for peer in host.peers
        ),
    )


def _host_lines(mesh: Mesh, host: Host) -> tuple[HostLine, ...]:
    """The names of this host and of those it can talk with; a name that leads nowhere is better not known."""
    names = sorted((host.name, *mesh.reached_by(host.name)))
    return tuple(HostLine(a, (n, f"{n}.{mesh.name}")) for n in names for a in mesh.hosts[n].addresses)


def _bundle(host: str, name: str, version: str, conf: WgConf | None) -> Bundle:
    # no version and no date in the header: the same mesh is the same bytes in every release
    header = f"{name} on {host}: written by meshctl, which undoes changes by hand at its next apply"
    text = wgconf.format(conf, header)
    digest = sha256(text.reveal().encode()).hexdigest()
    public = canonical.public(conf)
    text_of_public = canonical.format(public)
    conf_sha256 = sha256(text_of_public.encode()).hexdigest()
    manifest = {
        "schema": 1,
        "name": name,
        "version": version,
        "conf_id": digest,
        "conf_sha256": conf_sha256,
    }
    return Bundle(
        host=host,
        name=name,
        version=version,
        conf=text,
        id=digest,
        public=public,
        canonical=text_of_public,
        conf_sha256=conf_sha256,
        hosts="".join(f"{line}\n" for line in (public.hosts if public else ())),
        manifest=json.dumps(manifest, separators=(",", ":")) + "\n",
    )
