"""The road to a host as the user's OpenSSH sees it: `ssh -G` resolves it, and we believe its answer.

Strategy: nobody but OpenSSH reads ssh_config right (Match, Include, tokens), so we ask it once a host and keep the
answer in a frozen Road. From the same address come the arguments for the `ssh` command (ours and Ansible's), so
that observe and apply meet the same host, the same host key and the same identity.

What it does not do: connect, or decide whom to trust. Host keys are the pins in `host_keys`, in the form of a
known_hosts line without its first field (`ssh-ed25519 AAAA…`, or `@cert-authority ssh-ed25519 AAAA…`).
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meshctl.core.errors import HostError

CONNECT_TIMEOUT = 10  # seconds, unless the user's ConnectTimeout says otherwise
SSH_PORT = 22
CA_MARK = "@cert-authority"
_TARGET = "[%h]:%p"  # in a ProxyCommand: whatever host the ssh that reads it is on its way to


@dataclass(frozen=True)
class Road:
    """How to reach one host by SSH.

    `destination` is what the user wrote, handed to the ssh command as it is; `config` the ssh_config to use (None: the
    user's own, "none": no file at all); `alias` the name under which the host's keys are pinned (OpenSSH's
    HostKeyAlias); `openssh_only` says that the configuration asks for what paramiko can't do.
    """

    destination: str
    hostname: str
    user: str
    port: int = 22
    alias: str = ""
    host_keys: tuple[str, ...] = ()
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    agent: bool = True
    proxyjump: str | None = None
    proxycommand: str | None = None
    connect_timeout: int = CONNECT_TIMEOUT
    config: str | None = None
    known_hosts_files: tuple[str, ...] = ()
    known_hosts_name: str = ""
    known_hosts_command: bool = False
    openssh_only: bool = False

    def pinned(self, host_keys: Iterable[str]) -> Road:
        """The same road with these pins; an authority's certificate names the host, so that is the alias then."""
        same = replace(self, host_keys=tuple(host_keys))
        return replace(same, alias=self.hostname) if same.has_authority else same

    @property
    def has_authority(self) -> bool:
        """Whether a certificate authority vouches for the host (which only the ssh command can check)."""
        return any(pin.startswith(CA_MARK) for pin in self.host_keys)


def available() -> bool:
    """Whether there is an ssh command to ask."""
    return shutil.which("ssh") is not None


def resolve(host: str, destination: str, *, port: int | None = None, config: Path | None = None) -> Road:
    """Ask OpenSSH how it would reach `destination` (`[user@]name`); `host` is the name in the mesh.

    Raises HostError when ssh is missing or refuses the destination.
    """
    command = ["ssh", "-G"]
    if config is not None:
        command += ["-F", str(config)]
    if port is not None:
        command += ["-p", str(port)]
    command += ["--", destination]
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # paths are bytes
            timeout=30,
            check=False,
        )
    except FileNotFoundError:
        raise HostError(
            host,
            "unreachable",
            "there is no ssh command here",
            "install OpenSSH's client, e.g. apt install openssh-client",
        ) from None
    except subprocess.TimeoutExpired:
        raise HostError(
            host, "unreachable", "ssh -G did not answer within 30 s", "look for a slow Match exec in ~/.ssh/config"
        ) from None
    if answer.returncode != 0:
        why = answer.stderr.strip().splitlines()
        raise HostError(host, "unreachable", f"ssh refuses {destination!r}: {why[-1] if why else 'no reason given'}")
    return parse_g(host, destination, answer.stdout, config=config)


def parse_g(host: str, destination: str, text: str, *, config: Path | None = None) -> Road:
    """Read the output of `ssh -G` (one `key value` a line; a key may be repeated)."""
    many: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        many.setdefault(key, []).append(value.strip())

    def one(key: str, default: str = "") -> str:
        return many.get(key, [default])[0]

    hostname, user, port = one("hostname"), one("user"), int(one("port", "22"))
    tokens = {"h": hostname, "n": destination.rpartition("@")[2], "p": str(port), "r": user, "%": "%"}
    tokens |= {"u": pwd.getpwuid(os.getuid()).pw_name, "d": str(Path.home()), "i": str(os.getuid())}
    tokens["k"] = one("hostkeyalias", "none") if one("hostkeyalias", "none") != "none" else hostname

    def paths(key: str) -> tuple[str, ...]:
        found = (_expand(value, tokens) for value in many.get(key, []))
        return tuple(str(Path(path).expanduser()) for path in found if path != "none")

    agent = one("identityagent", "SSH_AUTH_SOCK")
    timeout = one("connecttimeout", "none")
    proxycommand = one("proxycommand", "none")
    proxyjump = one("proxyjump", "none")
    files = [path for key in ("userknownhostsfile", "globalknownhostsfile") for path in one(key).split()]
    return Road(
        destination=destination,
        hostname=hostname,
        user=user,
        port=port,
        alias=f"meshctl-{host}",
        identity_files=paths("identityfile"),
        certificate_files=paths("certificatefile"),
        identities_only=one("identitiesonly", "no") == "yes",
        agent=agent == "SSH_AUTH_SOCK",
        proxyjump=None if proxyjump == "none" else proxyjump,
        proxycommand=None if proxycommand == "none" else _expand(proxycommand, tokens),
        connect_timeout=int(timeout) if timeout.isdecimal() and timeout != "0" else CONNECT_TIMEOUT,
        config=None if config is None else str(config),
        known_hosts_files=tuple(str(Path(_expand(path, tokens)).expanduser()) for path in files),
        known_hosts_name=_known_hosts_name(tokens["k"], port, aliased=tokens["k"] != hostname),
        known_hosts_command=one("knownhostscommand", "none") != "none",
        openssh_only=agent not in ("SSH_AUTH_SOCK", "none") or one("pkcs11provider", "none") != "none",
    )


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    """Replace the percent tokens of ssh_config(5) that can occur in paths and proxy commands."""
    return re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), text)


def _known_hosts_name(name: str, port: int, *, aliased: bool) -> str:
    """How known_hosts calls a host: `[name]:port` off the standard port, unless an alias stands for it (sshd(8))."""
    return name if port == SSH_PORT or aliased else f"[{name}]:{port}"


def known_keys(address: Road) -> tuple[str, ...]:
    """The keys the user's own known_hosts files hold for this host; `ssh-keygen -F` reads hashed names too.

    A revoked key is left out. No file, or no entry, is the empty tuple.
    """
    found: list[str] = []
    for path in address.known_hosts_files:
        if not Path(path).is_file():
            continue
        answer = subprocess.run(
            ["ssh-keygen", "-F", address.known_hosts_name, "-f", path],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        for line in answer.stdout.splitlines():
            fields = line.split()
            mark = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if len(fields) < 3 or fields[0].startswith("#") or mark == "@revoked":
                continue
            pin = " ".join([*([mark] if mark else []), fields[1], fields[2]])
            if pin not in found:
                found.append(pin)
    return tuple(found)


def known_hosts_lines(address: Road) -> list[str]:
    """The pins of one host as known_hosts lines under its alias."""
    lines = []
    for pin in address.host_keys:
        mark, _, key = pin.partition(" ") if pin.startswith("@") else ("", "", pin)
        lines.append(f"{mark} {address.alias} {key}".strip())
    return lines


def ssh_options(address: Road, known_hosts: Path) -> list[str]:
    """Arguments that make any ssh command check the pins of `known_hosts` and nothing else, and never ask.

    At a jump host too no unknown key is taken, whatever the user's configuration says of StrictHostKeyChecking.
    """
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": address.alias,
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(address.connect_timeout),
        "Port": str(address.port),
        "User": address.user,
    }
    if address.known_hosts_command:  # named only where ssh knows it (OpenSSH 8.5)
        options["KnownHostsCommand"] = "none"
    if address.proxyjump is not None:
        options["ProxyCommand"] = _as_text(_jump(address.proxyjump.split(","), _TARGET, address.config))
    arguments = [] if address.config is None else ["-F", address.config]
    for key, value in options.items():
        arguments += ["-o", f"{key}={value}"]
    if address.config == "none":  # nothing of the user's is read: say all of it here
        arguments += ["-o", f"HostName={address.hostname}", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
        for path in address.identity_files:
            arguments += ["-i", path]
    return arguments


def proxy_command(address: Road) -> list[str] | str | None:
    """The command whose stdin and stdout lead to the host, if it isn't reached directly (ssh_config(5), ProxyJump).

    A jump host is the user's affair: their configuration, their known_hosts, but never an unknown key.
    """
    if address.proxyjump is not None:
        host = f"[{address.hostname}]" if ":" in address.hostname else address.hostname
        return _jump(address.proxyjump.split(","), f"{host}:{address.port}", address.config)
    return address.proxycommand


def _jump(jumps: Sequence[str], target: str, config: str | None) -> list[str]:
    """ssh to the last of these hosts, through the others, as a way to `target`. As ssh -J does it (ssh.c), but with the
    same strictness at every hop: options of a command line don't reach the hops that -J makes.
    """
    *before, last = jumps
    command = ["ssh", "-W", target, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    command += [] if config is None else ["-F", config]
    if before:
        command += ["-o", f"ProxyCommand={_as_text(_jump(before, _TARGET, config))}"]
    user, at, name = last.removeprefix("ssh://").rpartition("@")
    name, colon, port = (
        (name, "", "") if name.endswith("]") else name.rpartition(":") if ":" in name else (name, "", "")
    )
    command += ["-p", port] if colon else []
    return [*command, "--", f"{user}{at}{name.strip('[]')}"]


def _as_text(command: Sequence[str]) -> str:
    """The command as the value of ProxyCommand, in which ssh reads the percent signs: only those of the target."""
    return shlex.join(command).replace("%", "%%").replace(_TARGET.replace("%", "%%"), _TARGET, 1)


def wrong_host_key(host: str, address: Road) -> HostError:
    return HostError(
        host,
        "host-key",
        f"{address.hostname} shows a host key that is not the pinned one",
        f"find out why; if the host was made anew: meshctl trust {host} --replace",
    )


def unreachable(host: str, address: Road, why: str) -> HostError:
    what = f"no SSH connection to {address.hostname} port {address.port}: {why}"
    return HostError(host, "unreachable", what, f"try: {by_hand(address)}")


def by_hand(address: Road) -> str:
    """The command with which the user tries the same road."""
    port = "" if address.port == SSH_PORT else f" -p {address.port}"
    return f"ssh{port} {address.destination}"
