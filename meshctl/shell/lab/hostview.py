"""A host's own view of the file system: this machine's, but freshly installed, writable and thrown away.

Strategy: an overlay with this machine's `/` below and a tmpfs of the host's own above, in a mount namespace of its
own, so that a host costs what it changes and nothing of it is ever seen on the machine. Over it: an own /run (hence
no sign of the machine's systemd), /dev, /proc, /sys, empty home directories and temporary ones; accounts, sudoers and
sshd as the mesh file wants them. What meshd or its service would have left on the machine is taken out of the view.

What it does not do: guard the machine against its hosts. Root on a host can read this machine's files (not homes, not
what `hide` names) and is held off the clock, modules and global sysctls only. Directories that are mounts of their
own are seen where an ordinary system has programs (`_LOWER`), else they are empty.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from meshctl.shell.lab import kernel
from meshctl.shell.lab.wish import LabHost

# What root on a host is kept from, since it isn't the host's own (capabilities(7)).
DROPPED = (
    kernel.CAP_SYS_MODULE,
    kernel.CAP_SYS_RAWIO,
    kernel.CAP_SYS_BOOT,
    kernel.CAP_SYS_TIME,
    kernel.CAP_SYSLOG,
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_LOWER = ("/", "/etc", "/usr", "/usr/local", "/opt", "/var", "/var/lib")  # overlaid where they are mounts of their own
_FRESH = {"/tmp": 0o1777, "/var/tmp": 0o1777, "/root": 0o700, "/home": 0o755, "/var/log": 0o755, "/mnt": 0o755}  # noqa: S108  mount points
_NOT_INSTALLED = (
    "/etc/meshd",
    "/etc/systemd/system/meshd@*",
    "/etc/systemd/system/*.wants/meshd@*",
    "/etc/tmpfiles.d/meshd*",
    "/etc/init.d/meshd*",
    "/etc/ssh/ssh_host_*",
    "/usr/local/lib/meshd",
    "/usr/local/bin/meshd",
    "/var/lib/meshd",
)
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_TUN = (10, 200)  # Documentation/admin-guide/devices.txt
_SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp internal-sftp
"""
# The host's first process: keeps sshd going and collects orphans, as pid 1 has to.
_INIT = """\
while :; do
  /usr/bin/env -i PATH="$PATH" "$1" -D -e </dev/null >>/var/log/sshd.log 2>&1 &
  wait $!
  sleep 1
done
"""


@dataclass(frozen=True, slots=True)
class HostView:
    """All that is needed to become one host. `work` is an empty directory to mount at, seen by nobody else."""

    host: LabHost
    work: Path
    hosts_file: str
    authorized_key: str
    sshd: str
    hide: tuple[str, ...]

    def build(self) -> str:
        """Make the view and make it this process's, which is pid 1 of new namespaces; the public SSH host key."""
        socket.sethostname(self.host.name)
        kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
        root = self._overlay()
        os.umask(0)
        self._devices(root / "dev")
        os.umask(0o022)
        kernel.make_root(root)
        _kernel_files()
        self._uninstall()
        self._accounts()
        return self._ssh()

    def become_init(self) -> None:
        """Never returns."""
        kernel.drop_from_bounding_set(self.dropped)
        os.execve("/bin/sh", ["sh", "-c", _INIT, "init", self.sshd], {"PATH": PATH})  # noqa: S606

    @property
    def dropped(self) -> tuple[int, ...]:
        return dropped(self.host.tun)

    def _overlay(self) -> Path:
        disk, root = self.work, self.work / "root"
        kernel.mount("lab", disk, "tmpfs", kernel.NO_DEV, f"size={self.host.disk_mib}m,mode=755")
        root.mkdir()
        for number, lower in enumerate(path for path in _LOWER if path == "/" or os.path.ismount(path)):
            upper, work = disk / f"upper{number}", disk / f"work{number}"
            upper.mkdir()
            work.mkdir()
            options = f"lowerdir={lower},upperdir={upper},workdir={work}"
            kernel.mount("overlay", _below(root, lower), "overlay", 0, options)
        hidden = [
            path for path in self.hide if _below(root, path).is_dir() and path not in _LOWER and not _in_fresh(path)
        ]
        for number, (path, mode) in enumerate((_FRESH | dict.fromkeys(hidden, 0o755)).items()):
            target, fresh = _below(root, path), disk / f"fresh{number}"
            if target.is_symlink():  # an absolute one would lead out of the view
                target.unlink()
            target.mkdir(exist_ok=True)
            fresh.mkdir()
            fresh.chmod(mode)
            kernel.bind(fresh, target)
        kernel.mount("run", root / "run", "tmpfs", kernel.NO_SUID | kernel.NO_DEV, "size=64m,mode=755")
        kernel.mount("dev", root / "dev", "tmpfs", kernel.NO_SUID, "size=1m,mode=755")
        return root

    def _devices(self, dev: Path) -> None:
        devices = dict(_DEVICES)
        if self.host.tun:
            (dev / "net").mkdir(0o755)
            devices["net/tun"] = _TUN
        for name, number in devices.items():
            os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(*number))
        for name in ("pts", "shm"):
            (dev / name).mkdir(0o755)
        kernel.mount(
            "devpts",
            dev / "pts",
            "devpts",
            kernel.NO_SUID | kernel.NO_EXEC,
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
        )
        kernel.mount("shm", dev / "shm", "tmpfs", kernel.NO_SUID | kernel.NO_DEV, "size=16m,mode=1777")
        for name, target in {
            "ptmx": "pts/ptmx",
            "fd": "/proc/self/fd",
            "stdin": "fd/0",
            "stdout": "fd/1",
            "stderr": "fd/2",
        }.items():
            (dev / name).symlink_to(target)

    def _uninstall(self) -> None:
        for pattern in _NOT_INSTALLED:
            for path in Path("/").glob(pattern.lstrip("/")):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _accounts(self) -> None:
        host = self.host
        write("/etc/hostname", f"{host.name}\n")
        write("/etc/hosts", f"127.0.1.1\t{host.name}\n{self.hosts_file}")
        write("/etc/resolv.conf", "# a lab has no DNS: names are in the hosts file\n")
        home = "/root"
        _without_password("root")
        if host.user != "root":
            home = f"/home/{host.user}"
            _add_user(host.user, home)
            may = f"{host.user} ALL=(ALL:ALL) {'' if host.sudo_password else 'NOPASSWD: '}ALL\n" if host.sudo else ""
            shutil.rmtree("/etc/sudoers.d", ignore_errors=True)
            write("/etc/sudoers", f"root ALL=(ALL:ALL) ALL\n{may}", 0o440)
            if host.sudo_password:
                subprocess.run(
                    ["chpasswd"], input=f"{host.user}:{host.sudo_password}", text=True, check=True, env={"PATH": PATH}
                )
        owner = Path(home).stat()
        keys = Path(home, ".ssh", "authorized_keys")
        keys.parent.mkdir(0o700)
        write(keys, f"{self.authorized_key}\n", 0o600)
        for path in (keys.parent, keys):
            os.chown(path, owner.st_uid, owner.st_gid)

    def _ssh(self) -> str:
        write("/etc/ssh/sshd_config", _SSHD_CONFIG)
        Path("/run/sshd").mkdir(0o755)
        return make_key(Path("/etc/ssh/ssh_host_ed25519_key"), self.host.name)


def dropped(tun: bool) -> tuple[int, ...]:
    """The capabilities nobody on a host has; without TUN it must not be made by mknod either."""
    return DROPPED if tun else (*DROPPED, kernel.CAP_MKNOD)


def make_key(path: Path, comment: str) -> str:
    """A new ed25519 key pair at `path`; the public line, without the comment."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, env={"PATH": PATH})
    return " ".join(path.with_name(f"{path.name}.pub").read_text(encoding="ascii").split()[:2])


def write(path: str | Path, text: str, mode: int = 0o644) -> None:
    """Replace a file, also where it is a link to somewhere else (as /etc/resolv.conf often is)."""
    path = Path(path)
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, mode)
        file.write(text)


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _kernel_files() -> None:
    """/proc and /sys of these namespaces; of the sysctls only net's, which are the host's own, can be written."""
    flags = kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC
    kernel.mount("proc", "/proc", "proc", flags)
    kernel.bind("/proc/sys/net", "/proc/sys/net")
    kernel.bind("/proc/sys", "/proc/sys", kernel.RECURSIVE)
    kernel.mount("none", "/proc/sys", None, kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | flags)
    kernel.mount("sysfs", "/sys", "sysfs", flags | kernel.READ_ONLY)


def _in_fresh(path: str) -> bool:
    return any(Path(path).is_relative_to(fresh) for fresh in _FRESH)


def _add_user(name: str, home: str) -> None:
    """By hand: useradd differs from system to system, takes a tenth of a second, and these are three lines of text."""
    used = _ids("/etc/passwd") | _ids("/etc/group")
    uid = next(n for n in range(1000, 60000) if n not in used)
    _set_entry("/etc/passwd", name, f"{name}:x:{uid}:{uid}::{home}:/bin/sh")
    _set_entry("/etc/group", name, f"{name}:x:{uid}:")
    _without_password(name)
    Path(home).mkdir(0o700)
    os.chown(home, uid, uid)


def _without_password(name: str) -> None:
    """`*` is no password, but not locked as `!` is, which sshd refuses even with a key when it has no PAM (sshd(8))."""
    _set_entry("/etc/shadow", name, f"{name}:*:20000:0:99999:7:::")


def _ids(path: str) -> set[int]:
    entries = (line.split(":") for line in Path(path).read_text(encoding="utf-8").splitlines())
    return {int(entry[2]) for entry in entries if len(entry) >= 3 and entry[2].isdigit()}


def _set_entry(path: str, name: str, entry: str) -> None:
    """Written in place: owner and mode of these files differ from system to system and matter."""
    file = Path(path)
    kept = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith(f"{name}:")]
    file.write_text("\n".join([*kept, entry]) + "\n", encoding="utf-8")
