"""Views of a change of keys: what is to come, each step, and what is left to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from meshctl import views
from meshctl.core import rotation
from meshctl.core.lock import Stage
from meshctl.flow.rotating import Rotating, Step
from meshctl.views import Line


def rotating(begun: Rotating) -> Iterator[Line]:
    """Which keys change, and the plan of the step that comes first."""
    if begun.stage is None:
        yield views.line("giving up a change of keys: the current ones stay", "bold")
        yield from views.plan(begun.planned.plan)
        return
    whose = views.some(begun.hosts)
    links = (
        f"new pre-shared keys for all links (epoch {begun.psk_epoch - 1} -> {begun.psk_epoch})"
        if begun.psk_epoch is not None
        else ""
    )
    parts = "; ".join(filter(None, (f"new key pairs for {whose}" if whose else "", links)))
    head = "going on with a change of keys: " if begun.begun else ""
    yield views.line(f"{head}{parts or 'the old ones go'}", "bold")
    shown = begun.planned.plan
    yield from views.plan(replace(shown, findings=tuple(f for f in shown.findings if f.code != "rotation")))
    if begun.known:
        yield views.line("every host knows the next keys; the old ones are to go")


def step(step: Step, *, lab: bool = False) -> Iterator[Line]:
    """What became of a step of a change of keys; the links when there is no other step to come."""
    if not step.outcome.rolled_back and rotation.may_move(step.lock):
        yield from views.outcome(replace(step.outcome, status=None, waiting=0), lab=lab)
        yield views.line("every host knows the next keys; now the old ones go")
        return
    yield from views.outcome(step.outcome, lab=lab, then=_then(step.stage, views.in_lab(lab)))
    if step.outcome.status is None:
        for finding in step.findings:
            yield from views.told(finding)
    if step.stage is None:
        yield views.line("the next keys are forgotten", "bold")
    elif step.lock.rotation is None:
        yield views.line(
            "the keys are changed; the old ones are of no use any more, at the latest 15 s from now", "bold"
        )


def _then(stage: Stage | None, lab: str) -> str:
    """What to do after a step that was rolled back."""
    if stage is None:  # it is given up already: what hosts still have of it apply takes away
        return f"put that right, then: meshctl apply{lab}"
    on = f"put that right, then: meshctl rotate{lab}"
    return f"{on}; or give the change up: meshctl rotate --cancel{lab}" if stage is Stage.ANNOUNCE else on


def rotating_json(begun: Rotating) -> dict[str, Any]:
    return {
        "schema": 1,
        "stage": str(begun.stage or "cancel"),
        "begun": begun.begun,
        "hosts": list(begun.hosts),
        "psk_epoch": begun.psk_epoch,
    }


def step_json(step: Step) -> dict[str, Any]:
    """`rotation` is what is left to do: null when nothing is."""
    left = step.lock.rotation
    waits = {"stage": str(left.stage), "waits_for": sorted(left.waits_for)} if left is not None else None
    return {"stage": str(step.stage or "cancel"), **views.outcome_json(step.outcome), "rotation": waits}
