"""The command line: one short function a command. Read the arguments, run the flow, show what came of it.

Everything heavy is imported inside the commands, so that help and completion start in a tenth of a second. Exit codes:
0 done; 1 failed, usage included; 2 changes pending (plan --detailed-exitcode); 3 a file of the mesh is invalid, nothing
was contacted; 4 some hosts failed; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from meshctl import options
from meshctl.cli_lab import lab
from meshctl.cli_rotate import rotate
from meshctl.core.errors import Failed, Failure
from meshctl.screen import Screen
from meshctl.version import VERSION

if TYPE_CHECKING:
    from meshctl.flow.trust import Shown

_CHANGES, _SOME_FAILED, _INTERRUPTED = 2, 4, 130
_LOOKING = ("check", "plan", "status", "verify", "graph", "schema", "completion", "version")
_SWITCHING = ("apply", "remove", "rotate")
_LEFT = dict.fromkeys(_LOOKING, "nothing was changed") | dict.fromkeys(
    _SWITCHING, "nothing is left half-switched; the next run finishes what was begun"
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point; never returns."""
    words = sys.argv[1:] if arguments is None else arguments
    _open_streams()
    screen = Screen(as_json="--json" in words)
    code = _INTERRUPTED  # of a second Ctrl-C, while the first one was told
    with contextlib.suppress(KeyboardInterrupt):
        # SIGTERM and SIGHUP, a cancelled CI job or a closed terminal, are the same as Ctrl-C
        for order in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(order) is not signal.SIG_IGN:  # nohup means what it says
                signal.signal(order, signal.default_int_handler)
        code = run(words, screen)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said; a handler of Python's would not outlive it
    sys.exit(code)


def run(words: list[str], screen: Screen) -> int:
    """Run one command; its exit code. What went wrong has been told by the screen."""
    try:
        return cli.main(words, prog_name="meshctl", standalone_mode=False, obj=screen) or 0
    except click.ClickException as error:
        screen.failure(_usage(error, _command_of(words)))
        return 1
    except Failure as error:
        screen.failure(error)
        return error.exit
    except (click.Abort, KeyboardInterrupt):
        screen.interrupted(_LEFT.get(words[0] if words else ""))
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()  # the reader has left: say nothing more
        return 1
    except OSError as error:  # what no door expected: a full disk behind stdout, say
        if error.filename is None:  # of a stream: stdout, most likely, and then there is no use in trying it again
            _drop_stdout()
        screen.failure(Failed(_os_words(error)))
        return 1
    finally:
        screen.close()


def _open_streams() -> None:
    """A stream that the caller has closed (`>&-`) becomes /dev/null, before anything else takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  it stays open


def _drop_stdout() -> None:
    """What is still to be written there goes nowhere; Python would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _os_words(error: OSError) -> str:
    why = (error.strerror or str(error)).lower()
    return f"{error.filename}: {why}" if error.filename else f"can't go on: {why}"


def _usage(error: click.ClickException, path: str) -> Failed:
    """click's complaint in our words (MESSAGES.md): no capital, no full stop, and where to look."""
    what = " ".join(error.format_message().split())  # choices stand a line each
    path = context.command_path if (context := getattr(error, "ctx", None)) is not None else path
    what, _, near = (part.strip("(. ") for part in what.partition("Did you mean "))
    hint = f"did you mean {near.rstrip('?)')}?" if near else f"{path} --help"
    return Failed(what[:1].lower() + what[1:], hint, "usage")


def _command_of(words: Sequence[str]) -> str:
    """The command that these words begin with: not every complaint of click's knows it."""
    path: list[str] = ["meshctl"]
    group: click.Command = cli
    for word in words:
        found = group.commands.get(word) if isinstance(group, click.Group) else None
        if found is None:
            break
        path, group = [*path, word], found
    return " ".join(path)


@click.group(
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, message="meshctl %(version)s")
@click.pass_context
def cli(context: click.Context, /) -> int:
    """One YAML file describes a private mesh; `meshctl apply` makes it so on every host over SSH.

    \b
    meshctl init prod a=root@a.example.com b=root@b.example.com
    meshctl trust && meshctl apply

    \b
    FILE is ./mesh.yaml where none is named. Exit codes: 0 done, or nothing to do;
    1 failed; 2 changes are pending (plan --detailed-exitcode); 3 a file of the mesh
    is invalid; 4 some hosts failed or are out of reach; 130 interrupted.
    """
    return options.help_instead(context)


@cli.command()
@click.argument("name", default="mesh")
@click.argument("hosts", nargs=-1, metavar="[HOST=USER@ADDRESS]...")
@click.option("--file", type=click.Path(path_type=Path), default=Path("mesh.yaml"), help="Write this file.")
@options.as_json
@click.pass_obj
def init(screen: Screen, /, name: str, hosts: tuple[str, ...], file: Path, as_json: bool) -> int:
    """Write a first mesh.yaml, and keep mesh.keys out of git.

    \b
    meshctl init prod a=root@a.example.com b=admin@b.example.com
    """
    from meshctl.flow import starter

    written = starter.write(file, name, hosts)
    if as_json:
        screen.json({"schema": 1, "written": [str(path) for path in written]})
    for path in written:
        screen.say(f"wrote {path}")
    screen.say("next: meshctl check, meshctl trust, meshctl apply")
    return 0


@cli.command()
@options.file
@options.vault
@options.as_json
@click.pass_obj
def check(screen: Screen, /, file: Path | None, as_json: bool, **given: options.Value) -> int:
    """Look for mistakes in mesh.yaml, mesh.lock and mesh.keys. Nobody is contacted.

    \b
    meshctl check prod.yaml
    """
    from meshctl import views
    from meshctl.flow import river

    run = options.run_of(screen, file, given)
    mesh = river.check(run)
    if as_json:
        findings = [{"code": f.code, "hosts": list(f.hosts), "what": f.what, "hint": f.hint} for f in mesh.findings]
        screen.json({"schema": 1, "mesh": mesh.name, "problems": [], "findings": findings})
    else:
        screen.data(views.mesh(mesh, str(run.mesh.yaml)))
    if river.keys_stay_shut(run):
        screen.talk(views.unopened(str(run.mesh.keys)))
    return 0


@cli.command(short_help="Pin the hosts' SSH keys in mesh.lock.")
@click.argument("words", nargs=-1, metavar="[FILE] [HOST]...")
@click.option("--replace", is_flag=True, help="Ask the named hosts anew, whatever is pinned.")
@options.yes
@options.as_json
@click.pass_obj
def trust(screen: Screen, /, words: tuple[str, ...], replace: bool, yes: bool, as_json: bool) -> int:
    """Pin SSH host keys in mesh.lock, after showing their fingerprints.

    What your known_hosts holds already is pinned without asking.

    \b
    meshctl trust
    meshctl trust c --replace      # c was installed anew
    """
    from meshctl import views
    from meshctl.flow import trust as flow

    file, hosts = options.file_and_hosts(words)
    if replace and not hosts:
        raise Failed("--replace needs the hosts by name", "meshctl trust HOST --replace")

    def approve(shown: Sequence[Shown]) -> Sequence[Shown]:
        screen.talk(views.fingerprints(shown))
        return shown if yes or screen.ask("trust these keys?") else ()

    trusted = flow.trust(options.run_of(screen, file, {"limit": hosts}), approve, replace=replace)
    if as_json:
        screen.json(views.trusted_json(trusted))
    else:
        screen.data(views.trusted(trusted))
    return _SOME_FAILED if trusted.errors else 1 if trusted.refused else 0


@cli.command()
@options.file
@options.look
@options.vault
@options.as_json
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 when there are changes pending.")
@click.pass_obj
def plan(screen: Screen, /, file: Path | None, as_json: bool, detailed_exitcode: bool, **given: options.Value) -> int:
    """Show what apply would do. Nothing is written, here or on any host.

    \b
    meshctl plan --detailed-exitcode
    """
    from meshctl import views
    from meshctl.core import planjson
    from meshctl.flow import river, safely

    with river.Session(options.run_of(screen, file, given)) as session:
        planned = safely.make_plan(session).plan
    if as_json:
        screen.json(planjson.plan(planned))
    else:
        screen.data(views.plan(planned))
    if planned.errors:
        return _SOME_FAILED
    return _CHANGES if detailed_exitcode and (planned.touched or planned.forget) else 0


@cli.command(short_help="Make the mesh as mesh.yaml says, or put all back.")
@options.file
@options.change
@options.vault
@options.as_json
@click.pass_obj
def apply(screen: Screen, /, file: Path | None, yes: bool, as_json: bool, **given: options.Value) -> int:
    """Make the mesh as mesh.yaml says: plan, ask, change what differs, prove it, keep it or put all back.

    \b
    meshctl apply --yes
    meshctl apply --lab --limit a
    """
    return _change(screen, file, given, yes=yes, as_json=as_json, removing=False)


@cli.command(short_help="Take the mesh off the hosts.")
@options.file
@options.change
@options.as_json
@click.option("--forget", is_flag=True, help="Give up hosts that left mesh.yaml and can't be reached.")
@click.pass_obj
def remove(screen: Screen, /, file: Path | None, yes: bool, as_json: bool, **given: options.Value) -> int:
    """Take the mesh off the hosts, and with it everything that apply has put there.

    mesh.lock and mesh.keys stay, so that the next apply makes the same mesh again.

    \b
    meshctl remove --limit c
    """
    return _change(screen, file, given, yes=yes, as_json=as_json, removing=True)


@cli.command()
@options.file
@options.look
@options.as_json
@click.pass_obj
def status(screen: Screen, /, file: Path | None, as_json: bool, **given: options.Value) -> int:
    """Probe every link now and show how it is.

    \b
    meshctl status
    """
    return _status(screen, file, as_json=as_json, given=given, strict=False)


@cli.command(short_help="As status, and fail unless all is alive.")
@options.file
@options.look
@options.as_json
@click.pass_obj
def verify(screen: Screen, /, file: Path | None, as_json: bool, **given: options.Value) -> int:
    """As status, and fail unless every host answers, meshd is up on it and every link is alive.

    \b
    meshctl verify && echo the mesh is whole
    """
    return _status(screen, file, as_json=as_json, given=given, strict=True)


@cli.command(short_help="Write each host's bundle into a folder.")
@click.argument("words", nargs=-1, metavar="[FILE] DIR")
@options.vault
@options.as_json
@click.pass_obj
def render(screen: Screen, /, words: tuple[str, ...], as_json: bool, **given: options.Value) -> int:
    """Write each host's bundle to DIR/HOST, for hosts that nobody can reach from here. Bundles hold private keys.

    \b
    meshctl render ./bundles
    """
    from meshctl import views
    from meshctl.flow import river

    file, rest = options.file_and_hosts(words)
    if len(rest) != 1:
        raise click.UsageError("render writes into one folder: meshctl render DIR")
    desired = river.render(options.run_of(screen, file, given), Path(rest[0]))
    if as_json:
        screen.json({"schema": 1, "mesh": desired.mesh.name, "bundles": {h: b.id for h, b in desired.bundles.items()}})
    screen.say(f"wrote {len(desired.bundles)} bundles to {rest[0]}; they hold private keys")
    screen.talk(views.findings(desired.mesh))
    return 0


@cli.command()
@options.file
@click.option("--format", "form", type=click.Choice(["mermaid", "svg"]), default="mermaid", show_default=True)
@options.as_json
@click.pass_obj
def graph(screen: Screen, /, file: Path | None, form: str, as_json: bool) -> int:
    """Draw the mesh. Nobody is contacted.

    \b
    meshctl graph --format svg > mesh.svg
    """
    from meshctl.core import graph as drawing
    from meshctl.flow import river

    mesh = river.check(options.run_of(screen, file, {}))
    drawn = drawing.svg(mesh) if form == "svg" else drawing.mermaid(mesh)
    if as_json:
        screen.json({"schema": 1, "mesh": mesh.name, "format": form, "graph": drawn})
    else:
        screen.text(drawn if drawn.endswith("\n") else f"{drawn}\n")
    return 0


@cli.command()
@options.as_json
@click.pass_obj
def schema(screen: Screen, /, as_json: bool) -> int:
    """Print the JSON schema of mesh.yaml, for editors.

    \b
    meshctl schema > mesh.schema.json
    """
    import json

    from meshctl.core.schema import json_schema

    if as_json:
        screen.json(json_schema())
    else:
        screen.text(json.dumps(json_schema(), indent=2) + "\n")
    return 0


@cli.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@options.as_json
@click.pass_obj
def completion(screen: Screen, /, shell: str, as_json: bool) -> int:
    """Print the completion script of a shell.

    \b
    meshctl completion bash > /etc/bash_completion.d/meshctl
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    if made is None:
        raise Failed(f"there is no completion for {shell}")
    source = made(cli, {}, "meshctl", "_MESHCTL_COMPLETE").source() + "\n"
    if as_json:
        screen.json({"schema": 1, "shell": shell, "script": source})
    else:
        screen.text(source)
    return 0


@cli.command(short_help="Print the version and the daemons it carries.")
@options.as_json
@click.pass_obj
def version(screen: Screen, /, as_json: bool) -> int:
    """Print the version, and the architectures whose daemon is carried.

    \b
    meshctl version --json
    """
    from meshctl.flow import river

    carried = dict(river.release().binaries)
    if as_json:
        screen.json({"schema": 1, "version": VERSION, "binaries": carried})
    else:
        screen.text(f"meshctl {VERSION}\nmeshd {VERSION} for {', '.join(carried) or 'no architecture: make build'}\n")
    return 0


def _change(
    screen: Screen, file: Path | None, given: options.Given, *, yes: bool, as_json: bool, removing: bool
) -> int:
    """Plan, ask, do, show: what apply and remove have in common."""
    from meshctl import views
    from meshctl.core import planjson
    from meshctl.flow import safely

    with safely.session(options.run_of(screen, file, given), secrets=not removing) as session:
        planned = (safely.removal_plan if removing else safely.make_plan)(session)
        if as_json:
            screen.json({"type": "plan", **planjson.plan(planned.plan)})
        else:
            screen.data(views.plan(planned.plan, removing=removing))
        nothing = not planned.plan.touched and not planned.plan.forget and not given.get("forget")
        if not nothing and not yes and not screen.ask("remove this?" if removing else "apply this?"):
            raise Failed("nothing was changed: you said no", None, "refused")
        if removing:
            outcome = safely.remove(session, planned, forget=bool(given["forget"]))
        else:
            outcome = safely.apply(session, planned)
    if as_json:
        screen.json({"type": "outcome", **views.outcome_json(outcome)})
    elif not nothing:
        screen.data(views.outcome(outcome, lab=bool(given["lab"])))
    return outcome.exit


def _status(screen: Screen, file: Path | None, *, as_json: bool, given: options.Given, strict: bool) -> int:
    from meshctl import views
    from meshctl.core import status as judged
    from meshctl.flow import river

    with river.Session(options.run_of(screen, file, given), secrets=False) as session:
        found = session.status()
    if as_json:
        screen.json(judged.to_json(found))
    else:
        screen.data(views.health(found, lab=bool(given["lab"])))
    if any(host.error for host in found.hosts):
        return _SOME_FAILED
    return 1 if strict and not found.healthy else 0


cli.add_command(lab)
cli.add_command(rotate)
