"""The verbs for workers' tokens: read their arguments, ask the centre, show.

What is done is `edge_ws.server.token_admin`'s, on the database or, with `--url`, at a gateway. A secret alone
goes to stdout; all that is said about it goes to stderr.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from edge_ws.cli.backend import reach, split
from edge_ws.cli.output import render_one, show, tell
from edge_ws.texts import printable

_ABSENT = {"queues": "all", "team_name": "any", "expires": "never"}
_ONCE = "it is shown only this once: put it into the worker's --token-file"


def token_create(arguments: Namespace) -> int:
    """Make a token; its secret alone goes to stdout."""
    asked = {
        "name": arguments.name,
        "worker_name_pattern": arguments.worker_name_pattern,
        "queues": split(arguments.queues),
        "team_name": arguments.team_name,
        "expires": arguments.expires,
        "max_workers": arguments.max_workers,
    }
    return _new_secret(arguments, "token-create", asked)


def token_rotate(arguments: Namespace) -> int:
    """Give a token another secret, which alone goes to stdout."""
    return _new_secret(arguments, "token-rotate", {"token": arguments.token, "overlap": arguments.overlap})


def _new_secret(arguments: Namespace, operation: str, asked: dict[str, object]) -> int:
    with reach(arguments) as centre:
        made = centre(operation, asked, changes=True)
    print(printable(f"{made['told']}; {_ONCE}"), file=sys.stderr)
    tell(made["secret"])
    return 0


def token_list(arguments: Namespace) -> int:
    """List the tokens."""
    with reach(arguments) as centre:
        rows = centre("token-list", {}, changes=False)
    show(rows, arguments.output, _ABSENT, "there are no tokens yet")
    return 0


def token_show(arguments: Namespace) -> int:
    """Show all that is known of the token of that id, or of each of that name."""
    with reach(arguments) as centre:
        rows = centre("token-show", {"token": arguments.token}, changes=False)
    tell("\n\n".join(render_one(row, arguments.output) for row in rows))
    return 0


def token_narrow(arguments: Namespace) -> int:
    """Let a token admit less; connected workers get no more of the rest."""
    asked = {
        "token": arguments.token,
        "queues": split(arguments.queues),
        "team_name": arguments.team_name,
        "expires": arguments.expires,
    }
    return _told(arguments, "token-narrow", asked)


def token_revoke(arguments: Namespace) -> int:
    """Revoke the token of that id, or all of that name."""
    return _told(arguments, "token-revoke", {"token": arguments.token})


def _told(arguments: Namespace, operation: str, asked: dict[str, object]) -> int:
    with reach(arguments) as centre:
        done = centre(operation, asked, changes=True)
    tell(printable(done["told"]))
    return 0
