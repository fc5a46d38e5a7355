"""One SSH connection by paramiko: the cheap road, taken whenever paramiko can go it.

Strategy: the address comes resolved from `ssh -G`; the host key is compared with the pins before anything of ours is
sent; then the keys OpenSSH would try are tried in its order. What paramiko can't do (FIDO keys, agent certificates,
GSSAPI, host certificates, algorithms it lacks) raises NotForParamiko, and the pool goes on with the ssh command.

What it does not do: ask for a passphrase, offer a password, read any configuration.
"""

from __future__ import annotations

import logging
import select
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import paramiko

from meshctl.core.errors import HostError
from meshctl.shell.become import Sudo
from meshctl.shell.completed import Completed
from meshctl.shell.sshconfig import Road, proxy_command, unreachable, wrong_host_key

# paramiko logs tracebacks of what we return as values; a program that wants them can raise the level again.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

_log = logging.getLogger(__name__)
_CHUNK = 32768  # bytes; paramiko's packet size
_LAST_WORDS = 0.3  # seconds to wait for output after the exit status
_KEY_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}  # RFC 8332: the same key signs under other names


class NotForParamiko(Exception):
    """paramiko can't go this road; OpenSSH may."""


class _Wire:
    """The bytes' way to a host: a socket, or a proxy's standard input and output; and the transport on it."""

    def __init__(self, host: str, address: Road) -> None:
        self._host = host
        self._address = address
        self._proxy: subprocess.Popen[bytes] | None = None
        try:
            self.transport = paramiko.Transport(self._socket())
        except BaseException:
            self._end_proxy()
            raise
        self.transport.daemon = True
        self.transport.banner_timeout = self.transport.auth_timeout = address.connect_timeout

    def close(self) -> None:
        self.transport.close()
        self._end_proxy()

    def unreachable(self, error: BaseException) -> HostError:
        """The error in the words of whoever knows best: the proxy, if there is one."""
        why = _words(error)
        if self._proxy is not None:
            said = self._end_proxy().decode(errors="replace").strip().splitlines()
            way = f"through {self._address.proxyjump}" if self._address.proxyjump else "through its ProxyCommand"
            why = f"{way}: {said[-1].strip() if said else why}"
        return unreachable(self._host, self._address, why)

    def _end_proxy(self) -> bytes:
        """What it said on its standard error."""
        proxy, self._proxy = self._proxy, None
        if proxy is None:
            return b""
        proxy.terminate()
        return proxy.communicate()[1]

    def _socket(self) -> socket.socket:
        address = self._address
        command = proxy_command(address)
        if command is None:
            try:
                return socket.create_connection((address.hostname, address.port), timeout=address.connect_timeout)
            except OSError as error:
                raise self.unreachable(error) from error
        ours, theirs = socket.socketpair()
        with theirs:
            argv = ["/bin/sh", "-c", f"exec {command}"] if isinstance(command, str) else command
            self._proxy = subprocess.Popen(argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE)
        return ours


class ParamikoConnection:
    """An authenticated connection, used by one command at a time."""

    def __init__(self, host: str, address: Road) -> None:
        self._host = host
        self._address = address
        if address.has_authority:
            raise NotForParamiko("host certificates")
        self._wire = _Wire(host, address)
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def run(self, command: str, stdin: bytes, timeout: float, sudo: Sudo | None = None) -> Completed:
        """Run a command to its end; raises HostError when the connection dies or `timeout` seconds pass."""
        deadline = time.monotonic() + timeout
        try:
            channel = self._wire.transport.open_session(timeout=timeout)
            channel.exec_command(command)
            return self._converse(channel, stdin, deadline, sudo)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostError(
                self._host, "unreachable", f"the SSH connection broke: {_words(error)}", "run the same command again"
            ) from error

    def close(self) -> None:
        """End the connection; a command in flight fails in its own thread."""
        self._wire.close()

    @property
    def alive(self) -> bool:
        return bool(self._wire.transport.is_active())

    def _converse(self, channel: paramiko.Channel, stdin: bytes, deadline: float, sudo: Sudo | None) -> Completed:
        """Feed stdin and read both outputs together, so that no full pipe can stop the other."""
        out, err = bytearray(), bytearray()
        pending = memoryview(b"" if sudo is not None and sudo.waits else stdin)
        open_for_input = True
        ended_at: float | None = None
        channel.setblocking(False)
        while True:
            while channel.recv_ready():
                out += channel.recv(_CHUNK)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(_CHUNK)
            now = time.monotonic()
            if channel.exit_status_ready():
                ended_at = now if ended_at is None else ended_at
                # A child left in the background may hold the output open: what came by now is all.
                if (channel.eof_received and not channel.recv_ready()) or now > ended_at + _LAST_WORDS:
                    break
            elif channel.closed:
                raise EOFError("the host closed the connection")
            elif now > deadline:
                channel.close()
                raise HostError(self._host, "unreachable", "the command did not end in time", "look at the host's load")
            if sudo is not None and sudo.waits and not pending:
                pending = memoryview(sudo.answer(bytes(err), stdin))
            if pending and channel.send_ready():
                pending = pending[channel.send(pending[:_CHUNK]) :]
            elif not pending and open_for_input and (sudo is None or not sudo.waits):
                channel.shutdown_write()
                open_for_input = False
            elif channel.eof_received:
                channel.status_event.wait(_LAST_WORDS)
            else:
                select.select([channel], [], [], 0.02 if pending else 0.2)
        status = channel.recv_exit_status()
        channel.close()
        return Completed(status, out.decode(errors="replace"), err.decode(errors="replace"))

    def _connect(self) -> None:
        address = self._address
        transport = self._wire.transport
        options = transport.get_security_options()
        kinds = [pin.split()[0] for pin in address.host_keys]
        usable = [name for kind in kinds for name in _KEY_ALGORITHMS.get(kind, (kind,)) if name in options.key_types]
        if not usable:
            raise NotForParamiko("a host key type that paramiko lacks")
        options.key_types = list(dict.fromkeys(usable))
        try:
            transport.start_client(timeout=address.connect_timeout)
        except paramiko.IncompatiblePeer as error:
            # Perhaps an algorithm, perhaps the host has no key of a pinned type any more: OpenSSH tells which.
            raise NotForParamiko(_words(error)) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._wire.unreachable(error) from error
        if _pin(transport.get_remote_server_key()) not in address.host_keys:
            raise wrong_host_key(self._host, address)
        self._authenticate(transport)

    def _authenticate(self, transport: paramiko.Transport) -> None:
        """Try the agent's keys that the configuration names, the agent's others, then the files: OpenSSH's order."""
        failed = "no key to offer"
        for key in _identities(self._address):
            try:
                transport.auth_publickey(self._address.user, key)
            except paramiko.AuthenticationException as error:
                failed = _words(error)
            except (paramiko.SSHException, OSError, EOFError) as error:
                # Too many keys for the server's MaxAuthTries, or a key the agent won't sign with.
                raise NotForParamiko(_words(error)) from error
            if transport.is_authenticated():
                return
            if not transport.is_active():
                break
        raise NotForParamiko(failed)


def offered_host_key(host: str, address: Road) -> str:
    """The host key a host shows, unchecked (`ssh-ed25519 AAAA…`): for `trust` to print. Nothing is sent to the host.

    Raises HostError when there is no connection.
    """
    wire = _Wire(host, address)
    try:
        wire.transport.start_client(timeout=address.connect_timeout)
        return _pin(wire.transport.get_remote_server_key())
    except Exception as error:  # paramiko has no one class for what a strange server can make of it
        raise wire.unreachable(error) from error
    finally:
        wire.close()


def _pin(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {b64encode(key.asbytes()).decode()}"


def _identities(address: Road) -> Iterator[paramiko.PKey]:
    configured = {path: _public_blob(path) for path in address.identity_files}
    wanted = {blob for blob in configured.values() if blob is not None}
    held = list(_agent_keys()) if address.agent else []
    yield from (key for key in held if key.asbytes() in wanted)
    if not address.identities_only:
        yield from (key for key in held if key.asbytes() not in wanted)
    offered = {key.asbytes() for key in held}
    for path, blob in configured.items():
        if blob in offered or not Path(path).is_file():
            continue
        try:
            key = paramiko.PKey.from_path(path)
        except Exception as error:
            _log.debug("%s: %s", path, error)
            continue
        for certificate in address.certificate_files:
            _add_certificate(key, certificate)
        yield key


def _agent_keys() -> Iterator[paramiko.PKey]:
    """The agent's plain keys; certificates and FIDO keys in it are OpenSSH's affair."""
    try:
        keys = paramiko.Agent().get_keys()
    except (paramiko.SSHException, OSError):
        return
    yield from (key for key in keys if not key.get_name().startswith("sk-") and "-cert-" not in key.get_name())


def _add_certificate(key: paramiko.PKey, path: str) -> None:
    try:
        key.load_certificate(path)
    except (ValueError, OSError, paramiko.SSHException):
        return  # made for another key


def _public_blob(path: str) -> bytes | None:
    try:
        return bytes(paramiko.pkey.PublicBlob.from_file(f"{path}.pub").key_blob)
    except (ValueError, OSError, IndexError):
        return None


def _words(error: BaseException) -> str:
    """An exception as half a sentence."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    said = str(error).strip().rstrip(".")
    if "SSH protocol banner" in said:  # paramiko/transport.py, _check_banner: nothing came, or something else
        return "what listens there does not speak SSH"
    return said[:1].lower() + said[1:] or "the host closed the connection"
