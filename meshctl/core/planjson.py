"""The JSON forms of a plan and of a problem: what --json prints. `schema` counts up when a key changes its meaning."""

from __future__ import annotations

from collections import Counter
from typing import Any

from meshctl.core.errors import HostError, Problem
from meshctl.core.plan import Action, Plan

SCHEMA = 1
Json = dict[str, Any]


def plan(plan: Plan) -> Json:
    counts = Counter(h.action for h in plan.hosts if not h.errors)
    return {
        "schema": SCHEMA,
        "mesh": plan.mesh,
        "version": plan.version,
        "hosts": [
            {
                "host": h.host,
                "action": str(h.action),
                "changes": [
                    {"what": c.what, "before": c.before, "after": c.after, "drift": c.drift} for c in h.changes
                ],
                "errors": [host_error(e) for e in h.errors],
            }
            for h in plan.hosts
        ],
        "reach": {"gained": [list(p) for p in plan.gained], "lost": [list(p) for p in plan.lost]},
        "findings": [{"code": f.code, "hosts": list(f.hosts), "what": f.what, "hint": f.hint} for f in plan.findings],
        "forget": list(plan.forget),
        "summary": {str(a): counts[a] for a in Action} | {"error": sum(1 for h in plan.hosts if h.errors)},
    }


def host_error(error: HostError) -> Json:
    return {"host": error.host, "code": error.code, "what": error.what, "hint": error.hint}


def problem(problem: Problem) -> Json:
    where = problem.where
    return {
        "code": problem.code,
        "what": problem.what,
        "hint": problem.hint,
        "file": where.file if where else None,
        "line": where.line if where and where.line else None,
        "column": where.column if where and where.column else None,
    }
