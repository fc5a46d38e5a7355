"""The steps of a host, from looking at it to taking the mesh off again: preflight, daemon, stage, switch, confirm,
remove.

Each is a function of a bundle and a Remote, which is the only thing here that reaches the host: at most one round
trip a step, and none where what was seen says that there is nothing to do. What is secret travels on stdin. A fault
on a host that had no manifest when it was seen, so before its first confirmed configuration, takes away again what
this run has put there.

No step knows topology, addresses or peers: the bundle is finished. What a change is, is told by digests.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.meshctl.mesh.plugins.plugin_utils import fault, files
from ansible_collections.meshctl.mesh.plugins.plugin_utils.bundle import Bundle
from ansible_collections.meshctl.mesh.plugins.plugin_utils.fault import Fault
from ansible_collections.meshctl.mesh.plugins.plugin_utils.host import Host, parse

SCRIPTS = Path(__file__).parent / "sh"
MESHD = "/usr/local/bin/meshd"

# The folder is root's alone and in memory; it goes whatever happens.
UNPACK_AND_PLACE = (
    'umask 077; d=/run/meshctl-place.$$; mkdir "$d" || exit 1; trap \'rm -rf "$d"\' EXIT; '
    'tar -xf - -C "$d" && sh "$d/place.sh" "$d" {name} {init}'
)

# The manifest says which configuration was last given to this host, so that a later run can tell a change from drift.
STAGE = (
    f"{MESHD} stage {{name}} --id {{conf_id}} && m={{manifest}} && if [ -e $m ]; then umask 077 && "
    'sed \'s/"conf_id":"[^"]*"/"conf_id":"{conf_id}"/; '
    's/"conf_sha256":"[^"]*"/"conf_sha256":"{conf_sha256}"/\' $m > $m.meshctl-new && mv -f $m.meshctl-new $m; fi'
)


@dataclass(frozen=True)
class Completed:
    exit: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Remote:
    """The way to one host: `run(command, stdin)` as root there. `check`: change nothing; `diff`: show differences."""

    run: Callable[[str, bytes], Completed]
    check: bool = False
    diff: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a step did, or in check mode would do. `changes` are paths and words; empty: nothing."""

    changes: tuple[str, ...] = ()
    diff: tuple[dict[str, str], ...] = ()
    observed: str | None = None
    """The host's answer to observe.sh, for later steps."""
    links: list[Any] | None = None


# ---- preflight ------------------------------------------------------------------------------------------------------


def look(remote: Remote, name: str) -> str:
    """What observe.sh says of the host. A Fault when the host does not let it run as root."""
    script = (SCRIPTS / "observe.sh").read_bytes()
    done = remote.run(f"sh -s -- {name}", script)
    if done.exit != 0:
        raise fault.of_script(done.exit, done.stdout, done.stderr)
    return done.stdout


def preflight(remote: Remote, bundle: Bundle, role_files: Path, arch: str | None) -> Outcome:
    """Looks at the host and says what would stop a later step, while nothing has been touched."""
    observed = look(remote, bundle.name)
    host = _host(observed, arch)
    if host.uid != 0:
        raise Fault("no-root", "the remote user is not root")
    files.wanted(host, bundle, role_files)
    if not host.tun:
        raise Fault("no-tun", "/dev/net/tun cannot be opened")
    if host.link == "foreign":
        raise Fault("foreign-link", f"there is a link {bundle.name} that is not meshd's")
    # our meshd runs, and the program that would say which port is its own was deleted
    unasked = host.report is None and host.link == "ours" and host.manifest is not None
    if bundle.listen_port in host.ports and not unasked:
        raise Fault("port-taken", f"UDP port {bundle.listen_port} is in use by another program")
    return Outcome(observed=observed)


# ---- daemon ---------------------------------------------------------------------------------------------------------


def daemon(remote: Remote, bundle: Bundle, observed: str, role_files: Path, arch: str | None) -> Outcome:
    """The binary, the service and the manifest are in place and the service runs, absent at first."""
    host = _host(observed, arch)
    plan = files.plan(host, bundle, role_files)
    outcome = Outcome(tuple(plan.changes), _file_diffs(plan, host))
    if not plan.changes or remote.check:
        return outcome
    command = UNPACK_AND_PLACE.format(name=bundle.name, init=host.init)
    done = remote.run(command, _tar(plan))
    if done.exit != 0:
        raise fault.of_script(done.exit, done.stdout, done.stderr)
    return replace(outcome, changes=_changes(done.stdout))


def _tar(plan: files.Plan) -> bytes:
    """What goes to place.sh: itself, the list of its steps, and the files in it."""
    steps, contents = [], {"place.sh": _script("place.sh")}
    for number, entry in enumerate(plan.place):
        if isinstance(entry, files.Link):
            steps.append(f"link {entry.target} {entry.path}")
        else:
            contents[str(number)] = entry.content
            steps.append(f"file {entry.mode} {number} {entry.path}")
    steps += [f"retire {path}" for path in plan.retire]
    words = (("reload", plan.reload), ("restart", plan.restart), ("upgrade", plan.upgrade))
    steps += [f"service {word}" for word, so in words if so]
    contents["list"] = "".join(f"{step}\n" for step in steps).encode()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _file_diffs(plan: files.Plan, host: Host) -> tuple[dict[str, str], ...]:
    """Digest and mode before and after: the host's text was not fetched, and a binary would say nothing."""

    def line(placed: files.Placed | None) -> str:
        return f"{placed.mode} {placed.sha256}\n" if placed and placed.sha256 != "missing" else ""

    placed = [_diff(entry.path, line(host.files.get(entry.path)), line(entry.placed)) for entry in plan.place]
    return (*placed, *(_diff(path, line(host.files.get(path)), "") for path in plan.retire))


# ---- interface ------------------------------------------------------------------------------------------------------


def stage(remote: Remote, bundle: Bundle, observed: str) -> Outcome:
    """The configuration is on the host, checked and ready to switch to; nothing live has changed."""
    host = parse(observed)
    if host.runs(bundle.conf_sha256):
        return Outcome()
    diff = (_diff(bundle.name, host.running, _canonical(remote, bundle, host)),) if remote.diff else ()
    if not remote.check:
        manifest = files.manifest_path(bundle.name)
        values = {"name": bundle.name, "conf_id": bundle.conf_id, "conf_sha256": bundle.conf_sha256}
        done = remote.run(STAGE.format(manifest=manifest, **values), bundle.conf)
        if done.exit != 0:
            raise _after_fault(remote, bundle, host, fault.of_meshd(done.exit, done.stderr, "other"))
    return Outcome(("staged",), diff)


def switch(remote: Remote, bundle: Bundle, observed: str, within: int) -> Outcome:
    """The staged configuration is live, for `within` seconds unless it is confirmed."""
    if remote.check:
        return Outcome(("switched",))
    done = remote.run(f"{MESHD} switch {bundle.name} --id {bundle.conf_id} --within {within} --json", b"\n")
    if done.exit != 0:
        raise _after_fault(remote, bundle, parse(observed), fault.of_meshd(done.exit, done.stderr, "switch"))
    return Outcome(("switched",), links=_links(done.stdout))


def confirm(remote: Remote, bundle: Bundle) -> Outcome:
    """The live configuration is the one boot loads. The caller sees to it that this goes over a fresh connection."""
    if remote.check:
        return Outcome(("confirmed",))
    done = remote.run(f"{MESHD} confirm {bundle.name} --id {bundle.conf_id} --json", b"\n")
    if done.exit != 0:
        raise fault.of_meshd(done.exit, done.stderr, "switch")
    return Outcome(("confirmed",), links=_links(done.stdout))


def _canonical(remote: Remote, bundle: Bundle, host: Host) -> str:
    """What the configuration comes to, in the form reports have; on a host without meshd its lines with keys hidden."""
    if host.report is not None:
        done = remote.run(f"{MESHD} check --canonical", bundle.conf)
        if done.exit == 0:
            return done.stdout
    return bundle.public_text


def _after_fault(remote: Remote, bundle: Bundle, host: Host, found: Fault) -> Fault:
    if host.manifest is None:
        remote.run(f"sh -s -- {bundle.name} {host.init}", _script("remove.sh"))
    return found


# ---- remove ---------------------------------------------------------------------------------------------------------


def remove(remote: Remote, name: str) -> Outcome:
    """Nothing of the mesh is left on the host; of what is shared, nothing when it was the last mesh there."""
    host = _host(look(remote, name), None)
    if host.uid != 0:
        raise Fault("no-root", "the remote user is not root")
    if host.manifest is None and not host.active and host.link != "ours":
        return Outcome()
    if remote.check:
        words = [
            word for word, so in (("stopped", host.active), ("disabled", host.enabled and host.init != "none")) if so
        ]
        present = [path for path, placed in host.files.items() if placed.sha256 != "missing"]
        return Outcome((*words, *present, files.manifest_path(name)))
    done = remote.run(f"sh -s -- {name} {host.init}", _script("remove.sh"))
    if done.exit != 0:
        raise fault.of_script(done.exit, done.stdout, done.stderr)
    return Outcome(_changes(done.stdout))


# ---- small things ---------------------------------------------------------------------------------------------------


def _host(observed: str, arch: str | None) -> Host:
    host = parse(observed)
    return replace(host, arch=arch) if arch else host


def _script(name: str) -> bytes:
    return (SCRIPTS / "common.sh").read_bytes() + (SCRIPTS / name).read_bytes()


def _changes(stdout: str) -> tuple[str, ...]:
    return tuple(line.removeprefix("changed ") for line in stdout.splitlines() if line.startswith("changed "))


def _links(stdout: str) -> list[Any] | None:
    try:
        links = json.loads(stdout).get("links")
    except (ValueError, AttributeError):
        return None
    return links if isinstance(links, list) else None


def _diff(what: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": what, "after_header": what, "before": before, "after": after}
