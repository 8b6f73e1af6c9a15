"""The command line: `edge-ws`. Importing it loads nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence

from edge_ws.cli.main import PROGRAM, build, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run `edge-ws` with these arguments (default: the process's) and return the exit code (errors.py)."""
    arguments = build().parse_args(argv)
    return run(arguments.verb, arguments, PROGRAM)
