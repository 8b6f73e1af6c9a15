"""The centre's verbs as commands of Airflow's own command line: `airflow edge-ws ...`.

Airflow calls `get_commands` at every `airflow` call, so nothing is imported here but the verbs' data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edge_ws.cli.run import run
from edge_ws.cli.verbs import VERBS, Argument, Group, Side, Verb

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
        elif member.side is Side.CENTRE:
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


def _function(verb: Verb) -> Callable[[argparse.Namespace], None]:
    def command(arguments: argparse.Namespace) -> None:
        code = run(verb, arguments, PROGRAM)
        # Airflow's main ignores what a command returns.
        if code:
            sys.exit(code)

    return command
