"""The only place that prints. stdout is data, stderr is talk.

Colour is used on a terminal, unless NO_COLOR (no-color.org) says no; it repeats what a glyph or a word says. A terminal
sees the work live, host by host and step by step (with rich, loaded only then); a pipe gets one plain line a step.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from meshctl.core.errors import Failed, Failure, HostError, Invalid

if TYPE_CHECKING:
    from rich.live import Live

    from meshctl.views import Line

_CODES = {"add": "32", "change": "33", "remove": "31", "error": "1;31", "hint": "36", "dim": "2", "bold": "1"}
_MARKS = {"start": "…", "ok": "=", "changed": "~", "done": "=", "failed": "!", "unreachable": "!", "skipped": "-"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # what a host says must not steer the terminal
_MOST_LIVE = 40  # hosts; more than a terminal's height are counted, not listed


class Screen:
    """What a person (or a program) sees of one command; also the Progress of its flow."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._live: Live | None = None
        self._phase = ""
        self._steps: dict[str, dict[str, str]] = {}

    def data(self, lines: Iterable[Line]) -> None:
        """Lines of the answer, on stdout."""
        self.close()
        self._write(sys.stdout, lines)

    def text(self, text: str) -> None:
        """The answer as it is: a file's content, a schema."""
        self.close()
        sys.stdout.write(text)
        sys.stdout.flush()

    def json(self, value: dict[str, Any]) -> None:
        """One line of JSON on stdout."""
        self.text(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")

    def talk(self, lines: Iterable[Line]) -> None:
        """Lines about the answer, on stderr."""
        self.close()
        self._write(sys.stderr, lines)

    def say(self, text: str) -> None:
        """One line on stderr."""
        self.talk([(("", text),)])

    def failure(self, error: Failure) -> None:
        """An error in sentences on stderr; with --json as data on stdout too."""
        from meshctl import views
        from meshctl.core import planjson
        from meshctl.flow.safely import Interrupted

        problems: list[dict[str, Any]]
        if isinstance(error, Invalid):
            self.talk(views.invalid(error, _source))
            problems = [planjson.problem(problem) for problem in error.problems]
        elif isinstance(error, Interrupted):
            self.talk(views.interrupted(error))
            problems = [
                {
                    "code": "interrupted",
                    "rolled_back": list(error.rolled_back),
                    "left": list(error.left),
                    "kept": list(error.kept),
                }
            ]
        elif isinstance(error, HostError):
            self.talk(views.host_error(error))
            problems = [planjson.host_error(error)]
        else:
            what, hint = (error.what, error.hint) if isinstance(error, Failed) else (str(error), None)
            self.talk(views.failed(Failed(what, hint)))
            problems = [{"code": getattr(error, "code", "failed"), "what": what, "hint": hint}]
        if self.as_json:
            self.json({"schema": 1, "problems": problems})

    def interrupted(self, left: str | None) -> None:
        """Ctrl-C before any host had begun to switch; `left` says what there is now, where that is known."""
        self.talk([(("error", "interrupted"),)])
        if left:
            self.say(left)
        if self.as_json:
            self.json({"schema": 1, "problems": [{"code": "interrupted", "rolled_back": [], "left": [], "kept": []}]})

    def ask(self, question: str) -> bool:
        """Yes or no, from a person. Failed when there is none."""
        self.close()
        if not sys.stdin.isatty():
            raise Failed("there is nobody to ask", "say yes beforehand: --yes", "nobody")
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def password(self, prompt: str) -> str:
        """A password, typed unseen; from a pipe its first line. Failed when there is neither."""
        self.close()
        if sys.stdin.isatty():
            return getpass.getpass(f"{prompt}: ")
        line = sys.stdin.readline()
        if not line:
            option = f"--{prompt.partition(' ')[0].lower()}-password-file FILE"
            hint = f"name a file that holds it: {option}"
            raise Failed(f"there is nobody to ask for the {prompt}", hint, "nobody")
        return line.rstrip("\n")

    # Progress

    def phase(self, what: str, hosts: tuple[str, ...]) -> None:
        """A new part of the work. A terminal shows it as it goes; a pipe is told only of what applies changes."""
        self.close()
        self._phase = what
        self._steps = {host: {} for host in hosts}
        if not self.as_json and hosts and sys.stderr.isatty():
            self._live = _live(self._picture())

    def step(self, host: str, step: str, status: str) -> None:
        steps = self._steps.setdefault(host, {})
        steps[step] = status
        if status == "skipped":
            del steps[step]
        told = self._phase in ("apply", "remove", "confirm") and status not in ("start", "skipped")
        with contextlib.suppress(OSError):  # nobody looks any more: no reason to stop half-way
            if self._live is not None:
                self._live.update(self._picture(), refresh=True)
            elif not self.as_json and told:
                self._write(sys.stderr, [(("", f"{host}: {step} {status}"),)])

    def close(self) -> None:
        """End the live picture, if there is one."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _picture(self) -> str:
        done = sum(1 for steps in self._steps.values() if steps and "start" not in steps.values())
        head = f"{self._phase} {done}/{len(self._steps)}"
        if len(self._steps) > _MOST_LIVE or self._phase not in ("apply", "remove"):
            return head
        width = max(map(len, self._steps))
        rows = (
            f"  {host.ljust(width)}  " + "  ".join(f"{_MARKS.get(word, word)} {step}" for step, word in steps.items())
            for host, steps in self._steps.items()
        )
        return "\n".join([head, *rows])

    def _write(self, stream: TextIO, lines: Iterable[Line]) -> None:
        coloured = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        for parts in lines:
            clean = ((style, _CONTROL.sub("?", text)) for style, text in parts)
            stream.write("".join(_paint(style, text) if coloured else text for style, text in clean) + "\n")
        stream.flush()


def _paint(style: str, text: str) -> str:
    code = _CODES.get(style)
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def _live(picture: str) -> Live:
    """A picture on stderr. rich would put itself in the place of stdout too, which is data and may be a file."""
    from rich.console import Console
    from rich.live import Live

    live = Live(
        picture,
        console=Console(stderr=True, highlight=False, markup=False),
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    live.start(refresh=True)
    return live


def _source(file: str) -> Sequence[str]:
    """The lines of a file that a problem is in. Never those of a key file."""
    path = Path(file)
    if path.suffix not in (".yaml", ".yml", ".lock"):
        return ()
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return ()
