"""Latency: the internet's router hands each packet to this process by number, and sends it on when we say so.

Strategy: the kernel's packet queue (NFQUEUE) in its metadata mode, where packets stay in the kernel, unsegmented as
they came, and only their numbers cross over. The delay is one for all, so packets leave in the order they came in,
and one batch verdict releases all that are due. netem would do the same, but many kernels lack it; this is in all
that have nftables or iptables.

What it does not do: jitter, reordering, bandwidth. More than `_MOST_WAITING` packets under way are lost, as at any
router.

Sources: linux/netfilter/nfnetlink_queue.h, linux/netlink.h, net/netfilter/nfnetlink_queue.c
(nfqnl_recv_verdict_batch).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import time
from collections import deque
from typing import NoReturn

from meshctl.shell.lab.hostview import PATH

QUEUE = 0
_MOST_WAITING = 20_000  # packets
_MOST_AT_ONCE = 64  # packets taken in before those that are due get their turn
_BUFFER = 16 << 20  # bytes of numbers not read yet

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NO_ENOBUFS = 270, 5
_SUBSYSTEM = 3 << 8  # NFNL_SUBSYS_QUEUE
_PACKET, _CONFIG, _VERDICT_BATCH = _SUBSYSTEM | 0, _SUBSYSTEM | 2, _SUBSYSTEM | 3
_NLMSG_ERROR, _REQUEST, _ACK = 2, 1, 4
_PACKET_HDR, _VERDICT_HDR = 1, 2  # attributes of a packet, of a verdict
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_BIND, _METADATA, _KEEP_GSO, _ACCEPT = 1, 1, 4, 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_GENERAL = struct.Struct("!BBH")  # nfgenmsg: family, version, queue
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_BODY = _HEADER.size + _GENERAL.size


def divert() -> None:
    """Have this network namespace's router queue what it forwards. Raises OSError where the kernel can't."""
    rule = f"add rule inet lab through queue num {QUEUE}"
    if _works("nft", rule):
        return
    # Kernels without nftables' own `queue` have had the iptables target all along.
    target = ["-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", str(QUEUE)]
    if not (_works("iptables", *target) and _works("ip6tables", *target)):
        raise OSError("this kernel can't hold packets back (it has no NFQUEUE), so there is no latency in a lab")


def _works(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, env={"PATH": PATH}, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Delay:
    """Holds the queue of this network namespace from construction on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), _BUFFER)
        self._socket.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        self._socket.bind((0, 0))
        self._configure(_attribute(_CFG_CMD, struct.pack("!BxH", _BIND, 0)))
        self._configure(
            _attribute(_CFG_PARAMS, struct.pack("!IB", 0, _METADATA))
            + _attribute(_CFG_MAXLEN, struct.pack("!I", _MOST_WAITING))
            + _attribute(_CFG_FLAGS, struct.pack("!I", _KEEP_GSO))
            + _attribute(_CFG_MASK, struct.pack("!I", _KEEP_GSO))
        )
        self._socket.setblocking(False)

    def run(self) -> NoReturn:
        waiting: deque[tuple[float, int]] = deque()  # when it's due, number
        while True:
            wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            if select.select([self._socket], [], [], wait)[0]:
                self._read(waiting)
            now, last = time.monotonic(), None
            while waiting and waiting[0][0] <= now:
                last = waiting.popleft()[1]
            if last is not None:
                verdict = _attribute(_VERDICT_HDR, struct.pack("!II", _ACCEPT, last))
                self._socket.send(_message(_VERDICT_BATCH, verdict))

    def _read(self, waiting: deque[tuple[float, int]]) -> None:
        due = time.monotonic() + self._seconds
        for _ in range(_MOST_AT_ONCE):
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return
            if _HEADER.unpack_from(data)[1] == _PACKET:
                waiting.append((due, _number(data)))

    def _configure(self, attributes: bytes) -> None:
        self._socket.send(_message(_CONFIG, attributes, _REQUEST | _ACK))
        answer = self._socket.recv(4096)
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR and code:
            raise OSError(-code, f"the kernel's packet queue: {os.strerror(-code)}")


def _number(packet: bytes) -> int:
    """The packet's number, of the attribute that comes first (nfqnl_build_packet_message)."""
    at = _BODY
    while _ATTRIBUTE.unpack_from(packet, at)[1] != _PACKET_HDR:
        at += (_ATTRIBUTE.unpack_from(packet, at)[0] + 3) & ~3
    number: int = struct.unpack_from("!I", packet, at + _ATTRIBUTE.size)[0]
    return number


def _message(kind: int, attributes: bytes, flags: int = _REQUEST) -> bytes:
    header = _HEADER.pack(_BODY + len(attributes), kind, flags, 0, 0)
    return header + _GENERAL.pack(socket.AF_UNSPEC, 0, QUEUE) + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)
