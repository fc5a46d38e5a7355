#!/usr/bin/env python3
"""Real hosts to test on: podman containers that boot systemd and sshd, on a network of their own with fixed addresses.

Strategy: a *fleet* is a name and a few hosts. Everything it makes is found again by that name (containers and network
by label, files below build/hosts/NAME), so `down` needs no memory of `up` and cleans up after one that was killed. What
podman has of it carries a digest of the checkout's path too: two checkouts on one machine don't meet.
Addresses are from the ranges for tests and documentation (198.18.0.0/15, 2001:db8::/32) and cannot meet those of a
mesh. Host keys are read from the containers, never learned over the network.

    hosts.py up NAME HOST[:KIND]...    start; prints the folder with ssh_config, inventory.yml, mesh.yaml, …
    hosts.py reboot NAME [HOST...]     as a power cycle: /run and the network namespace are new
    hosts.py down NAME                 take everything away
    hosts.py image                     make the image only, where hosts can be made

A *machine* boots systemd with shared mounts and a hosts file of its own, as computers do; a *container* boots it the
way podman and docker do, without either; *openrc* has OpenRC's services and a *bare* host no init at all, process 1
of these two is sshd. Needs Linux, root and podman; no state of the machine is touched but podman's.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import image  # a script's own folder comes first: see the line above

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "build" / "hosts"
BOOT_TIMEOUT = 60.0

MACHINE, CONTAINER, OPENRC, BARE = "machine", "container", "openrc", "bare"
SSHD = "mkdir -p /run/sshd && ssh-keygen -A && exec /usr/sbin/sshd -D -e"
BOOT = {
    MACHINE: (
        ["--systemd=always", "--no-hosts"],
        "mount --make-rshared / && chmod 0666 /dev/net/tun && exec /sbin/init",  # as udev does, whatever ours is
    ),
    CONTAINER: (["--systemd=always"], "exec /sbin/init"),
    OPENRC: (
        ["--systemd=false", "--tmpfs=/run:notmpcopyup", "--no-hosts"],
        f"mkdir -p /run/openrc && openrc default; {SSHD}",
    ),
    BARE: (["--systemd=false", "--tmpfs=/run:notmpcopyup"], SSHD),
}


@dataclass(frozen=True)
class Host:
    name: str
    container: str
    address: str
    address6: str
    kind: str = MACHINE

    def run(self, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`script` as root inside the host by way of podman: to arrange and to check, never what is under test."""
        command = ["podman", "--log-level=error", "exec", "-i", self.container, "/bin/sh", "-s"]
        done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: exit {done.returncode} of: {script}\n{done.stdout}{done.stderr}")
        return done

    def reaches(self, *names: str) -> None:
        """An echo from each of these names, IPv4 or IPv6 as `-4` or `-6` before them says, within ten tries."""
        for name in names:
            self.run(f"for n in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 1 {name} && exit 0; done; exit 1")


@dataclass(frozen=True)
class Fleet:
    name: str
    hosts: tuple[Host, ...]

    @property
    def folder(self) -> Path:
        return STATE / self.name

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.yml"

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def reboot(self, *names: str) -> None:
        chosen = [host for host in self.hosts if not names or host.name in names]
        _podman("restart", "--time", "10", *(host.container for host in chosen))
        for host in chosen:
            _wait_for_sshd(host)


def plan(name: str, *hosts: str) -> Fleet:
    """Names, addresses and kinds of a fleet, each host a NAME or NAME:KIND: a pure function of its arguments."""
    net, net6 = _subnets(name)
    members = []
    for number, asked in enumerate(hosts, start=10):
        host, _, kind = asked.partition(":")
        if kind and kind not in BOOT:
            raise ValueError(f"{asked}: a host is a {', '.join(BOOT)}")
        container = f"{_own(name)}-{host}"
        members.append(Host(host, container, str(net[number]), str(net6[number]), kind or MACHINE))
    return Fleet(name, tuple(members))


def up(name: str, *hosts: str) -> Fleet:
    fleet = plan(name, *hosts)
    down(name)
    tag = image.ensure(ROOT / "build")
    fleet.folder.mkdir(parents=True)
    key = fleet.folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True)
    net, net6 = _subnets(name)
    _podman(
        "network", "create", "--label", f"meshctl.fleet={_own(name)}", "--disable-dns",
        "--subnet", str(net), "--ipv6", "--subnet", str(net6), _own(name),
    )  # fmt: skip
    for host in fleet.hosts:
        _start(fleet, host, tag)
    public = (fleet.folder / "id_ed25519.pub").read_text()
    for host in fleet.hosts:
        _wait_for_sshd(host)
        host.run(_authorise(public))
    _write_access(fleet)
    return fleet


def down(name: str) -> None:
    label = f"label=meshctl.fleet={_own(name)}"
    if containers := _podman("ps", "--all", "--quiet", "--filter", label).split():
        _podman("rm", "--force", "--time", "0", "--volumes", *containers)
    if networks := _podman("network", "ls", "--quiet", "--filter", label).split():
        _podman("network", "rm", "--force", *networks)
    shutil.rmtree(STATE / name, ignore_errors=True)


def missing() -> str | None:
    """Why hosts cannot be made on this machine, as a sentence; None when they can."""
    if os.geteuid() != 0:
        return "test hosts need root: their addresses must be reachable from here"
    for tool in ("podman", "debootstrap", "ssh-keygen"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


def _start(fleet: Fleet, host: Host, tag: str) -> None:
    options, command = BOOT[host.kind]
    labels = ["--label", f"meshctl.fleet={_own(fleet.name)}", "--label", f"meshctl.kind={host.kind}"]
    network = ["--network", _own(fleet.name), "--ip", host.address, "--ip6", host.address6]
    names = ["--name", host.container, "--hostname", host.name]
    run = [*_runtime(), "run", "--detach", "--privileged", *_limits(), *names, *labels, *network, *options]
    _podman(*run, tag, "/bin/sh", "-c", command)


def _runtime() -> list[str]:
    """crun refuses machines with the old cgroup hierarchies; runc does not."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    runc = shutil.which("runc")
    return ["--runtime", runc] if not unified and runc else []


def _limits() -> list[str]:
    """podman raises limits to its defaults, which fails where CAP_SYS_RESOURCE is missing: ask for what is there."""
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    cap_sys_resource = 1 << 24  # include/uapi/linux/capability.h
    if int(effective.split()[1], 16) & cap_sys_resource:
        return []
    return ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:8192"]


def _authorise(public: str) -> str:
    return f"""
set -eu
for home in /root /home/admin /home/deputy /home/guest; do
    user=${{home##*/}}
    install -d -m 0700 -o "$user" -g "$user" "$home/.ssh"
    printf '%s' '{public}' > "$home/.ssh/authorized_keys"
    chown "$user:$user" "$home/.ssh/authorized_keys"
    chmod 0600 "$home/.ssh/authorized_keys"
done
"""


def _wait_for_sshd(host: Host) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT
    while True:
        try:
            with socket.create_connection((host.address, 22), timeout=2) as stream:
                if stream.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{host.container}: no SSH server at {host.address} after {BOOT_TIMEOUT:.0f} s")
        time.sleep(0.1)


def _write_access(fleet: Fleet) -> None:
    """known_hosts, ssh_config, an Ansible inventory and a mesh.yaml; a host is called by its name in all of them."""
    known, config, inventory = [], [], {}
    for host in fleet.hosts:
        host_key = host.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()
        known.append(f"{host.name},{host.address},{host.address6} {host_key[0]} {host_key[1]}\n")
        config.append(f"Host {host.name}\n  HostName {host.address}\n")
        inventory[host.name] = {"ansible_host": host.address}
    folder = fleet.folder
    members = "".join(f"  {host.name}: root@{host.address}\n" for host in fleet.hosts)
    (folder / "mesh.yaml").write_text(f"mesh: prod\nhosts:\n{members}")
    (folder / "known_hosts").write_text("".join(known))
    options = f"  IdentityFile {folder}/id_ed25519\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
    options += "  StrictHostKeyChecking yes\n  User root\n"
    (folder / "ssh_config").write_text("".join(config) + "Host *\n" + options)
    variables = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": f"{folder}/id_ed25519",
        "ansible_ssh_common_args": f"-F {folder}/ssh_config",
    }
    # JSON is YAML: no YAML library is needed to write it.
    fleet.inventory.write_text(json.dumps({"mesh": {"hosts": inventory, "vars": variables}}, indent=1) + "\n")


def _own(name: str) -> str:
    """What a fleet of this checkout is called where all checkouts of the machine meet."""
    return f"meshctl-{hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:8]}-{name}"


def _subnets(name: str) -> tuple[IPv4Network, IPv6Network]:
    """A fleet's networks, one of 4096 and one of 4 billion, from its name, so that fleets can live side by side."""
    digest = hashlib.sha256(_own(name).encode()).digest()
    ours = int.from_bytes(digest[:2]) % 4096
    first, first6 = int(IPv4Address("198.18.0.0")), int(IPv6Address("2001:db8::"))
    return IPv4Network((first + ours * 32, 27)), IPv6Network((first6 + (int.from_bytes(digest[2:6]) << 64), 64))


def _podman(*arguments: str) -> str:
    done = subprocess.run(["podman", "--log-level=error", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"podman {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Real systemd hosts to test on, in podman.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up")
    start.add_argument("name")
    start.add_argument("hosts", nargs="+", metavar="HOST[:KIND]")
    restart = commands.add_parser("reboot")
    restart.add_argument("name")
    restart.add_argument("hosts", nargs="*")
    commands.add_parser("down").add_argument("name")
    commands.add_parser("image")
    asked = parser.parse_args()
    if reason := missing():
        sys.stderr.write(f"hosts.py: {reason}\n")
        return 0 if asked.command == "image" else 1  # without an image there are no hosts, and each says so again
    if asked.command == "up":
        sys.stdout.write(f"{up(asked.name, *asked.hosts).folder}\n")
    elif asked.command == "reboot":
        found(asked.name).reboot(*asked.hosts)
    elif asked.command == "down":
        down(asked.name)
    else:
        sys.stdout.write(f"{image.ensure(ROOT / 'build')}\n")
    return 0


def found(name: str) -> Fleet:
    """The fleet of that name as it runs now."""
    listed = json.loads(_podman("ps", "--all", "--format", "json", "--filter", f"label=meshctl.fleet={_own(name)}"))
    prefix = f"{_own(name)}-"
    hosts = []
    for container in listed:
        full = container["Names"][0]
        settings = json.loads(_podman("inspect", full))[0]["NetworkSettings"]["Networks"][_own(name)]
        kind = container["Labels"]["meshctl.kind"]
        hosts.append(Host(full.removeprefix(prefix), full, settings["IPAddress"], settings["GlobalIPv6Address"], kind))
    return Fleet(name, tuple(sorted(hosts, key=lambda host: host.name)))


if __name__ == "__main__":
    sys.exit(main())
