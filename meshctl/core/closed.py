"""Closed: hosts whose SSH answers could not leave any more, told before anything is changed.

A host with `kill_switch:`, or `route: all`, lets nothing out past the mesh but what is near it and what its kill switch
allows; the SSH server's answers are none of that for a client on the internet. Where the client comes from is known
once a host was asked (contracts §6, `ssh`), and in part from its address alone: who connects to an address of the
internet comes from the internet too. meshd judges again when it is handed the configuration (meshd's closed.rs, whose
lists these are), and alone whose the SSH server is where `route: {users: …}` keeps some users in.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from meshctl.core import ip
from meshctl.core.errors import HostError, Problem
from meshctl.core.mesh import Finding, Host, Mesh, Place

_NEAR = tuple(
    map(
        ip.parse_net,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
            *("fc00::/7", "fe80::/10", "ff00::/8"),
        ),
    )
)


def problems(mesh: Mesh, places: Mapping[str, Place]) -> list[Problem]:
    """The hosts that can't answer anybody who reaches them at the address that they have."""
    found = []
    for name, host in mesh.hosts.items():
        client = _address(host, places.get(name, Place()))
        if client is None or (host.kill_switch is not None and host.kill_switch.allow) or _leaves(mesh, host, client):
            continue
        if any(client in net for net in mesh.networks):
            continue  # who reaches it by the mesh is answered by the mesh
        what = f"{_word(host)} would lock you out of {name}: answers of its SSH server could not leave for the internet"
        found.append(Problem(what, host.closed_at, _hint(host, host.ssh.port or 22), "locked-out"))
    return found


def findings(mesh: Mesh, places: Mapping[str, Place]) -> tuple[Finding, ...]:
    """The hosts of which only a run that contacts them can tell; apply refuses where it does."""
    return tuple(
        Finding(
            "locked-out",
            (name,),
            f"{_word(host)} lets no SSH answer of {name} leave for the internet: apply refuses it from there",
            f"{_hint(host, host.ssh.port or 22)}; from its private network or over the mesh all is well",
        )
        for name, host in mesh.hosts.items()
        if _shut(mesh, host)
        and (host.kill_switch is None or not host.kill_switch.allow)
        and _address(host, places.get(name, Place())) is None
    )


def refused(mesh: Mesh, host: Host, ssh: tuple[ip.Addr, int] | None) -> HostError | None:
    """Why this host is not to be closed, given the client and the server's port of the connection it was asked by."""
    if ssh is None:
        return None
    client, port = ssh
    if (host.kill_switch is not None and port in host.kill_switch.allow) or _leaves(mesh, host, client):
        return None
    at = f"{host.closed_at}: " if host.closed_at is not None else ""
    what = (
        f"{at}{_word(host)} would lock you out of {host.name}: you are connected from {ip.addr_text(client)}, and "
        f"answers of its SSH server at port {port} could not leave any more"
    )
    return HostError(host.name, "locked-out", what, f"{_hint(host, port)}, or connect over the mesh")


def _hint(host: Host, port: int) -> str:
    allowed = host.kill_switch.allow if host.kill_switch is not None else ()
    services = ", ".join(f"tcp/{number}" for number in sorted({*allowed, port}))
    return f"write kill_switch: {{allow: [{services}]}} for {host.name}"


def _word(host: Host) -> str:
    return "kill_switch" if host.kill_switch is not None else "route: all"


def _shut(mesh: Mesh, host: Host) -> frozenset[int]:
    """The IP versions of which nothing of the SSH server's leaves but by the mesh."""
    if host.kill_switch is not None:
        return frozenset({4, 6})
    if host.route is not None and not host.route.users:
        return frozenset(net.version for net in mesh.networks)
    return frozenset()


def _leaves(mesh: Mesh, host: Host, client: ip.Addr) -> bool:
    """Whether answers to this client leave, by the mesh or because it is near."""
    if client.version not in _shut(mesh, host) or client.is_loopback:
        return True
    meshed = (net for peer in host.peers for net in peer.allowed_ips if net.prefixlen > 1)
    return any(client in net for net in (*_NEAR, *meshed))


def _address(host: Host, place: Place) -> ip.Addr | None:
    """Where this host is reached over SSH, if that is an address and nothing stands between."""
    try:
        return ip_address(place.endpoint_host or host.ssh.host) if place.direct else None
    except ValueError:
        return None
