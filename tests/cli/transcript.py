"""Command-line transcripts: a file says which files there are, which commands are run, and every line they print.

    file mesh.yaml 0644          a file, until the line `end`
    mesh: prod
    end
    $ meshctl check              a command; anything else than meshctl goes to sh
    1> mesh.yaml is right: …     a line of stdout; … stands for anything
    2> mesh.yaml: error: …       a line of stderr
    = 0                          the exit status

Lines that start with # are comments. meshctl runs in this process, through the same door as the program; a rehearsal in
a lab, which moves the whole process, is a process of its own, and what hosts say at once may come in any order. With
MESHCTL_WRITE_TRANSCRIPTS=1 in the environment the files are written anew from what happened, to be read and committed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from meshctl import cli
from meshctl.screen import Screen

# What is never twice the same: a link's ages and times, ping's.
_VOLATILE = re.compile(r"(?<=^1> )(\S+ -- \S+ +=  alive |rtt |1 packets .* time ).*")
WRITE = bool(os.environ.get("MESHCTL_WRITE_TRANSCRIPTS"))


@dataclass
class Command:
    line: str
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    exit: int = 0

    def text(self) -> list[str]:
        out = [f"1> {line}".rstrip() for line in self.stdout]
        err = [f"2> {line}".rstrip() for line in self.stderr]
        return [f"$ {self.line}", *out, *err, f"= {self.exit}"]


def play(transcript: Path, folder: Path, **words: str) -> None:
    """Run a transcript in an empty folder, which is the current one; AssertionError shows the first difference.

    `words` are put in for {WORD} in files and commands, and taken out of what is printed.
    """
    written: list[str] = []
    expected: list[Command] = []
    lines = iter(transcript.read_text().splitlines())
    for line in lines:
        if line.startswith("file "):
            _, name, *mode = line.split()
            content = []
            for inner in lines:
                if inner == "end":
                    break
                content.append(inner)
            _run_so_far(expected, written, folder, words)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{_fill(inner, words)}\n" for inner in content))
            path.chmod(int(mode[0], 8) if mode else 0o644)
            written += [line, *content, "end"]
        elif line.startswith("$ "):
            _run_so_far(expected, written, folder, words)
            expected = [Command(line[2:])]
        elif line.startswith(("1>", "2>")):
            (expected[-1].stdout if line[0] == "1" else expected[-1].stderr).append(line[3:])
        elif line.startswith("= "):
            expected[-1].exit = int(line[2:])
        else:
            _run_so_far(expected, written, folder, words)
            written.append(line)
    _run_so_far(expected, written, folder, words)
    if WRITE:
        transcript.write_text("\n".join(written) + "\n")


def _run_so_far(expected: list[Command], written: list[str], folder: Path, words: dict[str, str]) -> None:
    for command in expected:
        got = run(_fill(command.line, words), folder)
        got.line = command.line
        got.stdout = [_unfill(line, words) for line in got.stdout]
        got.stderr = [_unfill(line, words) for line in got.stderr]
        if WRITE:
            kept = {line: old for old in command.text() for line in got.text() if "…" in old and _matches(old, line)}
            written += [kept.get(line, _VOLATILE.sub(r"\1…", line)) for line in got.text()]
        else:
            _compare(command, got)
    expected.clear()


def run(line: str, folder: Path) -> Command:
    """Run one command in this folder."""
    argv = shlex.split(line)
    if argv[0] != "meshctl" or "lab" in argv or "--lab" in argv:
        line = line.replace("meshctl", f"{sys.executable} -m meshctl", 1) if argv[0] == "meshctl" else line
        done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
        return Command(line, done.stdout.splitlines(), done.stderr.splitlines(), done.returncode)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.run(argv[1:], Screen(as_json="--json" in argv))
    said = [stream.buffer.getvalue().decode().splitlines() for stream in (out, err)]  # type: ignore[attr-defined]
    return Command(line, said[0], said[1], status)


def _compare(expected: Command, got: Command) -> None:
    want, have = expected.text(), got.text()
    if "--lab" in expected.line:
        want, have = _hosts_in_any_order(want), _hosts_in_any_order(have)
    same = len(want) == len(have) and all(_matches(w, h) for w, h in zip(want, have, strict=True))
    assert same, "\n".join(["expected:", *want, "", "but it was:", *have])


def _hosts_in_any_order(lines: list[str]) -> list[str]:
    return sorted(lines, key=lambda line: (line[:2], line if line.startswith("2>") else ""))


def _matches(want: str, have: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, want.split("…"))), have) is not None


def _fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    return text


def _unfill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(value, f"{{{word}}}")
    return text
