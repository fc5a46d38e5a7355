"""One run of a playbook of the collection on test hosts, with what its events say."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .hosts import ROOT, Fleet

COLLECTIONS = ROOT / "build" / "collections"


@dataclass(frozen=True)
class Played:
    exit: int
    events: tuple[dict[str, Any], ...]
    output: str

    def of(self, host: str) -> dict[str, dict[str, Any]]:
        """Step → its last event, for one host."""
        return {event["step"]: event for event in self.events if event["host"] == host}

    def changed(self, host: str) -> list[str]:
        return [what for event in self.of(host).values() for what in event["changed"]]

    def error(self, host: str) -> dict[str, str]:
        errors = [event["error"] for event in self.events if event["host"] == host and "error" in event]
        assert len(errors) == 1, f"{host}: {errors}\n{self.output}"
        return errors[0]


def play(fleet: Fleet, playbook: str, bundles: Path, *arguments: str, **variables: Any) -> Played:
    """`meshctl.mesh.PLAYBOOK` on every host of the fleet; `variables` win over the inventory's."""
    given = {"meshd_bundle": f"{bundles}/{{{{ inventory_hostname }}}}", **variables}
    read_end, write_end = os.pipe()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | {
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_CONFIG": str(_empty_config(fleet)),
        "ANSIBLE_CALLBACKS_ENABLED": "meshctl.mesh.events",
        "ANSIBLE_NOCOLOR": "1",
        "MESHCTL_EVENTS_FD": str(write_end),
    }
    command = [sys.executable, "-m", "ansible", "playbook", "-i", str(fleet.inventory), "-e", json.dumps(given)]
    with os.fdopen(read_end) as events:
        done = subprocess.run(
            [*command, f"meshctl.mesh.{playbook}", *arguments],
            env=environment,
            pass_fds=(write_end,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(write_end)
        lines = events.read().splitlines()
    return Played(done.returncode, tuple(json.loads(line) for line in lines), done.stdout + done.stderr)


def _empty_config(fleet: Fleet) -> Path:
    config = fleet.folder / "ansible.cfg"
    config.touch()
    return config
