"""Changes: what differs between three views of one interface, in words that an operator knows.

A configuration is broken down into facts (`peer b: endpoint` → `b.example.com:51820`), one an item, so that a
difference is one line however long the list it stands in. Three views are compared: what is desired, what is confirmed
on disk, and what runs. A fact that was changed on purpose differs between desired and disk; drift is what differs
although the disk agrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meshctl.core import ip
from meshctl.core.canonical import PublicConf, PublicPeer
from meshctl.core.keys import PublicKey
from meshctl.core.wgconf import services_text

LINKED = "linked"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; None is "not there". `drift` means that it was changed behind meshctl's back and is put right."""

    what: str
    before: str | None
    after: str | None
    drift: bool = False


Fact = tuple[str, str]
"""What it is about, and for items of a list which one (else empty)."""


def compare(
    desired: PublicConf,
    conf: PublicConf | None,
    running: PublicConf | None,
    names: Mapping[PublicKey, str],
    *,
    applied: bool,
) -> tuple[Change, ...]:
    """What must change so that `running` and `conf` are `desired`.

    `running` None leaves the live view out (a stopped daemon is a change of its own). `names` are the hosts of public
    keys; `applied` says that the desired configuration was already applied here, so that every difference is drift.
    """
    want = facts(desired, names)
    disk = facts(conf, names) if conf is not None else {}
    live = facts(running, names) if running is not None else disk
    found = []
    for fact in sorted(want.keys() | disk.keys() | live.keys(), key=_order):
        after, on_disk, now = want.get(fact), disk.get(fact), live.get(fact)
        drift = applied or on_disk == after
        if after == on_disk == now or (fact[0] == "route" and on_disk != after):
            continue  # routes follow from allowed-ips: only one that went missing is news
        before = now if now != after else on_disk
        found.append(Change(fact[0], before, after, drift))
    return tuple(_without_details(found))


def facts(conf: PublicConf, names: Mapping[PublicKey, str]) -> dict[Fact, str]:
    return dict(_facts(conf, names))


def _facts(conf: PublicConf, names: Mapping[PublicKey, str]) -> Iterator[tuple[Fact, str]]:
    singles: tuple[tuple[str, object], ...] = (
        ("own name", conf.name),
        ("own public key", conf.public_key),
        ("own next public key", conf.next_public_key),
        ("port", conf.listen_port),
        ("mark", f"{conf.fwmark:#x}" if conf.fwmark else None),
        ("MTU", conf.mtu),
        ("table", conf.table if conf.table != "auto" else None),
        ("namespace", conf.namespace),
        ("relay", "on" if conf.relay else None),
        ("exit", "on" if conf.exit else None),
        ("kill switch", "on" if conf.kill_switch else None),
        ("kill switch lets answer", services_text(conf.kill_switch_allow)),
        ("default route for", ", ".join(conf.route_users)),
    )
    for what, value in singles:
        if value:
            yield (what, ""), str(value)
    lists: tuple[tuple[str, list[str]], ...] = (
        ("address", [ip.iface_text(a) for a in conf.addresses]),
        ("lan", [ip.net_text(n) for n in conf.forward]),
        ("route", [ip.net_text(n) for n in conf.routes]),
    )
    for what, items in lists:
        for item in items:
            yield (what, item), item
    for name, addresses in _by_name(conf.hosts).items():
        yield (f"name {name}", ""), ", ".join(addresses)
    for label, peer in _labelled(conf.peers, names).items():
        yield (f"peer {label}", ""), LINKED
        yield from _peer_facts(f"peer {label}: ", peer)


def _by_name(lines: tuple[str, ...]) -> dict[str, list[str]]:
    """The addresses of each name in the hosts block; of the names in a line the first is the host's."""
    found: dict[str, list[str]] = {}
    for line in lines:
        address, _, rest = line.partition(" ")
        found.setdefault(rest.partition(" ")[0], []).append(address)
    return found


def _labelled(peers: tuple[PublicPeer, ...], names: Mapping[PublicKey, str]) -> dict[str, PublicPeer]:
    """Peers by the name of their host; else by the name the configuration gives them, else by their key."""
    # a peer whose next key is the current one by now is still the same host
    both = {p: names.get(p.public_key) or names.get(p.next_public_key or p.public_key) for p in peers}
    known = {peer: name for peer, name in both.items() if name is not None}
    labelled = {name: p for p, name in known.items()}
    for peer in peers:
        if peer not in known:
            label = peer.name if peer.name and peer.name not in labelled else str(peer.public_key)
            labelled[label] = peer
    return labelled


def _peer_facts(prefix: str, peer: PublicPeer) -> Iterator[tuple[Fact, str]]:
    singles = (
        ("public key", str(peer.public_key)),
        ("name", peer.name),
        ("next public key", str(peer.next_public_key) if peer.next_public_key else None),
        ("pre-shared key", peer.preshared_key),
        ("next pre-shared key", peer.next_preshared_key),
        ("endpoint", peer.endpoint),
        ("keepalive", f"{peer.keepalive_s} s" if peer.keepalive_s else None),
        ("expires", peer.expires),
    )
    for what, value in singles:
        if value:
            yield (prefix + what, ""), value
    for net in peer.allowed_ips:
        text = ip.net_text(net)
        if net.prefixlen == 0:
            yield (prefix + "the way out", text), f"IPv{net.version}"
        else:
            yield (prefix + "allowed-ip", text), text


def _without_details(changes: list[Change]) -> Iterator[Change]:
    """A peer that is new or gone is one line; what it has or had, and its name, are not said again."""
    whole = {c.what for c in changes if LINKED in (c.before, c.after) and None in (c.before, c.after)}
    details = tuple(f"{what}: " for what in whole)
    names = {what.replace("peer ", "name ", 1) for what in whole}
    return (c for c in changes if not (details and c.what.startswith(details)) and c.what not in names)


def _order(fact: Fact) -> tuple[bool, str, str]:
    return fact[0].startswith("peer "), fact[0], fact[1]
