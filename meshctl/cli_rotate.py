"""`meshctl rotate`: new keys for hosts, under traffic."""

from __future__ import annotations

import click

from meshctl import options
from meshctl.core.errors import Failed
from meshctl.screen import Screen


@click.command(short_help="Give hosts new keys, under traffic.")
@click.argument("words", nargs=-1, metavar="[FILE] [HOST]...")
@click.option("--psk", is_flag=True, help="With hosts: change the pre-shared keys of all links too.")
@click.option("--cancel", is_flag=True, help="Give up a change that waits for hosts: the current keys stay.")
@options.change
@options.vault
@options.as_json
@click.pass_obj
def rotate(screen: Screen, /, words: tuple[str, ...], yes: bool, as_json: bool, **given: options.Value) -> int:
    """Give hosts new key pairs without losing a packet; without a HOST all of them, and new pre-shared keys too.

    Every host is told the next keys beside the current ones; when all know them, the old ones go. As long as a host
    can't be told, the old ones stay: run it again, and it goes on. What else differs from mesh.yaml is changed with it.

    \b
    meshctl rotate
    meshctl rotate c               # a new key pair for c alone
    """
    from meshctl import views_rotate
    from meshctl.core import planjson
    from meshctl.flow import rotating, safely

    file, hosts = options.file_and_hosts(words)
    psk, cancel = bool(given["psk"]), bool(given["cancel"])
    if cancel and (hosts or psk):
        raise Failed("--cancel gives up all of it", "meshctl rotate --cancel", "usage")
    code = 0
    with safely.session(options.run_of(screen, file, given)) as session:
        begun = rotating.give_up(session) if cancel else rotating.begin(session, hosts, psk=psk)
        if as_json:
            screen.json({"type": "rotation", **views_rotate.rotating_json(begun)})
            screen.json({"type": "plan", **planjson.plan(begun.planned.plan)})
        else:
            screen.data(views_rotate.rotating(begun))
        if not yes and not begun.idle and not begun.futile and not screen.ask("change these keys?"):
            raise Failed("nothing was changed: you said no", None, "refused")
        for step in rotating.carry_on(session, begun):
            if as_json:
                screen.json({"type": "outcome", **views_rotate.step_json(step)})
            else:
                screen.data(views_rotate.step(step, lab=bool(given["lab"])))
            code = step.outcome.exit
    return code
