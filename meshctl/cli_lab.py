"""`meshctl lab`: the commands of the rehearsal on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from meshctl import options
from meshctl.screen import Screen


@click.group(
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    short_help="Rehearse a mesh on throw-away hosts on this machine.",
)
@click.pass_context
def lab(context: click.Context, /) -> int:
    """Rehearse a mesh on this machine: a throw-away host for each host of the file. Needs Linux and root.

    \b
    meshctl lab up && meshctl apply --lab --yes && meshctl lab exec a -- ping -c1 b
    """
    return options.help_instead(context)


@lab.command("up")
@options.file
@options.as_json
@click.pass_obj
def lab_up(screen: Screen, /, file: Path | None, as_json: bool) -> int:
    """Make the hosts of the file on this machine.

    A lab that is up gets the hosts that it lacks; nothing else of it changes.

    \b
    meshctl lab up examples/three-servers/mesh.yaml
    """
    from meshctl.flow import labs, river

    run = options.run_of(screen, file, {})
    addresses = labs.up(river.read_spec(run), run.mesh.yaml.parent)
    if as_json:
        screen.json({"schema": 1, "hosts": {name: host.hostname for name, host in addresses.items()}})
    else:
        are = "host is" if len(addresses) == 1 else "hosts are"
        screen.say(f"{len(addresses)} {are} up: {', '.join(addresses)}")
        screen.say("next: meshctl apply --lab")
    return 0


@lab.command(
    "exec", short_help="Run a command on a host of the lab.", context_settings={"ignore_unknown_options": True}
)
@click.option("--file", type=click.Path(path_type=Path), help="The mesh's file, if it isn't ./mesh.yaml.")
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def lab_exec(screen: Screen, /, file: Path | None, host: str, command: tuple[str, ...]) -> int:
    """Run a command on a host of the lab, as root; its exit status is ours.

    \b
    meshctl lab exec a -- ping -c1 b
    """
    from meshctl.flow import labs, river

    return labs.exec_(river.read_spec(options.run_of(screen, file, {})), host, command)


@lab.command("status")
@options.file
@options.as_json
@click.pass_obj
def lab_status(screen: Screen, /, file: Path | None, as_json: bool) -> int:
    """Say which hosts of the lab are up.

    \b
    meshctl lab status
    """
    from meshctl.flow import labs, river

    found = labs.status(river.read_spec(options.run_of(screen, file, {})))
    rows = {host.name: {"running": host.running, "address": host.address.hostname} for host in found.hosts}
    if as_json:
        screen.json({"schema": 1, "name": found.name, "running": found.running, "hosts": rows})
    else:
        width = max(map(len, rows), default=0)
        lines = (
            f"{n.ljust(width)}  {'up  ' if row['running'] else 'down'}  {row['address']}\n" for n, row in rows.items()
        )
        screen.text("".join(lines))
    return 0


@lab.command("down")
@options.file
@options.as_json
@click.pass_obj
def lab_down(screen: Screen, /, file: Path | None, as_json: bool) -> int:
    """Take the lab away; nothing of it stays.

    \b
    meshctl lab down
    """
    from meshctl.flow import labs, river

    was_up = labs.down(river.read_spec(options.run_of(screen, file, {})))
    if as_json:
        screen.json({"schema": 1, "was_up": was_up})
    screen.say("the lab is gone" if was_up else "there was no lab")
    return 0
