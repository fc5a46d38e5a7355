"""What else the machine did while a sample was taken: other programs, and the host it is a guest of.

Strategy: the time the processors were busy, as the kernel counts it by ticks, less what this process and all it has
started and waited for took. Interrupts are left out of both, since no process is charged for them.

What it does not do: say who it was. With samples of seconds it is right to a few per cent.

Source: proc_stat(5), times(2).
"""

import os
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Others:
    """Starts to watch when made."""

    def __init__(self) -> None:
        self._start = (time.monotonic(), *_taken())

    def percent(self) -> float:
        """Of the machine's time since then, what others took; only right when all that was started has ended."""
        then, busy_then, ours_then = self._start
        busy, ours = _taken()
        available = (time.monotonic() - then) * (os.cpu_count() or 1)
        return max(0.0, (busy - busy_then) - (ours - ours_then)) / available * 100


def _taken() -> tuple[float, float]:
    """Seconds that the processors were busy (user, nice, system, stolen by the host), and ours of them."""
    stat = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(stat[n]) for n in (0, 1, 2, 7)) / TICKS, sum(os.times()[:4])
