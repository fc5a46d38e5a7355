"""The options that commands share, and the Run they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshctl.screen import Screen

if TYPE_CHECKING:
    from meshctl.flow.river import Run

Value = Any
"""What click hands over for an option: a flag, a text, a path, a tuple of texts."""
Given = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])
_BECOME_FILE = "ANSIBLE_BECOME_PASSWORD_FILE"


def file(command: F) -> F:
    return click.argument("file", required=False, type=click.Path(path_type=Path))(command)


def as_json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print data as JSON on stdout.")(command)


def vault(command: F) -> F:
    """How mesh.keys is opened, as Ansible users say it."""
    for option in (
        click.option("--ask-vault-pass", "-J", is_flag=True, help="Ask for the vault password."),
        click.option(
            "--vault-password-file",
            type=click.Path(path_type=Path),
            help="File or script with the vault password of mesh.keys; else ANSIBLE_VAULT_PASSWORD_FILE.",
        ),
    ):
        command = option(command)
    return command


def limit(command: F) -> F:
    return click.option(
        "--limit",
        "-l",
        multiple=True,
        metavar="HOST",
        shell_complete=_hosts,
        help="Touch these hosts only (again, or with commas). Who is a member doesn't change.",
    )(command)


def yes(command: F, *, hidden: bool = False) -> F:
    return click.option("--yes", "-y", is_flag=True, hidden=hidden, help="Don't ask.")(command)


def change(command: F) -> F:
    """What a command takes that asks, and then changes hosts."""
    return yes(_contact(command))


def look(command: F) -> F:
    """What a command takes that looks at hosts. It asks nothing, and takes --yes as all that contact hosts do."""
    return yes(_contact(command), hidden=True)


def _contact(command: F) -> F:
    for option in (
        click.option("--lab", is_flag=True, help="Work on the hosts of `meshctl lab up`, not on the real ones."),
        click.option("--ask-become-pass", "-K", is_flag=True, help="Ask for the password of sudo."),
        click.option(
            "--become-password-file",
            type=click.Path(path_type=Path),
            help=f"File or script with the password of sudo; else {_BECOME_FILE}.",
        ),
    ):
        command = option(command)
    return limit(command)


def help_instead(context: click.Context) -> int:
    """What a group does when no command of it was named: show its help, and fail, since nothing was done."""
    if context.invoked_subcommand is not None:
        return 0
    screen: Screen = context.obj
    screen.talk((("", line),) for line in context.get_help().splitlines())
    return 1


def file_and_hosts(words: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """`[FILE] WORD...`: the first word is the file when it looks like one."""
    if words and words[0].endswith((".yaml", ".yml")):
        return Path(words[0]), tuple(words[1:])
    return None, tuple(words)


def run_of(screen: Screen, file: Path | None, given: Given) -> Run:
    """The Run that the options describe; asks for the passwords that are to be asked for."""
    from meshctl.core.keys import Secret
    from meshctl.flow.river import Run
    from meshctl.shell import meshdir
    from meshctl.shell.keyring import VaultSource, password_from

    become = None
    become_file = given.get("become_password_file") or os.environ.get(_BECOME_FILE)
    if given.get("ask_become_pass"):
        become = Secret(screen.password("BECOME password").encode())
    elif become_file:
        become = password_from(Path(become_file), "the password of sudo")
    return Run(
        mesh=meshdir.find(file, takes_limit="limit" in given),
        vault=VaultSource(given.get("vault_password_file"), bool(given.get("ask_vault_pass"))),
        prompt=screen.password,
        become_password=become,
        lab=bool(given.get("lab")),
        limit=tuple(name for words in given.get("limit", ()) for name in words.split(",") if name),
        progress=screen,
    )


def _hosts(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Completion: the hosts of the file on the command line."""
    from meshctl.core.errors import Failure
    from meshctl.core.tree import Map
    from meshctl.shell import meshdir, yamlfile

    try:
        path = meshdir.find(ctx.params.get("file")).yaml
        document = yamlfile.read(path, str(path))
    except Failure:
        return []
    hosts = document.get("hosts") if isinstance(document, Map) else None
    if hosts is None or not isinstance(hosts.value, Map):
        return []
    return [entry.key.text for entry in hosts.value.entries if entry.key.text.startswith(begun)]
