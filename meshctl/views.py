"""Views: plans, outcomes, links and errors as lines of text. Pure; screen.py prints them.

Rules of the text are in MESSAGES.md. A line is a tuple of (style, text) parts, so that colour is decided where it is
printed and never carries meaning alone: the glyphs `+ ~ - = !` do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from meshctl.core import planjson
from meshctl.core.changes import Change
from meshctl.core.errors import Failed, HostError, Invalid, Problem
from meshctl.core.mesh import Finding, Mesh
from meshctl.core.plan import Action, HostPlan, Plan
from meshctl.core.spec import Pair
from meshctl.core.status import HostStatus, LinkStatus, State, Status, to_json
from meshctl.flow.safely import HostOutcome, Interrupted, Outcome, Result
from meshctl.flow.trust import Shown, Trusted

Line = tuple[tuple[str, str], ...]
Source = Callable[[str], Sequence[str]]

_ACTIONS = {
    Action.CREATE: ("+", "add", "create"),
    Action.CHANGE: ("~", "change", "change"),
    Action.DRIFT: ("~", "change", "put back what was changed by hand"),
    Action.REMOVE: ("-", "remove", "remove"),
    Action.NONE: ("=", "dim", "as it should be"),
}
_NOTHING_THERE = "nothing of the mesh is there"
_MOST_PAIRS = 12  # a big mesh's reach is counted, not listed
_KEY = re.compile(r"(own |peer .*: )(next )?(?:public|pre-shared) key")  # of core/changes.py


def line(text: str, style: str = "") -> Line:
    return ((style, text),)


def plan(plan: Plan, *, removing: bool = False) -> Iterator[Line]:
    """Each host with its changes, who gains and who loses reach, findings, and the sum as the last line."""
    width = max((len(h.host) for h in plan.hosts), default=0)
    for host in plan.hosts:
        yield from _host_plan(host, width, _NOTHING_THERE if removing else None)
    for sign, pairs, style in (("+", plan.gained, "add"), ("-", plan.lost, "remove")):
        if pairs:
            word = "gain" if sign == "+" else "lose"
            yield ((style, f"{sign} "), ("", f"{word} reach: {_pairs(pairs)}"))
    for finding in plan.findings:
        yield from told(finding)
    for name in plan.forget:
        yield (("dim", "= "), ("", f"{name} is gone from the mesh and has nothing of it left"))
    if removing and plan.empty:
        yield line("Plan: nothing to do, nothing of the mesh is there", "bold")
        return
    yield line(summary(plan), "bold")


def summary(plan: Plan) -> str:
    """`Plan: 1 to create, …`; or that there is nothing to do."""
    counts = {action: sum(1 for h in plan.hosts if h.action is action and not h.errors) for action in Action}
    failed = sum(1 for h in plan.hosts if h.errors)
    if plan.empty:
        same = counts[Action.NONE]
        return f"Plan: nothing to do, {f'{same} hosts are as they' if same != 1 else '1 host is as it'} should be"
    changed = counts[Action.CHANGE] + counts[Action.DRIFT]
    parts = [f"{counts[Action.CREATE]} to create", f"{changed} to change", f"{counts[Action.REMOVE]} to remove"]
    parts += [f"{counts[Action.NONE]} unchanged"] if counts[Action.NONE] else []
    parts += [f"{failed} can't be done"] if failed else []
    return f"Plan: {', '.join(parts)}"


def outcome(outcome: Outcome, *, lab: bool = False, then: str | None = None) -> Iterator[Line]:
    """One line of result a host; and if all was rolled back why, what there is now, and what to type `then`."""
    width = max((len(h.host) for h in outcome.hosts), default=0)
    for host in outcome.hosts:
        yield from _host_outcome(host, width)
    if outcome.status is not None:
        yield from status(outcome.status, lab=lab)
        running = {host.host for host in outcome.status.hosts if host.state == "running"}
        if any(link.state is not State.ALIVE and {link.a, link.b} <= running for link in outcome.status.links):
            yield from _hint(
                "let the UDP port through to the end that does not answer; meshctl verify fails until then"
            )
    if outcome.waiting:
        failed = [h.host for h in outcome.hosts if h.result is Result.FAILED]
        wait = "1 link waits" if outcome.waiting == 1 else f"{outcome.waiting} links wait"
        yield line(f"{wait} for {', '.join(failed)}")
    if outcome.rolled_back:
        yield line("rolled back: nothing was kept on any host, because", "error")
        for why in outcome.rolled_back:
            yield (("error", "! "), ("", why))
        yield from _as_before(outcome)
        yield from _hint(
            then or f"put that right, or take the change out of mesh.yaml; then: meshctl apply{in_lab(lab)}"
        )


def _as_before(outcome: Outcome) -> Iterator[Line]:
    """What there is after a change that was taken back."""
    late = [h.host for h in outcome.hosts if h.result is Result.GOING_BACK]
    if late:
        goes = f"{late[0]} goes back by itself" if len(late) == 1 else f"{some(late)} go back by themselves"
        yield line(f"{goes} within {outcome.back_within_s} s; then everything is as it was before", "bold")
    else:
        yield line("everything is as it was before", "bold")


def links(status: Status) -> Iterator[Line]:
    """A table: each link with its state, the age of its last handshake and its round trip."""
    rows = [("link", "state", "handshake", "round trip", "")]
    rows += [_link(link) for link in status.links]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    styles = {"alive": "add", "down": "error", "new": "change"}
    for number, (*cells, reason) in enumerate(rows):
        name, state, *numbers = (text.ljust(width) for text, width in zip(cells, widths, strict=True))
        if number == 0:
            yield line("  ".join((name, " ", state, *numbers)).rstrip(), "dim")
            continue
        glyph = {"alive": "=", "down": "!", "new": "~"}.get(cells[1], "~")
        tail = "  ".join((*numbers, reason)).rstrip()
        yield (
            ("", f"{name}  {glyph} "),
            (styles.get(cells[1], ""), f" {state}" if tail else f" {cells[1]}"),
            ("", f"  {tail}" if tail else ""),
        )


def status(status: Status, *, lab: bool = False) -> Iterator[Line]:
    """Hosts that have something to say, and every link. `lab` says that hints are about the lab's hosts."""
    for host in status.hosts:
        yield from _host_status(host, f"meshctl apply{in_lab(lab)}")
    if status.links:
        yield from links(status)
    for finding in status.findings:
        yield from told(finding)
    alive = sum(1 for link in status.links if link.state is State.ALIVE)
    if status.links:
        yield line(f"{alive} of {len(status.links)} {_noun('link', len(status.links))} alive", "bold")


def health(found: Status, *, lab: bool = False) -> Iterator[Line]:
    """What `status` and `verify` say: hosts and links, and never nothing."""
    yield from status(found, lab=lab)
    if not found.links:
        up, asked = sum(1 for host in found.hosts if host.state == "running" and not host.reason), len(found.hosts)
        yield line(f"{up} of {asked} {_noun('host', asked)} up; there is no link to probe", "bold")


def mesh(mesh: Mesh, file: str) -> Iterator[Line]:
    """What `check` says of a file that is right."""
    yield from findings(mesh)
    hosts, count = len(mesh.hosts), len(mesh.links)
    networks = " and ".join(map(str, mesh.networks))
    yield line(
        f"{file} is right: {mesh.name}, {hosts} {_noun('host', hosts)}, {count} {_noun('link', count)}, {networks}"
    )


def findings(mesh: Mesh) -> Iterator[Line]:
    """What isn't wrong in the file and is to be known all the same."""
    for finding in mesh.findings:
        yield from told(finding)


def unopened(keys: str) -> Iterator[Line]:
    """What `check` left out."""
    yield line(f"{keys} is encrypted and was not looked at")
    yield from _hint("give its password: --ask-vault-pass or --vault-password-file FILE")


def fingerprints(shown: Sequence[Shown]) -> Iterator[Line]:
    """Keys for a person to compare with what `ssh-keygen -lf /etc/ssh/ssh_host_…_key.pub` prints on the host."""
    width = max((len(key.host) for key in shown), default=0)
    for key in shown:
        yield (
            ("change", "? "),
            ("bold", key.host.ljust(width)),
            ("", f"  {key.hostname}  {key.kind}  {key.fingerprint}"),
        )


def trusted(trusted: Trusted) -> Iterator[Line]:
    for name in trusted.from_known_hosts:
        yield (("add", "+ "), ("bold", name), ("", "  pinned from your known_hosts"))
    for key in trusted.approved:
        yield (("add", "+ "), ("bold", key.host), ("", f"  pinned {key.kind} {key.fingerprint}"))
    for name in trusted.pinned_before:
        yield (("dim", "= "), ("bold", name), ("", "  pinned before"))
    for name in trusted.refused:
        yield (("error", "! "), ("bold", name), ("", "  not pinned"))
    for error in trusted.errors:
        yield (("error", "! "), ("bold", error.host), ("", f"  {error.what}"))
        yield from _hint(error.hint)


def trusted_json(trusted: Trusted) -> dict[str, Any]:
    return {
        "schema": 1,
        "pinned_before": list(trusted.pinned_before),
        "from_known_hosts": list(trusted.from_known_hosts),
        "approved": [{"host": k.host, "key": k.key, "fingerprint": k.fingerprint} for k in trusted.approved],
        "refused": list(trusted.refused),
        "errors": [planjson.host_error(error) for error in trusted.errors],
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "schema": 1,
        "hosts": [
            {
                "host": h.host,
                "result": str(h.result),
                "error": planjson.host_error(h.error) if h.error else None,
            }
            for h in outcome.hosts
        ],
        "rolled_back": list(outcome.rolled_back),
        "waiting": outcome.waiting,
        "status": to_json(outcome.status) if outcome.status else None,
    }


def interrupted(stop: Interrupted) -> Iterator[Line]:
    """What Ctrl-C leaves behind once hosts had begun to switch."""
    yield line("interrupted", "error")
    if stop.rolled_back:
        yield line(f"rolled back: {', '.join(stop.rolled_back)}")
    if stop.kept:
        yield line(f"confirmed by then: {', '.join(stop.kept)}")
    if stop.left:
        yield line(f"going back by themselves when their time runs out: {', '.join(stop.left)}")


def invalid(error: Invalid, source: Source) -> Iterator[Line]:
    """Every problem: `file:line:column: error: what`, the line of the file with a caret, and the hint."""
    for problem in error.problems:
        yield from _problem(problem, source)


def host_error(error: HostError) -> Iterator[Line]:
    yield (("bold", f"{error.host}: "), ("error", "error: "), ("", error.what))
    yield from _hint(error.hint)


def failed(error: Failed) -> Iterator[Line]:
    yield (("error", "error: "), ("", error.what))
    yield from _hint(error.hint)


def _problem(problem: Problem, source: Source) -> Iterator[Line]:
    where = problem.where
    yield (("bold", f"{where}: " if where else ""), ("error", "error: "), ("", problem.what))
    lines = source(where.file) if where is not None and where.line else ()
    if where is not None and 0 < where.line <= len(lines):
        text = lines[where.line - 1].expandtabs(1)
        number = str(where.line)
        yield (("dim", f"  {number} | "), ("", text))
        if where.column:
            yield (("dim", f"  {' ' * len(number)} | "), ("error", " " * (where.column - 1) + "^"))
    yield from _hint(problem.hint)


def in_lab(lab: bool) -> str:
    return " --lab" if lab else ""


def _hint(hint: str | None) -> Iterator[Line]:
    if hint:
        yield (("hint", "  hint: "), ("", hint))


def told(finding: Finding) -> Iterator[Line]:
    yield (("change", "! "), ("", finding.what))
    yield from _hint(finding.hint)


def _host_plan(host: HostPlan, width: int, same: str | None = None) -> Iterator[Line]:
    """`same` is what to say of a host that nothing is done to."""
    if host.errors:
        for error in host.errors:
            yield (("error", "! "), ("bold", host.host.ljust(width)), ("", f"  {error.what}"))
            yield from _hint(error.hint)
        return
    glyph, style, word = _ACTIONS[host.action]
    word = same if same is not None and host.action is Action.NONE else word
    yield ((style, f"{glyph} "), ("bold", host.host.ljust(width)), (style, f"  {word}"))
    told, rest = _key_changes(host.changes)
    yield from told
    for change in rest:
        yield _change(change)


def _key_changes(changes: Sequence[Change]) -> tuple[list[Line], list[Change]]:
    """What a change of keys under way does to a host, as one line, since nobody compares hundreds of keys by eye; and
    the changes that are something else.
    """
    keys = {c: found for c in changes if not c.drift and (found := _KEY.fullmatch(c.what)) is not None}
    coming = [found[1] for c, found in keys.items() if found[2] and c.before is None]
    if coming:
        style, what = "add", "+ next keys, beside the current ones"
        rest = [c for c in changes if not (c in keys and keys[c][2])]
    elif coming := [found[1] for c, found in keys.items() if found[2] and c.after is None]:
        taken = any(not found[2] for found in keys.values())
        style, what = ("change", "~ keys, the next ones alone") if taken else ("remove", "- next keys")
        rest = [c for c in changes if c not in keys]
    else:
        return [], list(changes)
    whose = ", ".join(dict.fromkeys(label.removeprefix("peer ").rstrip(": ") for label in coming))
    return [((style, f"    {what[:2]}"), ("", f"{what[2:]}: {whose}"))], rest


def _change(change: Change) -> Line:
    by_hand = "  (changed by hand)" if change.drift else ""
    if change.before is None:
        return (("add", "    + "), ("", f"{change.what}: {change.after}"), ("dim", by_hand))
    if change.after is None:
        return (("remove", "    - "), ("", f"{change.what}: {change.before}"), ("dim", by_hand))
    return (("change", "    ~ "), ("", f"{change.what}: {change.before} -> {change.after}"), ("dim", by_hand))


def _host_outcome(host: HostOutcome, width: int) -> Iterator[Line]:
    glyph, style = {
        Result.CREATED: ("+", "add"),
        Result.CHANGED: ("~", "change"),
        Result.HEALED: ("~", "change"),
        Result.REMOVED: ("-", "remove"),
        Result.ROLLED_BACK: ("=", "change"),
        Result.GOING_BACK: ("~", "change"),
        Result.UNTOUCHED: ("=", "dim"),
        Result.FAILED: ("!", "error"),
    }[host.result]
    why = f": {host.error.what}" if host.error else ""
    yield ((style, f"{glyph} "), ("bold", host.host.ljust(width)), (style, f"  {host.result}"), ("", why))
    yield from _hint(host.error.hint if host.error else None)


def _host_status(host: HostStatus, apply: str) -> Iterator[Line]:
    about = "  ".join(filter(None, (host.owner, host.note)))
    if host.error is not None:
        yield (("error", "! "), ("bold", host.host), ("", f"  {host.error.what}"))
        yield from _hint(host.error.hint)
    elif host.reason is not None:  # whoever mends it wants to know that the host itself is there
        yield (("error", "! "), ("bold", host.host), ("", f"  SSH answers, but {host.reason}"))
        yield from _hint(apply)
    if about:  # whom to ask matters most where something is wrong
        yield (("bold", f"{host.host}: "), ("", about))
    for note in host.notes:
        yield (("change", "~ "), ("bold", host.host), ("", f"  {note}"))


def _link(link: LinkStatus) -> tuple[str, str, str, str, str]:
    unknown = link.state is State.UNKNOWN
    handshake = ("" if unknown else "never") if link.handshake_s is None else f"{_age(link.handshake_s)} ago"
    rtt = "" if link.rtt_ms is None else f"{link.rtt_ms:.2f} ms"
    lost = f"{link.loss:.0%} lost" if link.loss else ""
    return f"{link.a} -- {link.b}", str(link.state), handshake, rtt, "  ".join(filter(None, (lost, link.reason)))


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _pairs(pairs: Sequence[Pair]) -> str:
    shown = ", ".join(f"{a} -- {b}" for a, b in pairs[:_MOST_PAIRS])
    return shown + (f" and {len(pairs) - _MOST_PAIRS} more" if len(pairs) > _MOST_PAIRS else "")


def some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _MOST_PAIRS else f"{len(names)} hosts"


def _noun(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
