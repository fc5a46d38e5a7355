"""The image of a test host: a small Debian with systemd and sshd, made by debootstrap and kept in podman's storage.

Strategy: the recipe (suite, packages, set-up script) is hashed into the image's tag, so a changed recipe is a new
image and an unchanged one costs nothing. There is no registry in the picture and no Python in the image: what meshctl
promises is that a host needs none. Users of the image: `root` (key), `admin` (sudo without password), `deputy` (sudo
with PASSWORD), `guest` (no sudo).

It does not start anything: that is hosts.py.
"""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

PASSWORD = "for-tests-only"
"""The login and sudo password of `deputy`; such hosts live on a network of this machine only."""

SUITE = "bookworm"
PACKAGES = (
    "systemd,systemd-sysv,dbus,openssh-server,iproute2,iputils-ping,nftables,sudo,wireguard-tools,netcat-openbsd,openrc"
)

SETUP = r"""
set -eu
apt-get clean
rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* /etc/runlevels/*/*
: > /etc/machine-id
printf '127.0.0.1 localhost\n::1 localhost\n' > /etc/hosts

for user in admin deputy guest; do
    useradd --create-home --shell /bin/sh "$user"
done
echo "deputy:PASSWORD" | chpasswd
printf 'admin ALL=(ALL) NOPASSWD: ALL\ndeputy ALL=(ALL) ALL\n' > /etc/sudoers.d/test-hosts
chmod 0440 /etc/sudoers.d/test-hosts

# Host keys are made at first boot, so that no two hosts share one; and no name service means no reverse look-ups.
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' \
    > /etc/systemd/system/ssh.service.d/host-keys.conf
printf 'UseDNS no\nPrintMotd no\nMaxStartups 100\n' > /etc/ssh/sshd_config.d/test-hosts.conf
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer getty.target \
    systemd-resolved.service > /dev/null 2>&1
"""


def tag() -> str:
    recipe = "\n".join((SUITE, PACKAGES, SETUP, PASSWORD))
    return f"localhost/meshctl-host:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure(work: Path) -> str:
    """The tag of the image, made when it is missing (about a minute, 320 MB below `work` while it lasts)."""
    name = tag()
    if subprocess.run(["podman", "image", "exists", name], check=False, stderr=subprocess.DEVNULL).returncode == 0:
        return name
    work.mkdir(parents=True, exist_ok=True)
    tree = Path(tempfile.mkdtemp(prefix="image-", dir=work))
    try:
        _make(tree, name)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    return name


def _make(tree: Path, name: str) -> None:
    tree.chmod(0o755)  # it becomes "/"; mkdtemp's 0700 would lock every user but root out
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(tree)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    script = SETUP.replace("PASSWORD", PASSWORD)
    subprocess.run(["chroot", str(tree), "/bin/sh", "-s"], input=script.encode(), check=True)
    with subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["podman", "--log-level=error", "import", "-", name],
            stdin=tar.stdout,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    if tar.returncode != 0:
        raise RuntimeError(f"tar of {tree} ended with {tar.returncode}")
