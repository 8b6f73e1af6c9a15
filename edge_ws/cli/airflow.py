"""The centre's verbs, and the worker's, as commands of Airflow's own command line: `airflow edge-ws ...`.

Airflow calls `get_commands` at every `airflow` call, so nothing is imported here but the verbs' data.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from edge_ws.cli.main import run
from edge_ws.cli.verb import Argument, Group, Side, Verb
from edge_ws.cli.verbs import VERBS

if TYPE_CHECKING:
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

PROGRAM = "airflow edge-ws"


def get_commands() -> list[GroupCommand]:
    """Return the group `edge-ws`; the provider's info names this function."""
    from airflow.cli.cli_config import GroupCommand

    return [
        GroupCommand(
            name="edge-ws",
            help="Workers of edge-ws, the WebSocket push executor",
            description="Manage edge-ws's workers, their tokens and its tables.",
            subcommands=_commands(VERBS),
        )
    ]


def _commands(members: Sequence[Verb | Group]) -> tuple[ActionCommand | GroupCommand, ...]:
    from airflow.cli.cli_config import ActionCommand, GroupCommand

    commands: list[ActionCommand | GroupCommand] = []
    for member in members:
        if isinstance(member, Group):
            commands.append(
                GroupCommand(name=member.name, help=member.help, subcommands=_commands(member.members))
            )
        elif member.side is Side.CENTRE or member.is_passed_on:
            commands.append(
                ActionCommand(
                    name=member.name,
                    help=member.help,
                    description=member.description or member.help,
                    func=_function(member),
                    args=tuple(_arg(argument) for argument in member.arguments),
                )
            )
    return tuple(commands)


def _arg(argument: Argument) -> Arg:
    from airflow.cli.cli_config import Arg

    return Arg(argument.flags, **argument.options())


def _pass_on(verb: Verb, arguments: argparse.Namespace) -> NoReturn:
    """Become `edge-ws` with the same words: the process is a light one, and its exit code its own."""
    words = []
    for argument in verb.arguments:
        name = argument.flags[-1]
        value = getattr(arguments, name.lstrip("-").replace("-", "_"))
        if argument.is_switch:
            words += [name] if value else []
        elif not name.startswith("-"):
            words.append(value)
        elif value is not None:
            words.append(f"{name}={value}")
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: as with the script `edge-ws`, modules in the present folder are not meant.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "edge_ws.cli", verb.name, *words])  # noqa: S606


def _function(verb: Verb) -> Callable[[argparse.Namespace], None]:
    def command(arguments: argparse.Namespace) -> None:
        if verb.is_passed_on:
            _pass_on(verb, arguments)
        code = run(verb, arguments, PROGRAM)
        # Airflow's main ignores what a command returns.
        if code:
            sys.exit(code)

    return command
