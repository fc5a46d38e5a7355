"""parse: a tree becomes a Spec, or every problem of the file at once.

First the shape (shape.py): words and single values. Then, on what is right of them, the rules that need two places of
the file, which are here. Nothing is repaired silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from meshctl.core import ip, names, shape, tree
from meshctl.core.errors import Invalid, Where
from meshctl.core.shape import Path
from meshctl.core.spec import Full, HostSpec, Hub, LabSpec, Lines, Links, Route, Spec, Users

if TYPE_CHECKING:
    from meshctl.core.language import Defaults, Host, MeshFile


def parse(document: tree.Tree, file: str) -> Spec:
    """The Spec that this document describes. Invalid holds every problem, each with line, column and hint."""
    return _Parser(document, file).spec()


class _Parser:
    def __init__(self, document: tree.Tree, file: str) -> None:
        self.document = shape.Document(document, file)
        self.tree, self.problems = self.document.tree, self.document.problems
        self._add, self._where = self.document.add, self.document.where

    def spec(self) -> Spec:
        if not isinstance(self.tree, tree.Map):
            self._add((), "this file is not a mesh", "start it with mesh: NAME and hosts:", "type")
            raise Invalid(self.problems)
        declared = self._names()
        words = shape.words(self.document)
        if words is None:
            raise Invalid(self.problems)
        hosts = {name: self._host(name, host, words) for name, host in sorted(words.hosts.items())}
        networks = tuple(words.network or ())
        groups = {g for h in hosts.values() for g in h.groups}
        self._check_networks(networks)
        self._check_groups(hosts, declared)
        self._check_ssh(hosts)
        self._check_lans(hosts, networks)
        self._check_addresses(hosts, networks)
        hosts = self._routed(hosts, words, declared)
        links = self._links(words, declared, groups)
        lab = self._lab(words, declared)
        if self.problems:
            raise Invalid(self.problems)
        return Spec(words.mesh, self._where(("mesh",)), hosts, ip.sort_nets(networks), links, lab)

    def _host(self, name: str, host: Host, words: MeshFile) -> HostSpec:
        """A host's words, else those of `defaults:`, else those of the whole file."""
        base = words.defaults
        return HostSpec(
            name=name,
            ssh=host.ssh,
            where=self._where(("hosts", name), key=True),
            nat=_first(host.nat, base and base.nat, False),
            endpoint=host.endpoint,
            lan=ip.sort_nets(host.lan or ()),
            groups=frozenset(_first(host.groups, base and base.groups, [])),
            owner=_first(host.owner, base and base.owner, None),
            note=_first(host.note, base and base.note, None),
            at=_first(host.at, base and base.at, None),
            port=_first(host.port, base and base.port, words.port),
            mtu=_first(host.mtu, base and base.mtu, words.mtu),
            addresses=tuple(host.address or ()),
            kill_switch=_own_or(host, base, "kill_switch"),
            exit=bool(host.exit),
            closed_at=self._closed_at(name, host, base),
        )

    def _closed_at(self, name: str, host: Host, base: Defaults | None) -> Where | None:
        users: Users | None = _own_or(host, base, "route")
        closing = {"kill_switch": _own_or(host, base, "kill_switch"), "route": users and not users.only}
        for word in (word for word, closes in closing.items() if closes):
            own = word in host.model_fields_set
            return self._where(("hosts", name, word) if own else ("defaults", word), key=True)
        return None

    # the rules between two places

    def _names(self) -> frozenset[str]:
        """Every host the file declares, faulty ones too, so that a link to one of those isn't a second problem."""
        hosts = self.tree.get("hosts") if isinstance(self.tree, tree.Map) else None
        if hosts is None or not isinstance(hosts.value, tree.Map):
            return frozenset()
        if not hosts.value.entries:
            self._add(("hosts",), "there is no host", "add a line NAME: user@host", "missing", key=True)
        return frozenset(e.key.text for e in hosts.value.entries)

    def _check_networks(self, networks: Sequence[ip.Net]) -> None:
        for i, net in enumerate(networks):
            path = ("network", i)
            if any(net.version == other.version for other in networks[:i]):
                hint = "keep one network for each IP version"
                self._add(path, f"a second IPv{net.version} network: {net}", hint, "network")
            room = net.max_prefixlen - net.prefixlen
            if room < 2:
                self._add(path, f"{net} has no room for hosts", f"write {net.network_address}/24", "network")
            if not net.is_private and not _carrier_grade(net):
                hint = "take a private one, like 10.77.0.0/16 or fd12:3456:789a::/64"
                self._add(path, f"{net} belongs to the internet", hint, "network")
            elif net.is_loopback or net.is_link_local or net.is_multicast or net.is_unspecified:
                hint = "take a private one, like 10.77.0.0/16 or fd12:3456:789a::/64"
                self._add(path, f"{net} has a meaning of its own on every host", hint, "network")

    def _check_groups(self, hosts: dict[str, HostSpec], declared: frozenset[str]) -> None:
        for name, host in hosts.items():
            for group in sorted(host.groups & declared):
                path = ("hosts", name, "groups")
                self._add(path, f"{group} is a host, so it can't be a group too", "rename the group", "duplicate")

    def _check_ssh(self, hosts: dict[str, HostSpec]) -> None:
        owner: dict[tuple[str, int | None], str] = {}
        for name, host in hosts.items():
            first = owner.setdefault((host.ssh.host, host.ssh.port), name)
            if first != name:
                what = f"{name} has the SSH address of {first}, and one machine is one host"
                self._add(("hosts", name), what, "delete one of the two", "duplicate", key=True)

    def _check_lans(self, hosts: dict[str, HostSpec], networks: Iterable[ip.Net]) -> None:
        lans = [(name, net) for name, host in hosts.items() for net in host.lan]
        for name, net in lans:
            path = ("hosts", name, "lan")
            if net.prefixlen == 0:
                hint = "name the network behind this host; for a way out to the internet write exit: true"
                self._add(path, f"lan {net} is the whole internet", hint, "cidr")
            elif net.is_loopback or net.is_link_local or net.is_multicast:
                hint = "name the network behind this host, like 192.168.20.0/24"
                self._add(path, f"lan {net} never leaves a host", hint, "cidr")
            for own in networks:
                if ip.overlap(net, own):
                    hint = "choose another network: for the mesh"
                    self._add(path, f"lan {net} overlaps the mesh's own network {own}", hint, "overlap")
        for (a, left), (b, right) in combinations(lans, 2):
            if ip.overlap(left, right):
                first = self._where(("hosts", a, "lan")).line
                what = f"lan {right} of {b} overlaps lan {left} of {a} (line {first})"
                hint = "give each network to one host" if a != b else "name each network once"
                self._add(("hosts", b, "lan"), what, hint, "overlap")

    def _check_addresses(self, hosts: dict[str, HostSpec], networks: Sequence[ip.Net]) -> None:
        taken: dict[ip.Addr, str] = {}
        for name, host in hosts.items():
            for i, addr in enumerate(host.addresses):
                path = ("hosts", name, "address", i)
                nets = [n for n in networks if n.version == addr.version]
                if not networks:
                    hint = "add network: with the network it belongs to"
                    self._add(path, f"{addr} needs a network of your own choice", hint, "address")
                elif not nets or addr not in nets[0]:
                    hint = f"the mesh's network is {', '.join(map(str, networks))}"
                    self._add(path, f"{addr} is not in the mesh's network", hint, "address")
                elif addr == nets[0].network_address or (addr.version == 4 and addr == nets[0].broadcast_address):
                    self._add(path, f"{addr} is no host's address in {nets[0]}", "take the next one", "address")
                elif any(a.version == addr.version for a in host.addresses[:i]):
                    self._add(path, f"a second IPv{addr.version} address: {addr}", "keep one", "address")
                elif addr in taken:
                    self._add(path, f"{addr} is the address of {taken[addr]} too", "give it to one host", "duplicate")
                taken.setdefault(addr, name)

    def _routed(self, hosts: dict[str, HostSpec], words: MeshFile, declared: frozenset[str]) -> dict[str, HostSpec]:
        """The hosts with their way out."""
        exits = sorted(name for name, host in hosts.items() if host.exit)
        found = dict(hosts)
        for name, host in hosts.items():
            users: Users | None = _own_or(words.hosts[name], words.defaults, "route")
            self._check_exit(host, words.hosts[name], users)
            if users is not None and not host.exit:
                # a host that was taken out for a fault of its own might have been the exit
                via = self._via(name, words, exits, declared, whole=hosts.keys() == declared)
                found[name] = replace(host, route=Route(via, users.only) if via is not None else None)
        return found

    def _check_exit(self, host: HostSpec, own: Host, users: Users | None) -> None:
        path = ("hosts", host.name)
        if host.exit and host.kill_switch is not None:
            hint = f"take exit out, or write kill_switch: false for {host.name}"
            self._add((*path, "exit"), "a closed host lets nobody's packets out, so it can't be an exit", hint, "exit")
        elif host.exit and own.route is not None:
            self._add((*path, "route"), "what an exit sends leaves by itself", "take one of the two out", "exit")
        elif users is not None and users.only and host.kill_switch is not None:
            hint = f"write route: all, or kill_switch: false for {host.name}"
            self._add((*path, "route"), "a way out for some users of a host that is closed to all", hint, "exit")
        elif users is None and own.via is not None:
            hint = "take via out, or add route: all"
            self._add((*path, "via"), f"nothing of {host.name} leaves by an exit", hint, "exit")

    def _via(
        self, name: str, words: MeshFile, exits: Sequence[str], declared: frozenset[str], *, whole: bool
    ) -> str | None:
        """The exit that this host leaves by."""
        own, path = words.hosts[name], ("hosts", name)
        via: str | None = _first(own.via, words.defaults and words.defaults.via)
        if via is not None:
            at = (*path, "via") if own.via is not None else ("defaults", "via")
            if self._known(via, at, declared, declared) and via not in exits and whole:
                self._add(at, f"{via} is no exit", f"add exit: true to {via}", "exit")
        elif len(exits) == 1:
            via = exits[0]
        elif exits:
            what = f"{name} has several exits to choose from: {', '.join(exits)}"
            self._add((*path, "route"), what, f"add via: {exits[0]}", "exit")
        elif whole:
            hint = "add exit: true to the host that this traffic leaves by"
            self._add((*path, "route"), "there is no exit in this mesh", hint, "exit")
        return via

    def _links(self, words: MeshFile, declared: frozenset[str], groups: set[str]) -> Links:
        if isinstance(words.links, str):
            return Full()
        if isinstance(words.links, list):
            for i, sides in enumerate(words.links):
                for side in sides:
                    self._known(side, ("links", i), declared, declared | groups | {names.ANY})
                if sides[0] == sides[1] and sides[0] in declared:
                    self._add(("links", i), f"{sides[0]} is linked with itself", "name another host", "self-link")
            return Lines(tuple(words.links))
        for i, hub in enumerate(words.links.hub):
            self._known(hub, ("links", "hub", i), declared, declared)
            if hub in words.links.hub[:i]:
                self._add(("links", "hub", i), f"hub {hub} is named twice", "name it once", "duplicate")
        return Hub(tuple(words.links.hub))

    def _lab(self, words: MeshFile, declared: frozenset[str]) -> LabSpec:
        if words.lab is None:
            return LabSpec()
        for name in words.lab.hosts:
            self._known(name, ("lab", "hosts", name), declared, declared, key=True)
        if words.lab.loss > 1:
            self._add(("lab", "loss"), "more than all packets can't be lost", "write a loss of at most 100%", "range")
        behind = {name: host.behind == "nat" for name, host in sorted(words.lab.hosts.items())}
        return LabSpec(words.lab.latency, words.lab.loss, behind)

    def _known(self, name: str, path: Path, hosts: frozenset[str], known: frozenset[str], *, key: bool = False) -> bool:
        if name in known:
            return True
        nouns = "host" if known == hosts else "host or group"
        hint = names.did_you_mean(name, known) or f"declared: {', '.join(sorted(known - {names.ANY})[:12])}"
        self._add(path, f"there is no {nouns} {name}", hint, "unknown-name", key=key)
        return False


def _own_or(host: Host, base: Defaults | None, word: str) -> Any:  # noqa: ANN401 - the word's type
    """A host's word, be it false, else that of `defaults:`."""
    return getattr(host if word in host.model_fields_set else base or host, word)


def _first(*values: Any) -> Any:  # noqa: ANN401 - the types are those of the words it chooses from
    return next((v for v in values if v is not None), None)


def _carrier_grade(net: ip.Net) -> bool:
    """100.64.0.0/10 (RFC 6598): not private by Python's table, in use for overlays all the same."""
    return ip.inside(net, ip.parse_net("100.64.0.0/10"))
