"""The callback `meshctl.mesh.events`: one JSON object a line for each step of each host (docs/reference/contracts.md
§7).

They go to the file descriptor that MESHCTL_EVENTS_FD names, inherited from whoever started Ansible; without that
variable nothing happens. Only tasks of meshctl.mesh.converge are steps. Nothing secret passes here: results hold
public text only, and of a result no more than changes and error is written.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from ansible.plugins.callback import CallbackBase

if TYPE_CHECKING:
    from ansible.executor.task_result import TaskResult
    from ansible.inventory.host import Host
    from ansible.playbook.task import Task

DOCUMENTATION = """
    name: events
    type: aggregate
    short_description: write what happens on each host as JSON lines
    description:
        - Writes one JSON object a line to the descriptor in C(MESHCTL_EVENTS_FD), for programs that run these roles.
    requirements:
        - enable in configuration, for example with C(ANSIBLE_CALLBACKS_ENABLED=meshctl.mesh.events)
"""

CONVERGE = ("meshctl.mesh.converge", "converge")
UNREACHABLE = (
    ("host-key", re.compile(r"host key verification failed|remote host identification has changed", re.I),
     "run `meshctl trust` if the host was meant to change its key"),
    ("auth", re.compile(r"permission denied|authentication fail|too many authentication", re.I),
     "check the user and the key that `ssh HOST` uses"),
)  # fmt: skip
# What ansible's ssh connection puts in front of ssh's own words (plugins/connection/ssh.py).
IN_FRONT = re.compile(r"^.*(failed to connect to the host via ssh|can be reached over ssh): (?=.)", re.I)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "meshctl.mesh.events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        fd = os.environ.get("MESHCTL_EVENTS_FD", "")
        self._fd = int(fd) if fd.isdigit() else None
        self.disabled = self._fd is None

    def v2_runner_on_start(self, host: Host, task: Task) -> None:
        self._tell(host, task, "start")

    def v2_runner_on_ok(self, result: TaskResult) -> None:
        said = _said(result)
        self._tell(
            _host(result), _task(result), "changed" if said.get("changed") else "ok", changes=said.get("changes")
        )

    def v2_runner_on_failed(self, result: TaskResult, ignore_errors: bool = False) -> None:
        said = _said(result)
        error = said.get("error") or {
            "code": "other",
            "what": str(said.get("msg", "failed")),
            "hint": "run this again; if it stays so, report it",
        }
        self._tell(_host(result), _task(result), "failed", error=error)

    def v2_runner_on_unreachable(self, result: TaskResult) -> None:
        self._tell(
            _host(result), _task(result), "unreachable", error=_why_unreachable(str(_said(result).get("msg", "")))
        )

    def v2_runner_on_skipped(self, result: TaskResult) -> None:
        self._tell(_host(result), _task(result), "skipped")

    def _tell(
        self,
        host: Host,
        task: Task,
        status: str,
        changes: list[str] | None = None,
        error: dict[str, str] | None = None,
    ) -> None:
        if self._fd is None or task.action not in CONVERGE:
            return
        step = task.args.get("step")
        event = {"event": "step", "host": host.get_name(), "step": step, "status": status, "changed": changes or []}
        if error is not None:
            event["error"] = {key: str(error.get(key, "")) for key in ("code", "what", "hint")}
        line = json.dumps(event, separators=(",", ":")) + "\n"
        try:
            os.write(self._fd, line.encode())
        except OSError:  # the reader has gone; the play is not to stop half-way for that
            self._fd = None


def _why_unreachable(message: str) -> dict[str, str]:
    last = next((line for line in reversed(message.strip().splitlines()) if line.strip()), "no connection").strip()
    last = IN_FRONT.sub("", last)
    for code, pattern, hint in UNREACHABLE:
        if pattern.search(message):
            return {"code": code, "what": last, "hint": hint}
    return {"code": "unreachable", "what": last, "hint": "check that `ssh HOST true` works"}


# ansible-core 2.20 has host, task and result as attributes, older ones with a leading underscore.
def _host(result: TaskResult) -> Host:
    return result.host if hasattr(result, "host") else result._host


def _task(result: TaskResult) -> Task:
    return result.task if hasattr(result, "task") else result._task


def _said(result: TaskResult) -> dict[str, Any]:
    return result.result if hasattr(result, "result") else result._result
