"""`edge-ws pause-queue` and `resume-queue`: read their arguments, ask the centre, tell what became."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from edge_ws.cli.backend import reach
from edge_ws.cli.output import tell
from edge_ws.errors import UsageError
from edge_ws.texts import printable


def pause_queue(arguments: Namespace) -> int:
    """Have nothing handed out of these queues."""
    return _change(arguments, "pause-queue", note=arguments.note)


def resume_queue(arguments: Namespace) -> int:
    """Have their jobs handed out again."""
    return _change(arguments, "resume-queue")


def _change(arguments: Namespace, operation: str, **given: object) -> int:
    names = arguments.queue
    meant = names[0] if len(names) == 1 else names
    with reach(arguments) as centre:
        told = centre(operation, {"queue": meant, **given}, changes=True)
    outcomes = told if isinstance(told, list) else [told]
    if arguments.output == "json":
        tell(json.dumps(told))
    for one in outcomes:
        if one["error"]:
            print(printable(one["error"]), file=sys.stderr, flush=True)
        elif arguments.output != "json":
            tell(printable(f"{one['queue']}: {one['told']}"))
    return UsageError.exit_code if any(one["error"] for one in outcomes) else 0
