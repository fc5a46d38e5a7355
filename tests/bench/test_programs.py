"""The bench's own programs: the mice on loopback, the old kernel on a child, the hub's namespaces."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lib import mice
from lib.others import Others
from lib.pair import OLD_KERNEL, Pair
from lib.peers import Daemon

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and a filter without no_new_privs need root")

# What a program finds, as errno or 0: UDP_SEGMENT and UDP_GRO read and set, SO_RCVBUF set, a TUN's TSO, then USO too.
PROBE = """
import fcntl, json, socket, struct
found = []
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, open("/dev/net/tun", "r+b", buffering=0) as tun:
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"old%d", 0x5001))
    for call in (
        lambda: s.getsockopt(17, 103), lambda: s.setsockopt(17, 103, 1400),
        lambda: s.getsockopt(17, 104), lambda: s.setsockopt(17, 104, 1),
        lambda: s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536),
        lambda: fcntl.ioctl(tun, 0x400454D0, 0x07), lambda: fcntl.ioctl(tun, 0x400454D0, 0x67),
    ):
        try:
            call()
            found.append(0)
        except OSError as why:
            found.append(why.errno)
print(json.dumps(found))
"""


def test_every_mouse_is_answered_and_the_lost_are_counted() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        flows: set[int] = set()

        def answer_but_every_fifth() -> None:
            for n in range(40):
                question, who = server.recvfrom(2048)
                assert len(question) == mice.SIZE
                flows.add(who[1])
                if n % 5:
                    server.sendto(question, who)

        thread = threading.Thread(target=answer_but_every_fifth)
        thread.start()
        said = mice.ask("127.0.0.1", server.getsockname()[1], flows=10, each_per_s=20, seconds=0.2)
        thread.join(5)
    assert said["asked"] == 40
    assert len(said["us"]) == 32
    assert all(0 < us < mice.LATE_S * 1e6 + 200_000 for us in said["us"])
    assert len(flows) == 10


@needs_root
def test_an_old_kernel_knows_no_segmentation_offload() -> None:
    def probe(*launcher: str | Path) -> list[int]:
        argv = [*launcher, sys.executable, "-c", PROBE]
        return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    unknown, invalid = errno.ENOPROTOOPT, errno.EINVAL
    assert probe() == [0, 0, 0, 0, 0, 0, 0]
    assert probe(sys.executable, OLD_KERNEL) == [unknown, unknown, unknown, unknown, 0, 0, invalid]


def test_what_we_started_and_waited_for_is_not_others() -> None:
    watch = Others()
    spin = "import time\nwhile time.process_time() < 0.5: pass"
    child = subprocess.Popen([sys.executable, "-c", spin])
    # It has ended, but nobody has been told yet: its time is no child's of ours.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    before = watch.percent()
    child.wait()
    assert before > watch.percent()


@needs_root
def test_a_hub_reaches_every_end() -> None:
    with Pair(Daemon("bare", "-", None), others=3) as hub:
        names = hub.ends
        for end in (1, 2, 3):
            assert hub.run(0, ["ping", "-c1", "-W2", hub.address(end)], check=False).returncode == 0, end
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert not any(name in left for name in names)
