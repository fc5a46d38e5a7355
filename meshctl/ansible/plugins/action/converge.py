"""The action `meshctl.mesh.converge`: one step of one host, in one round trip over the connection Ansible has.

It reads the task's arguments, hands a step (plugin_utils/steps.py) the way to the host, and puts its outcome into
Ansible's words: changed, diff, failed. Nothing is copied as a module and no Python is needed on the host. What a
connection or a become plugin raises stays Ansible's (an unreachable host is unreachable), except a refused sudo,
which is a fault with a hint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.meshctl.mesh.plugins.plugin_utils import bundle, fault, steps
from ansible_collections.meshctl.mesh.plugins.plugin_utils.fault import Fault
from ansible_collections.meshctl.mesh.plugins.plugin_utils.steps import Completed, Outcome, Remote

ARGUMENTS = {
    "step": {
        "type": "str",
        "required": True,
        "choices": ["preflight", "daemon", "stage", "switch", "confirm", "remove"],
    },
    "bundle": {"type": "path"},
    "name": {"type": "str"},
    "files": {"type": "path"},
    "observed": {"type": "str"},
    "arch": {"type": "str"},
    "within": {"type": "int", "default": 60},
}
NEEDED = [
    ("step", "preflight", ["bundle", "files"]),
    ("step", "daemon", ["bundle", "files"]),
    ("step", "stage", ["bundle"]),
    ("step", "switch", ["bundle"]),
    ("step", "confirm", ["bundle"]),
    ("step", "remove", ["name", "bundle"], True),
]


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(argument_spec=ARGUMENTS, required_if=NEEDED)
        remote = Remote(self._run_there, check=self._task.check_mode, diff=self._task.diff)
        try:
            outcome = self._step(remote, asked)
        except Fault as found:
            return result | {"failed": True, "msg": f"{found.what} ({found.hint})", "error": found.as_dict()}
        return result | _in_ansibles_words(outcome, remote.diff)

    def _step(self, remote: Remote, asked: dict[str, Any]) -> Outcome:
        step, name = asked["step"], asked["name"]
        if step == "remove":
            return steps.remove(remote, bundle.checked_name(name) if name else bundle.read(Path(asked["bundle"])).name)
        wanted = bundle.read(Path(asked["bundle"]))
        if step == "preflight":
            return steps.preflight(remote, wanted, Path(asked["files"]), asked["arch"])
        if step == "confirm":
            # A connection made before the switch proves nothing.
            self._connection.reset()
            return steps.confirm(remote, wanted)
        observed = asked["observed"] or steps.look(remote, wanted.name)
        if step == "daemon":
            return steps.daemon(remote, wanted, observed, Path(asked["files"]), asked["arch"])
        if step == "stage":
            return steps.stage(remote, wanted, observed)
        return steps.switch(remote, wanted, observed, asked["within"])

    def _run_there(self, command: str, stdin: bytes) -> Completed:
        # Never without stdin: Ansible would ask for a terminal then, which turns every LF into CR LF.
        try:
            done = self._low_level_execute_command(command, in_data=stdin)
        except AnsibleError as error:
            if refused := fault.of_become(str(error)):
                raise refused from None
            raise
        return Completed(done["rc"], done["stdout"], done["stderr"])


def _in_ansibles_words(outcome: Outcome, with_diff: bool) -> dict[str, Any]:
    words: dict[str, Any] = {"changed": bool(outcome.changes), "changes": list(outcome.changes)}
    if with_diff and outcome.diff:
        words["diff"] = list(outcome.diff)
    if outcome.observed is not None:
        words["observed"] = outcome.observed
    if outcome.links is not None:
        words["links"] = outcome.links
    return words
