"""The river: mesh.yaml ─read→ Files ─ways→ Roads ─observe→ Reports ─desire→ Desired ─diff→ Plan.

One Session is one command's run: it reads the files once, finds the road to each host once, and keeps one connection a
host. Reading and planning write nothing; `persist` is the one place that does, keys before the lock, since a lock
without its keys is an error and keys without their lock are not.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

from meshctl.core import bundle, closed, keys, lock, machines, mesh, names, parse, plan, report, status
from meshctl.core.bundle import Bundle
from meshctl.core.errors import Failed, HostError, Invalid, Problem, Where
from meshctl.core.keys import KeyRing, Secret
from meshctl.core.lock import Lock
from meshctl.core.mesh import Finding, Mesh, Place
from meshctl.core.plan import Plan, Release
from meshctl.core.report import Report, Vitals
from meshctl.core.spec import Spec, SshAddress
from meshctl.core.status import Status
from meshctl.flow import labs, safekeeping
from meshctl.flow.progress import Progress, Silent
from meshctl.shell import assets, bundledir, keyring, meshdir, sshconfig, yamlfile
from meshctl.shell.completed import Completed
from meshctl.shell.keyring import VaultSource
from meshctl.shell.meshdir import MeshDir
from meshctl.shell.observe import answered, observe
from meshctl.shell.ssh import Command, Pool, at_once
from meshctl.shell.sshconfig import Road
from meshctl.version import VERSION

MESHD = "/usr/local/bin/meshd"
_MESHD_ITSELF = "/usr/local/lib/meshd/current/meshd"
_PROBE_WAIT = 6  # seconds: a handshake that got lost is tried again after 5 (WireGuard paper, REKEY_TIMEOUT)
_NOT_RUNNING, _NOT_THERE = 4, 127  # exit statuses of meshd (contracts §3) and of a shell


@dataclass(frozen=True, slots=True)
class Run:
    """What the command line asked for."""

    mesh: MeshDir
    vault: VaultSource = field(default_factory=VaultSource)
    prompt: Callable[[str], str] = input
    become_password: Secret[bytes] | None = None
    lab: bool = False
    limit: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True, slots=True)
class Files:
    """The mesh's files, read. `lock` and `ring` are None when there is no such file yet, or it wasn't needed."""

    spec: Spec
    lock: Lock | None
    ring: KeyRing | None
    password: Secret[bytes] | None

    def destinations(self) -> dict[str, SshAddress]:
        """How each member and each leaving host is reached."""
        known = {name: host.ssh for name, host in self.spec.hosts.items()}
        old = {} if self.lock is None else dict(self.lock.leaving) | dict(self.lock.hosts)
        return {name: ssh_address(host.ssh) for name, host in sorted(old.items()) if name not in known} | known


@dataclass(frozen=True, slots=True)
class Desired:
    """What there is to be: the mesh, what must be kept of it, and what each host receives."""

    mesh: Mesh
    lock: Lock
    ring: KeyRing
    bundles: Mapping[str, Bundle]


def read_spec(run: Run) -> Spec:
    """mesh.yaml alone."""
    shown = str(run.mesh.yaml)
    return parse.parse(yamlfile.read(run.mesh.yaml, shown), shown)


def read_lock(run: Run) -> Lock | None:
    """mesh.lock, or None when there is none yet."""
    path = run.mesh.lock
    return lock.read(yamlfile.read(path, str(path)), str(path)) if path.exists() else None


def read(run: Run, *, secrets: bool = True) -> Files:
    """The files of the mesh; Invalid holds the problems of the first that has any. Without `secrets` no key is read."""
    spec, locked, shown = read_spec(run), read_lock(run), str(run.mesh.keys)
    if not secrets:
        return Files(spec, locked, None, None)
    password = run.vault.password(run.prompt)
    ring = keyring.read(run.mesh.keys, password)
    public = locked.public_keys() if locked else {}
    if ring is None and public:
        count = "a host" if len(public) == 1 else f"{len(public)} hosts"
        what = f"{shown} is missing, and {run.mesh.lock.name} knows {count}"
        hint = f"restore {run.mesh.keys.name} from your backup; only to start anew delete {run.mesh.lock.name} too"
        raise Invalid([Problem(what, Where(shown), hint, "keys")])
    if ring is not None:
        keys.check(ring, public, shown, locked.next_public_keys() if locked else {})
    return Files(spec, locked, ring, password)


def meant(files: Files, places: Mapping[str, Place]) -> tuple[Mesh, Lock]:
    """The mesh as far as it can be known without any secret: hosts that have no key yet get one that is forgotten."""
    drawn = keyring.grown(KeyRing(), files.spec.hosts).public()
    public = drawn | (files.lock.public_keys() if files.lock else {})
    return mesh.resolve(files.spec, files.lock, public, places, {})


def desire(files: Files, places: Mapping[str, Place], ports: Mapping[str, frozenset[int]]) -> Desired:
    """Resolve and render. Keys that don't exist yet are drawn here and live in memory until `persist`."""
    ring = files.ring or KeyRing()
    if (locked := files.lock) is not None:
        coming = locked.rotation.psk_epoch if locked.rotation is not None else None
        ring = keys.settled(ring, locked.public_keys(), locked.next_public_keys(), locked.psk_epoch, coming)
    ring = keyring.grown(ring, files.spec.hosts)
    resolved, locked = mesh.resolve(files.spec, files.lock, ring.public(), places, ports)
    return Desired(resolved, locked, ring, bundle.render(resolved, ring, VERSION))


def persist(run: Run, files: Files, locked: Lock, ring: KeyRing | None) -> None:
    """Write what must not be lost, before the first host is touched; a file that is right already is left alone."""
    encrypted = keyring.is_encrypted(run.mesh.keys)
    if ring is not None and (ring != files.ring or (files.password is not None and not encrypted)):
        keyring.write(run.mesh.keys, ring, files.password)
    if locked != files.lock:
        meshdir.write(run.mesh.lock, lock.format(locked))


def keys_stay_shut(run: Run) -> bool:
    """Whether mesh.keys is encrypted and no password is given for it."""
    return keyring.is_encrypted(run.mesh.keys) and not run.vault.given


def check(run: Run) -> Mesh:
    """Everything that can be known without contacting anybody; encrypted keys are opened if a password is given."""
    files = read(run, secrets=not keys_stay_shut(run))
    places = {name: place for name, (_, place) in _roads(files).items()} if sshconfig.available() else {}
    refuse(files, places)
    found = meant(files, places)[0]
    told = (*closed.findings(found, places), *safekeeping.unlocked(files.lock, files.ring))
    return _kept(run, replace(found, findings=(*found.findings, *told)))


def refuse(files: Files, places: Mapping[str, Place]) -> None:
    """Invalid when a host would be closed to everybody who could mend it, or is another's machine, as far as addresses
    tell.
    """
    if doubles := machines.problems(files.spec, places):
        raise Invalid(doubles)
    if not any(host.closed_at is not None for host in files.spec.hosts.values()):
        return  # the usual case, and cheap
    if problems := closed.problems(meant(files, places)[0], places):
        raise Invalid(problems)


def _kept(run: Run, found: Mesh) -> Mesh:
    """With what is to be said of the safekeeping of its keys."""
    return replace(found, findings=(*found.findings, *safekeeping.findings(run.mesh, run.vault)))


def render(run: Run, folder: Path) -> Desired:
    """Write the bundles of all members; nobody is contacted. Their keys and addresses are kept: they are real."""
    with meshdir.run_lock(run.mesh):  # from before the reading: another run's new keys must not be overwritten
        files = read(run)
        desired = desire(files, {name: place for name, (_, place) in _roads(files).items()}, {})
        persist(run, files, desired.lock, desired.ring)
        bundledir.write(folder, desired.bundles.values())
    return replace(desired, mesh=_kept(run, desired.mesh))


def release() -> Release:
    """The daemon that this meshctl carries."""
    return Release(VERSION, assets.binaries())


def ssh_address(text: str) -> SshAddress:
    """mesh.lock's `[user@]host[:port]`, which SshAddress wrote."""
    user, _, rest = text.rpartition("@")
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = rest.partition(":")
    return SshAddress(host, user or None, int(port) if port.isdecimal() else None)


class Session:
    """One run against the hosts; a context manager, which closes the connections."""

    def __init__(self, run: Run, *, secrets: bool = True) -> None:
        self.run = replace(run, mesh=labs.own(run.mesh, read_spec(run).mesh)) if run.lab else run
        self.files = read(self.run, secrets=secrets)
        self.hosts = self._chosen()
        lab = labs.roads(self.files.spec) if run.lab else None  # enters the lab: before any thread is made
        found = _roads(self.files)
        self.places = {name: place for name, (_, place) in found.items()}
        self.renamed = machines.renamed(self.files.spec, self.files.lock, self.places) if self.files.lock else {}
        self.faults = {name: road for name, (road, _) in found.items() if isinstance(road, HostError) and lab is None}
        roads = lab or {name: road for name, (road, _) in found.items() if isinstance(road, Road)}
        self.roads = {name: self._pinned(name, road) for name, road in roads.items() if name in self.hosts}
        password = run.become_password.reveal() if run.become_password else None
        self.pool = Pool(self.roads, become_password=password)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def observe(self) -> dict[str, Report | HostError]:
        """One connection and one command a host."""
        told = self.run.progress
        told.phase("observe", tuple(self.roads))
        seen = observe(self.pool, self.roads, self.files.spec.mesh, lambda host: told.step(host, "observe", "done"))
        return seen | {name: fault for name, fault in self.faults.items() if name in self.hosts}

    def keep(self, locked: Lock, ring: KeyRing | None = None) -> None:
        """Write the lock, and the ring if there is another one, and go on with them."""
        ring = ring or self.files.ring
        persist(self.run, self.files, locked, ring)
        self.files = replace(self.files, lock=locked, ring=ring)

    def desire(self, reports: Mapping[str, Report | HostError], files: Files | None = None) -> Desired:
        """The desired mesh, of these files or of those on disk; a new host's port avoids the ones in use there. Pins
        that known_hosts held are kept.
        """
        ports = {name: seen.ports for name, seen in reports.items() if isinstance(seen, Report)}
        desired = desire(files or self.files, self.places, ports)
        locked = desired.lock
        for name, road in self.roads.items():
            if not self.run.lab and road.host_keys and not locked.ssh_host_keys(name):
                locked = lock.pin(locked, name, road.host_keys)
        return replace(desired, lock=locked, mesh=self._hinted(desired.mesh))

    def changing(self, locked: Lock) -> tuple[Finding, ...]:
        """A change of keys that is under way, with hints for the hosts that this run is about."""
        found = mesh.changing(locked)
        return tuple(replace(f, hint=labs.hint(f.hint)) for f in found) if self.run.lab else found

    def _hinted(self, resolved: Mesh) -> Mesh:
        if not self.run.lab:
            return resolved
        said = (replace(f, hint=labs.hint(f.hint)) if f.code == "rotation" else f for f in resolved.findings)
        return replace(resolved, findings=tuple(said))

    def diff(self, desired: Desired, reports: Mapping[str, Report | HostError]) -> Plan:
        limit = frozenset(self.hosts) if self.run.limit else None
        return plan.diff(desired.mesh, desired.bundles, reports, desired.lock, release(), limit=limit)

    def ping(self, hosts: Iterable[str], wait: int = _PROBE_WAIT) -> dict[str, Vitals | HostError]:
        """Every link of these hosts, probed now; meshd waits at most `wait` seconds for the answers."""
        name = self.files.spec.mesh
        ping = f"{name} --wait {wait} --json"
        # a link that somebody deleted is no reason not to ask
        script = f"[ -x {MESHD} ] && exec {MESHD} ping {ping}; exec {_MESHD_ITSELF} ping {ping}"
        command = Command(shlex.join(["sh", "-c", script]), timeout=wait + 20.0)
        answers = self.pool.run_all(dict.fromkeys(hosts, command))
        vitals: dict[str, Vitals | HostError] = {}
        gone = [host for host, answer in answers.items() if isinstance(answer, Completed) and answer.exit == _NOT_THERE]
        why = observe(self.pool, gone, name)
        apply = "meshctl apply --lab" if self.run.lab else "meshctl apply"
        for host, answer in answers.items():
            if not isinstance(answer, HostError) and answer.exit == _NOT_RUNNING:
                vitals[host] = Vitals(name, "", "down")
            elif host in why:
                seen = why[host]
                vitals[host] = seen if isinstance(seen, HostError) else _unasked(seen, apply)
            else:
                vitals[host] = answered(host, answer, partial(report.vitals, host))
        return vitals

    def status(self) -> Status:
        """Every link probed from both ends; with --limit, what these hosts can say."""
        told = self.run.progress
        members = [name for name in self.roads if name in self.files.spec.hosts]
        told.phase("probe", tuple(members))
        vitals = self.ping(members) | {n: f for n, f in self.faults.items() if n in self.hosts}
        judged = status.judge(self._hinted(meant(self.files, self.places)[0]), vitals)
        return status.asked(judged, vitals) if self.run.limit else judged

    def _chosen(self) -> frozenset[str]:
        """The hosts that may be touched: all of them, or those of --limit."""
        known = self.files.destinations()
        for name in self.run.limit:
            if name not in known:
                raise Failed(
                    f"there is no host {name}", names.did_you_mean(name, known) or f"hosts: {', '.join(known)}"
                )
        return frozenset(self.run.limit or known)

    def _pinned(self, name: str, road: Road) -> Road:
        """With the pins of mesh.lock; else with what the user's known_hosts holds. A lab brings its own."""
        if self.run.lab:
            return road
        locked, old = self.files.lock, self.renamed.get(name)
        pins = locked.ssh_host_keys(name) or (locked.ssh_host_keys(old) if old else ()) if locked else ()
        return road.pinned(pins or sshconfig.known_keys(road))


def _unasked(seen: Report, hint: str) -> HostError:
    return HostError(seen.host, "report", status.unasked(seen), hint)


def _roads(files: Files) -> dict[str, tuple[Road | HostError, Place]]:
    """The user's OpenSSH, asked for each host at once."""
    known = files.destinations()

    def ask(name: str) -> tuple[Road | HostError, Place]:
        address = known[name]
        destination = f"{address.user}@{address.host}" if address.user else address.host
        try:
            road = sshconfig.resolve(name, destination, port=address.port)
        except HostError as error:
            return error, Place()
        direct = road.proxyjump is None and road.proxycommand is None
        return road, Place(road.hostname, direct=direct, port=road.port)

    return at_once(known, ask)
