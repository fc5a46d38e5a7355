"""Collects samples and writes them: a Markdown table of medians with min–max and ratios, and JSON with every sample."""

import json
import platform
import statistics
from collections import defaultdict
from pathlib import Path

from .peers import Daemon

PEER = "wireguard-go"


class Samples:
    """Samples per figure and daemon, in the order taken."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, daemon: str, values: dict[str, float]) -> None:
        """Adds one reading of several figures of one daemon."""
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


def take_up(samples: Samples, earlier: Path, daemons: list[Daemon]) -> list[Daemon]:
    """Puts the samples of an earlier run in front, and gives the daemons to report: its own and `daemons`.

    Another machine or another version is a ValueError.
    """
    document = json.loads(earlier.read_text())
    if document["machine"] != machine():
        raise ValueError(f"{earlier} was taken on another machine")
    env = document["env"]
    known = {name: Daemon(name, version, None, env=env.get(name, {})) for name, version in document["versions"].items()}
    for daemon in daemons:
        before = known.setdefault(daemon.name, daemon)
        if (before.version, before.env) != (daemon.version, daemon.env):
            raise ValueError(f"{earlier} was taken with another {daemon.name}")
    for figure, by_daemon in document["samples"].items():
        for name, values in by_daemon.items():
            samples.values[figure][name] += values
    return list(known.values())


def as_json(samples: Samples, daemons: list[Daemon]) -> str:
    """Everything, for later comparison."""
    document = {
        "schema": 1,
        "machine": machine(),
        "versions": {d.name: d.version for d in daemons},
        "env": {d.name: d.env for d in daemons if d.env},
        "samples": samples.values,
    }
    return json.dumps(document, indent=1) + "\n"


def as_markdown(samples: Samples, daemons: list[Daemon]) -> str:
    """One row a figure; a cell is `median (min–max)`; the last column is meshd's median over the peer's."""
    names = [d.name for d in daemons]
    lines = [
        f"Machine: {machine()}",
        "",
        "Versions: " + ", ".join(f"{d.name} {d.version}" for d in daemons),
        "",
        "| figure | " + " | ".join(names) + f" | meshd / {PEER} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for figure, by_daemon in samples.values.items():
        cells = [_cell(by_daemon[n]) if n in by_daemon else "–" for n in names]
        ratio = "–"
        if by_daemon.get("meshd") and by_daemon.get(PEER) and statistics.median(by_daemon[PEER]):
            ratio = f"{statistics.median(by_daemon['meshd']) / statistics.median(by_daemon[PEER]):.2f}"
        lines.append(f"| {figure} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"
