"""The program: `meshctl`, and `python -m meshctl`. Its first words, before anything that takes time to import.

Ctrl-C would be a traceback while the rest is imported; here it ends the program, quietly. From cli.main on, a command
hears of it and says what it leaves. What it can't mend: the moments in which Python itself starts.
"""

import os
import signal
from typing import NoReturn

_INTERRUPTED = 130


def _end(*_: object) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)


def main() -> NoReturn:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a background job goes on
        signal.signal(signal.SIGINT, _end)
    from meshctl import cli  # noqa: PLC0415

    cli.main()


if __name__ == "__main__":
    main()
