"""Each story: what is wanted and what the hosts report → the plan, compared with plan.json (see README.md here)."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from core.made import World, observed, world

from meshctl.core import bundle, plan, planjson, report
from meshctl.core.bundle import Bundle
from meshctl.core.errors import HostError
from meshctl.core.report import Configured, Report

STORIES = sorted(p for p in (Path(__file__).parent / "plan").iterdir() if p.is_dir())


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_story(story: Path) -> None:
    now, reports = _situation(story)
    told = json.dumps(planjson.plan(now.plan(reports)), indent=1, ensure_ascii=False) + "\n"
    expected = story / "plan.json"
    if os.environ.get("STORIES") == "write":
        expected.write_text(told)
    assert told == expected.read_text()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_every_story_ends_well(story: Path) -> None:
    """Once the plan was applied wherever it can be, there is nothing left to do there."""
    now, reports = _situation(story)
    planned = now.plan(reports)
    for name in planned.touched:
        seen = reports[name]
        assert isinstance(seen, Report)
        wanted = now.bundles.get(name) or bundle.absent(now.mesh.name, name, now.release.version)
        reports[name] = plan.after(wanted, seen, now.release)
    assert now.plan(reports).touched == ()


def _situation(story: Path) -> tuple[World, dict[str, Report | HostError]]:
    wanted = story / "mesh.yaml"
    before = world((story / "before.yaml").read_text()) if (story / "before.yaml").exists() else None
    if before is None:
        now, made = world(wanted.read_text()), {}
    else:
        now = world(wanted.read_text(), before.lock) if wanted.exists() else before
        made = before.applied()
    reports: dict[str, Report | HostError] = {}
    for name in sorted({*now.mesh.hosts, *now.lock.leaving}):
        if (story / f"{name}.silent").exists():
            what = (story / f"{name}.silent").read_text().strip()
            reports[name] = HostError(name, "unreachable", what, f"try ssh {name}")
        else:
            seen = made.get(name, plan.fresh(name))
            if (story / f"{name}.staged").exists():
                seen = _staged(seen, now.bundles[name])
            reports[name] = report.parse(name, _output(story, name, seen))
    return now, reports


def _staged(seen: Report, wanted: Bundle) -> Report:
    """The report of a host on which this bundle was staged, and rolled back if it was switched."""
    assert seen.manifest is not None
    assert seen.daemon is not None
    manifest = replace(seen.manifest, conf_id=wanted.id, conf_sha256=wanted.conf_sha256)
    return replace(seen, manifest=manifest, daemon=replace(seen.daemon, staged_id=wanted.id))


def _output(story: Path, name: str, seen: Report) -> str:
    if (full := story / f"{name}.txt").exists():
        return full.read_text()
    if (running := story / f"{name}.running").exists():
        daemon = seen.daemon
        assert daemon is not None
        live = Configured(running.read_text())
        assert live.readable
        seen = replace(seen, daemon=replace(daemon, running=live))
    lines = observed(seen).splitlines()
    if (edits := story / f"{name}.observe").exists():
        for edit in edits.read_text().splitlines():
            if _subject(edit) not in map(_subject, lines):
                lines.insert(-1, edit)
            lines = [edit if _subject(line) == _subject(edit) else line for line in lines]
    return "\n".join(lines) + "\n"


def _subject(line: str) -> str:
    words = line.split()
    return f"file {words[-1]}" if words[0] == "file" else words[0]
