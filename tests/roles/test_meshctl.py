"""The whole story on real hosts as their operator types it: trust, apply, again, drift, a reboot, remove.

The hosts are a machine with systemd, a container with systemd and a host without init; none has Python. Keys come from
an ssh-agent, host keys are pinned by `meshctl trust`. The fixture compares every host from before and after.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Fleet

pytestmark = [pytest.mark.root, pytest.mark.slow]

LINKS = 3


@pytest.fixture
def agent(fleet: Fleet) -> Iterator[dict[str, str]]:
    """The environment of a user whose agent holds the hosts' key."""
    started = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    words = dict(part.split("=", 1) for part in started.replace("\n", "").split(";") if "=" in part)
    environment = os.environ | {name: words[name] for name in ("SSH_AUTH_SOCK", "SSH_AGENT_PID")} | {"NO_COLOR": "1"}
    try:
        subprocess.run(["ssh-add", "-q", fleet.folder / "id_ed25519"], env=environment, check=True)
        yield environment
    finally:
        subprocess.run(["ssh-agent", "-k"], env=environment, capture_output=True, check=True)


def test_the_story_on_hosts_of_three_kinds(fleet: Fleet, agent: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text((fleet.folder / "mesh.yaml").read_text())

    def meshctl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "meshctl", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.run(command, cwd=tmp_path, env=agent, timeout=300, check=False, **pipes)

    def done(*words: str) -> str:
        ended = meshctl(*words)
        assert ended.returncode == 0, (words, ended.stdout, ended.stderr)
        return ended.stdout

    refused = meshctl("apply", "--yes")
    assert refused.returncode == 4, refused
    assert "meshctl trust" in refused.stderr + refused.stdout
    done("trust", "--yes")
    assert f"{LINKS} of {LINKS} links alive" in done("apply", "--yes")
    assert "nothing to do" in done("apply", "--yes")
    for host in fleet.hosts:
        shown = host.run("wg show prod latest-handshakes").stdout.split("\n")[:-1]
        assert len(shown) == len(fleet.hosts) - 1, shown
        assert all(int(line.split()[1]) > 0 for line in shown), shown
    _tcp_everywhere(fleet)

    fleet["a"].run("ip route del $(ip -4 route show dev prod | head -n 1)")
    fleet["b"].run("systemctl stop meshd@prod")
    fleet["a"].run("echo '# edited' >> /etc/systemd/system/meshd@.service")
    fleet["c"].run("wg set prod peer $(wg show prod peers | head -n 1) persistent-keepalive 7")
    planned = meshctl("plan", "--detailed-exitcode")
    assert planned.returncode == 2, planned
    for expected in ("route: ", "daemon: stopped -> running", "meshd@.service", "keepalive"):
        assert expected in planned.stdout, (expected, planned.stdout)
    assert planned.stdout.count("put back what was changed by hand") == len(fleet.hosts), planned.stdout
    done("apply", "--yes")
    assert "nothing to do" in done("apply", "--yes")
    _tcp_everywhere(fleet)

    fleet.reboot("a")
    done("verify")
    done("remove", "--yes")


def _tcp_everywhere(fleet: Fleet) -> None:
    """From every host to every other by name, v4 and v6: the SSH server answers through the mesh."""
    for host in fleet.hosts:
        for other in fleet.hosts:
            if other is host:
                continue
            script = f"""
                for address in $(sed -n 's/^\\([^ \\t]*\\)[ \\t].*{other.name}\\.prod.*/\\1/p' /etc/hosts); do
                    timeout 10 bash -c "exec 3<>/dev/tcp/$address/22 && head -c 4 <&3 && echo"
                done"""
            assert host.run(script).stdout.split() == ["SSH-", "SSH-"], (host.name, other.name)
