"""Collects samples and writes them: a Markdown table of medians with min–max and ratios, and JSON with every sample."""

import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from .pair import Conditions
from .peers import Daemon

PEER = "wireguard-go"
SCHEMA = 3


class Samples:
    """Samples per figure and daemon, in the order taken."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.others: list[float] = []

    def add(self, daemon: str, values: dict[str, float], others: float) -> None:
        """Adds one reading of several figures of one daemon, and what per cent of the machine others took meanwhile."""
        self.others.append(others)
        for figure, value in values.items():
            self.values[figure][daemon].append(value)


def machine() -> str:
    """The machine in one line: processor, cores, kernel."""
    model = next(
        (v.split(":")[1].strip() for v in Path("/proc/cpuinfo").read_text().splitlines() if v.startswith("model name")),
        "?",
    )
    cores = Path("/proc/cpuinfo").read_text().count("\nprocessor") + 1
    return f"{model}, {cores} cores, Linux {platform.release()}"


def take_up(samples: Samples, earlier: Path, daemons: list[Daemon], without: Conditions) -> list[Daemon]:
    """Puts the samples of an earlier run in front, and gives the daemons to report: its own and `daemons`.

    Another machine, other conditions or another version is a ValueError.
    """
    document = json.loads(earlier.read_text())
    if document["machine"] != machine():
        raise ValueError(f"{earlier} was taken on another machine")
    if document["schema"] != SCHEMA:
        raise ValueError(f"{earlier} was written by another bench")
    if document["without"] != asdict(without):
        raise ValueError(f"{earlier} was taken under other conditions")
    env, peers = document["env"], document["peers"]
    known = {
        name: Daemon(name, version, None, env=env.get(name, {}), peers=peers.get(name, 0))
        for name, version in document["versions"].items()
    }
    for daemon in daemons:
        before = known.setdefault(daemon.name, daemon)
        if (before.version, before.env, before.peers) != (daemon.version, daemon.env, daemon.peers):
            raise ValueError(f"{earlier} was taken with another {daemon.name}")
    samples.others += document["others_percent"]
    for figure, by_daemon in document["samples"].items():
        for name, values in by_daemon.items():
            samples.values[figure][name] += values
    return list(known.values())


def as_json(samples: Samples, daemons: list[Daemon], without: Conditions) -> str:
    """Everything, for later comparison."""
    document = {
        "schema": SCHEMA,
        "machine": machine(),
        "versions": {d.name: d.version for d in daemons},
        "env": {d.name: d.env for d in daemons if d.env},
        "peers": {d.name: d.peers for d in daemons if d.peers},
        "without": asdict(without),
        "others_percent": samples.others,
        "samples": samples.values,
    }
    return json.dumps(document, indent=1) + "\n"


def as_markdown(samples: Samples, daemons: list[Daemon], without: Conditions) -> str:
    """One row a figure; a cell is `median (min–max)`; then the ratios of medians, and how many samples a cell has."""
    names = [d.name for d in daemons]
    ratios = list(_ratios(daemons))
    versions = {d.program: d.version for d in daemons}
    lacks = [name for name, is_so in asdict(without).items() if is_so]
    lines = [
        f"Machine: {machine()}" + "".join(f", {name.replace('_', ' ')}" for name in lacks),
        "",
        "Versions: " + ", ".join(f"{program} {version}" for program, version in versions.items()),
        "",
        f"Of the machine, other programs took meanwhile: {_cell(samples.others) if samples.others else '–'} %",
        "",
        "| figure | " + " | ".join(names + [f"{a} / {b}" for a, b in ratios]) + " | samples |",
        "|---" * (len(names) + len(ratios) + 2) + "|",
    ]
    for figure, by_daemon in samples.values.items():
        cells = [_cell(by_daemon[n]) if n in by_daemon else "–" for n in names]
        cells += [_ratio(by_daemon.get(a, []), by_daemon.get(b, [])) for a, b in ratios]
        counts = sorted({len(values) for values in by_daemon.values()})
        lines.append(f"| {figure} | " + " | ".join(cells) + f" | {'–'.join(map(str, counts[:1] + counts[1:][-1:]))} |")
    return "\n".join(lines) + "\n"


def _ratios(daemons: list[Daemon]) -> Iterator[tuple[str, str]]:
    """What is worth comparing: meshd with the peer that has as many peers, a variant with its program's first."""
    for d in daemons:
        rivals = [other.name for other in daemons if (other.program, other.peers) == (PEER, d.peers)]
        if d.program == "meshd" and rivals:
            yield d.name, rivals[0]
    for d in daemons:
        first = next(other for other in daemons if other.program == d.program)
        if d is not first:
            yield d.name, first.name


def _ratio(ours: list[float], theirs: list[float]) -> str:
    if not ours or not theirs or not statistics.median(theirs):
        return "–"
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}"


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"
