#!/usr/bin/env python3
"""Mice: a hundred small flows that ask a little now and then, and how long each answer takes.

    mice.py answer PORT                                 answers every datagram from where it came, until it is ended
    mice.py ask ADDRESS PORT FLOWS EACH_PER_S SECONDS   all answers' times and its own CPU in µs, and how many it asked

Strategy: a socket a flow, one thread, epoll. The questions are spread evenly over the time, so that no two wait for one
another, and carry the moment they were put; the answer brings it back, so that nothing is looked up. What that adds to
a time shows on the bare veth.

What it does not do: ask again. What isn't answered half a second after the last question counts as lost.
"""

import contextlib
import json
import select
import socket
import struct
import sys
import time
from typing import Any

SIZE = 64
STAMP = struct.Struct("=q")
LATE_S = 0.5


def answer(port: int) -> None:
    """Sends back what comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("", port))
        while True:
            sock.sendto(*sock.recvfrom(SIZE))


def ask(address: str, port: int, flows: int, each_per_s: float, seconds: float) -> dict[str, Any]:
    """What `ask` prints."""
    times: list[float] = []
    count, pause_ns = int(flows * each_per_s * seconds), int(1e9 / (flows * each_per_s))
    with contextlib.ExitStack() as stack:
        # Not `selectors`, which takes longer than all else here.
        epoll = stack.enter_context(select.epoll())
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(flows)]
        for sock in sockets:
            sock.setblocking(False)
            sock.connect((address, port))
            epoll.register(sock, select.EPOLLIN)
        by_number = {sock.fileno(): sock for sock in sockets}
        start, cpu = time.monotonic_ns(), time.process_time()
        for n in range(count + 1):
            due = start + n * pause_ns + (int(LATE_S * 1e9) if n == count else 0)
            while (left := due - time.monotonic_ns()) > 0:
                for number, _ in epoll.poll(left / 1e9):
                    put = STAMP.unpack_from(by_number[number].recv(SIZE))[0]
                    times.append((time.monotonic_ns() - put) / 1000)
            if n < count:
                sockets[n % flows].send(STAMP.pack(time.monotonic_ns()).ljust(SIZE, b"\0"))
        cpu = time.process_time() - cpu
    return {"us": times, "asked": count, "cpu_us": cpu * 1e6}


if __name__ == "__main__":
    if sys.argv[1] == "answer":
        answer(int(sys.argv[2]))
    else:
        print(json.dumps(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6]))))
