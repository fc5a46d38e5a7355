"""Plan: the difference between what is desired and what the hosts report; apply does the plan and nothing else.

diff compares each host's bundle with its report and names every difference in an operator's words: on purpose (create,
change, remove) or behind meshctl's back (drift). What is known to fail is an error of that host, and stops no other.
Plans hold no secret: they are printed, logged and sent as JSON. planjson.py makes the JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from meshctl.core import closed, ip, reach
from meshctl.core.bundle import Bundle
from meshctl.core.canonical import PublicConf
from meshctl.core.changes import Change, compare, facts
from meshctl.core.errors import HostError
from meshctl.core.keys import PublicKey
from meshctl.core.lock import Lock
from meshctl.core.mesh import Finding, Mesh
from meshctl.core.report import Configured, Daemon, FileState, Manifest, PlacedFile, Report
from meshctl.core.spec import Pair

Observed = Mapping[str, Report | HostError]
_TWICE = "same-machine"  # the code of a machine that is another host
BINARY = "/usr/local/lib/meshd/{version}/meshd"


class Action(StrEnum):
    """What happens to a host. DRIFT is a change that only puts back what was changed by hand."""

    CREATE = "create"
    CHANGE = "change"
    DRIFT = "drift"
    REMOVE = "remove"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Release:
    """The meshd that this meshctl carries: version, and SHA-256 of the binary by architecture (`uname -m`)."""

    version: str
    binaries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostPlan:
    """`errors` are what is known to fail; a host with errors isn't touched."""

    host: str
    action: Action
    changes: tuple[Change, ...] = ()
    errors: tuple[HostError, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """`gained` and `lost` are pairs whose reach changes; `forget` are leaving hosts that hold nothing of ours."""

    mesh: str
    version: str
    hosts: tuple[HostPlan, ...]
    gained: tuple[Pair, ...] = ()
    lost: tuple[Pair, ...] = ()
    findings: tuple[Finding, ...] = ()
    forget: tuple[str, ...] = ()

    @property
    def touched(self) -> tuple[str, ...]:
        """The hosts that apply has something to do on."""
        return tuple(h.host for h in self.hosts if h.action is not Action.NONE and not h.errors)

    @property
    def right(self) -> tuple[str, ...]:
        """The hosts that are as they should be."""
        return tuple(h.host for h in self.hosts if h.action is Action.NONE and not h.errors)

    @property
    def errors(self) -> tuple[HostError, ...]:
        return tuple(e for h in self.hosts for e in h.errors)

    @property
    def empty(self) -> bool:
        """Nothing to do, and nothing in the way."""
        return not self.touched and not self.errors and not self.forget

    def host(self, name: str) -> HostPlan | None:
        return next((h for h in self.hosts if h.host == name), None)


def diff(
    mesh: Mesh,
    bundles: Mapping[str, Bundle],
    reports: Observed,
    lock: Lock,
    release: Release,
    *,
    limit: frozenset[str] | None = None,
) -> Plan:
    """What apply would do. `lock` is the one that resolve returned; `limit` names the hosts that may be touched.

    Hosts of the lock that mesh.yaml no longer has are planned for removal. A host without a report (or outside the
    limit) is left alone, and counts as unknown where reach is judged.
    """
    names = {key: name for name, key in lock.next_public_keys().items()}
    names |= {key: name for name, key in lock.public_keys().items()} | {h.public_key: n for n, h in mesh.hosts.items()}
    wanted = [n for n in (*mesh.hosts, *lock.leaving) if n in reports and (limit is None or n in limit)]
    plans = []
    for name in sorted(set(wanted)):
        report = reports[name]
        if isinstance(report, HostError):
            plans.append(HostPlan(name, Action.NONE, errors=(report,)))
        elif name in mesh.hosts:
            plans.append(_armed(_member(mesh, bundles[name], report, names, release), release))
        elif _of_another(report, lock.leaving[name].public_key):
            plans.append(HostPlan(name, Action.NONE))  # it has moved on: nothing there is this mesh's any more
        else:
            plans.append(_leaver(mesh.name, report))
    forget = tuple(p.host for p in plans if p.host in lock.leaving and p.action is Action.NONE and not p.errors)
    plan = Plan(mesh.name, release.version, tuple(plans), findings=mesh.findings, forget=forget)
    if not plan.touched:
        return plan
    gained, lost = _reach(bundles, reports, lock, plans)
    return replace(plan, gained=gained, lost=lost)


def removal(
    mesh_name: str, reports: Observed, lock: Lock, release: Release, *, named: frozenset[str] = frozenset()
) -> Plan:
    """The plan that takes the mesh away from every host that reported.

    What a host has of another mesh of this name goes only where the host was `named`. A `lock` without a host's key
    can't tell, and then nothing is another's.
    """
    keys = lock.public_keys()
    plans = []
    for name, report in sorted(reports.items()):
        if isinstance(report, HostError):
            plans.append(HostPlan(name, Action.NONE, errors=(report,)))
        elif name in keys and name not in named and _of_another(report, keys[name]):
            plans.append(HostPlan(name, Action.NONE, errors=(_another(mesh_name, name),)))
        else:
            plans.append(_leaver(mesh_name, report))
    plan = Plan(mesh_name, release.version, tuple(plans))
    return replace(plan, lost=_reach({}, reports, lock, plans)[1]) if plan.touched else plan


def after(bundle: Bundle, before: Report, release: Release) -> Report:
    """What this host reports once the plan was applied: the law is that diff then finds nothing."""
    if bundle.public is None:
        gone = replace(before, binary=None, manifest=None, files=(), active=False, enabled=False)
        return replace(gone, link="none", daemon=None)
    sha256 = release.binaries.get(before.arch, "")
    binary = PlacedFile(BINARY.format(version=release.version), "0755", sha256)
    now = Configured(bundle.canonical)
    return replace(
        before,
        binary=release.version,
        manifest=Manifest(bundle.name, release.version, bundle.id, bundle.conf_sha256, (binary,)),
        files=(FileState(binary.path, binary.mode, binary.sha256),),
        active=True,
        enabled=True,
        link="ours",
        daemon=Daemon(release.version, "running", conf=now, running=now),
    )


def _member(mesh: Mesh, bundle: Bundle, report: Report, names: Mapping[PublicKey, str], release: Release) -> HostPlan:
    desired = bundle.public
    if desired is None:
        return _leaver(bundle.name, report)
    errors = tuple(_preflight(bundle, desired, report, release, _same_machine(mesh, report, names)))
    if (refused := closed.refused(mesh, mesh.hosts[report.host], report.ssh)) is not None:
        errors = (*errors, refused)
    daemon = report.daemon
    if _cannot_be_asked(report):
        # it runs, and the program that could be asked was deleted: what it has is compared again once that is back
        missing = (*_release_changes(report, release), *_file_changes(report))
        return HostPlan(
            report.host, Action.DRIFT, missing or (Change("meshd", "silent", "restored", drift=True),), errors
        )
    if daemon is None or (not daemon.conf.text and not daemon.running.text):
        changes: tuple[Change, ...] = tuple(_creation(desired, report, names, release))
        return HostPlan(report.host, Action.CREATE, changes, errors)
    changes = (
        *_release_changes(report, release),
        *_state_changes(bundle.name, report, daemon),
        *_configuration_changes(bundle, desired, daemon, names, applied=_applied(bundle, report)),
    )
    if not changes:
        return HostPlan(report.host, Action.NONE, errors=errors)
    drifted = all(c.drift for c in changes)
    return HostPlan(report.host, Action.DRIFT if drifted else Action.CHANGE, changes, errors)


def _armed(planned: HostPlan, release: Release) -> HostPlan:
    """No change by a meshctl without any meshd, a checkout that nobody built: the roles compare the program with it."""
    if release.binaries or planned.errors or planned.action in (Action.NONE, Action.REMOVE):
        return planned
    return replace(planned, errors=(HostError(planned.host, "arch", "this meshctl carries no meshd", "make build"),))


def _cannot_be_asked(report: Report) -> bool:
    """Whether meshd runs there, and the program that would ask it is gone."""
    return report.daemon is None and report.link == "ours" and report.manifest is not None


def _of_another(report: Report, own: PublicKey, fingerprints: frozenset[str] = frozenset()) -> bool:
    """Whether the host has a confirmed configuration of another mesh that happens to have this mesh's name.

    Told by its key there. A key that was rotated half-way is no other mesh: the pre-shared keys are still ours.
    """
    conf = report.daemon.conf.public if report.daemon is not None else None
    if conf is None or conf.public_key is None:
        return False
    if own in (conf.public_key, conf.next_public_key, *(p.public_key for p in conf.peers)):
        return False
    return fingerprints.isdisjoint({p.preshared_key for p in conf.peers if p.preshared_key})


def _another(mesh_name: str, host: str) -> HostError:
    what = f"it is in another mesh called {mesh_name}: its key there is not the one in mesh.lock"
    hint = f"rename one of the two meshes; or take it over, after meshctl remove --limit {host}"
    return HostError(host, "other-mesh", what, hint)


def _same_machine(mesh: Mesh, report: Report, names: Mapping[PublicKey, str]) -> HostError | None:
    """What there is of this mesh under another name: the host was renamed, or written down twice."""
    conf = report.daemon.conf.public if report.daemon is not None else None
    other = names.get(conf.public_key) if conf is not None and conf.public_key is not None else None
    if other in (None, report.host):
        return None
    if other in mesh.hosts:
        hint = "correct the SSH address of one of the two, or delete one"
        return HostError(report.host, _TWICE, f"this machine is {other}, and one machine is one host", hint)
    what = f"this machine is {other} still, which left mesh.yaml; it comes back under its new name with the next apply"
    return HostError(report.host, _TWICE, what, f"meshctl apply, which takes {other} off it; then once more")


def _applied(bundle: Bundle, report: Report) -> bool:
    """Whether this configuration was confirmed on the host once, so that what differs from it was changed by hand.

    The manifest follows what was staged last; what is staged still was taken back before it was confirmed.
    """
    manifest = report.manifest
    if manifest is None or manifest.conf_sha256 != bundle.conf_sha256:
        return False
    return report.daemon is None or report.daemon.staged_id != manifest.conf_id


def _leaver(mesh_name: str, report: Report) -> HostPlan:
    changes = []
    if report.link == "ours" or (report.daemon is not None and report.daemon.conf.text):
        changes.append(Change(f"interface {mesh_name}", "ours", None))
    if report.active:
        changes.append(Change("daemon", "running", None))
    if report.manifest is not None:
        changes += [Change("file", f.path, None) for f in report.files if f.sha256 is not None]
        changes += [Change("manifest", "there", None)] if not report.files else []
    if not changes:
        return HostPlan(report.host, Action.NONE)
    return HostPlan(report.host, Action.REMOVE, tuple(changes), tuple(_no_root(report)))


def _no_root(report: Report) -> Iterator[HostError]:
    if report.uid != 0:
        hint = f"log in as root, or give the user of {report.host} sudo (-K asks for its password)"
        yield HostError(report.host, "no-root", "the user there isn't root and sudo didn't help", hint)


def _preflight(
    bundle: Bundle, desired: PublicConf, report: Report, release: Release, other: HostError | None
) -> Iterator[HostError]:
    """What is known to fail before anything is touched (contracts §7 has the codes)."""
    host = report.host
    yield from _no_root(report)
    fingerprints = frozenset(p.preshared_key for p in desired.peers if p.preshared_key)
    if other is not None:
        yield other
    elif desired.public_key is not None and _of_another(report, desired.public_key, fingerprints):
        yield _another(bundle.name, host)
    if release.binaries and report.arch not in release.binaries:
        carried = ", ".join(sorted(release.binaries))
        what = f"there is no meshd for its architecture {report.arch}"
        yield HostError(host, "arch", what, f"this meshctl carries {carried}; make build adds others")
    if not report.tun and report.link != "ours":
        hint = "load it with modprobe tun, or give the container /dev/net/tun"
        yield HostError(host, "no-tun", "it has no /dev/net/tun", hint)
    if report.link == "foreign":
        what = f"its interface {bundle.name} isn't ours"
        hint = f"rename the mesh, or delete it there: ip link delete {bundle.name}"
        yield HostError(host, "foreign-link", what, hint)
    if desired.listen_port in report.ports and not _cannot_be_asked(report):  # then the port in use is our own
        what = f"another program there listens on UDP port {desired.listen_port}"
        yield HostError(host, "port-taken", what, f"give {host} another port: in mesh.yaml")


def _creation(
    desired: PublicConf, report: Report, names: Mapping[PublicKey, str], release: Release
) -> Iterator[Change]:
    if report.binary != release.version:
        yield Change("meshd", report.binary, release.version)
    yield Change("addresses", None, ", ".join(ip.addr_text(a.ip) for a in desired.addresses))
    yield Change("port", None, str(desired.listen_port))
    peers = sorted(names.get(p.public_key) or p.name or str(p.public_key) for p in desired.peers)
    yield Change("peers", None, ", ".join(peers) or "none")
    said = facts(desired, names)
    if way_out := sorted(
        {what.split(":")[0].removeprefix("peer ") for what, _ in said if what.endswith(": the way out")}
    ):
        yield Change("the way out", None, ", ".join(way_out))
    for what in ("exit", "kill switch", "kill switch lets answer", "default route for"):
        if (value := said.get((what, ""))) is not None:
            yield Change(what, None, value)
    if desired.forward:
        yield Change("lan", None, ", ".join(map(ip.net_text, desired.forward)))


def _release_changes(report: Report, release: Release) -> Iterator[Change]:
    """The program itself: another version, another build of this version, or an old one that still runs."""
    daemon = report.daemon
    if report.binary != release.version:
        yield Change("meshd", report.binary, release.version, drift=report.binary is None)
    elif daemon is not None and daemon.state == "running" and daemon.version != release.version:
        yield Change("running meshd", daemon.version, release.version)
    wanted = release.binaries.get(report.arch)
    path = BINARY.format(version=release.version)
    for file in report.manifest.files if report.manifest is not None else ():
        if wanted and file.path == path and file.sha256 != wanted:
            yield Change("build of meshd", file.sha256[:12], wanted[:12])


def _state_changes(mesh_name: str, report: Report, daemon: Daemon) -> Iterator[Change]:
    """What was stopped, deleted or edited on the host."""
    if not report.active or daemon.state == "down":
        yield Change("daemon", "stopped", "running", drift=True)
    elif not daemon.running.text:
        yield Change(f"interface {mesh_name}", "missing or down", "up", drift=True)
    if not report.enabled and report.init != "none":
        yield Change("daemon at boot", "off", "on", drift=True)
    yield from _file_changes(report)


def _file_changes(report: Report) -> Iterator[Change]:
    if report.manifest is None:
        yield Change("manifest", "missing", "written", drift=True)
        return
    now = {file.path: file for file in report.files}
    for placed in report.manifest.files:
        file = now.get(placed.path)
        if file is None or file.sha256 is None:
            yield Change(f"file {placed.path}", "missing", "restored", drift=True)
        elif file.sha256 != placed.sha256:
            yield Change(f"file {placed.path}", "other content", "restored", drift=True)
        elif _mode(file.mode) != _mode(placed.mode):
            yield Change(f"mode of {placed.path}", file.mode, placed.mode, drift=True)


def _mode(text: str) -> str:
    return text.lstrip("0")


def _configuration_changes(
    bundle: Bundle, desired: PublicConf, daemon: Daemon, names: Mapping[PublicKey, str], *, applied: bool
) -> Iterator[Change]:
    if bundle.canonical == daemon.conf.text == daemon.running.text:
        return  # the usual case, and cheap
    if not daemon.conf.readable or not daemon.running.readable:
        yield Change("configuration", "in a form this meshctl can't read", "written anew")
        return
    if daemon.conf.public is None:
        # switched once and not confirmed: what runs goes back by itself unless this run confirms it
        yield Change("configuration", "not confirmed", "confirmed")
        return
    live = daemon.running.public if daemon.state == "running" else None
    yield from compare(desired, daemon.conf.public, live, names, applied=applied)


def _reach(
    bundles: Mapping[str, Bundle], reports: Observed, lock: Lock, plans: list[HostPlan]
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """The pairs that gain and lose reach: live configurations before, and after the hosts that are touched were."""
    known = {n: reach.Identity(h.public_key, h.addresses) for n, h in (dict(lock.leaving) | dict(lock.hosts)).items()}
    twice = {p.host for p in plans if any(e.code == _TWICE for e in p.errors)}  # said under its machine's other name
    asked = {n: r for n, r in reports.items() if isinstance(r, Report) and n not in twice}
    before = {n: _live(r) for n, r in asked.items() if not _cannot_be_asked(r)}
    old = {
        n: reach.Identity(i.public_key, tuple(a.ip for a in conf.addresses)) if (conf := before.get(n)) else i
        for n, i in known.items()
    }
    now = dict(before)
    for plan in plans:
        if plan.action is Action.REMOVE and not plan.errors:
            now[plan.host] = None
        elif plan.host in bundles and plan.host in before and not plan.errors:
            now[plan.host] = bundles[plan.host].public
    was, will = reach.pairs(before, old), reach.pairs(now, known)
    gained = sorted(p for p in will - was if p[0] in now and p[1] in now)
    return tuple(gained), tuple(sorted(was - will))


def _live(report: Report) -> PublicConf | None:
    daemon = report.daemon
    return daemon.running.public if daemon is not None and daemon.state == "running" else None


def fresh(host: str, arch: str = "x86_64") -> Report:
    """The report of a host that never heard of us, for rehearsals and tests."""
    return Report(host=host, uid=0, arch=arch)
