"""`edge-ws doctor`: makes the worker's configuration, has it examined, and prints what is found."""

from __future__ import annotations

import argparse
import asyncio
import json
import os

from edge_ws.texts import printable
from edge_ws.worker.config import resolve, this_machine
from edge_ws.worker.doctor.checks import examine
from edge_ws.worker.doctor.context import Context, Found, Status

_SHOWN = {Status.OK: "OK", Status.WARNING: "WARN", Status.FAILED: "FAIL", Status.SKIPPED: "skip"}


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each check; return 1 if one failed."""
    resolved = resolve(vars(arguments), os.environ, this_machine())
    context = Context(config=resolved.config, environ=dict(os.environ), is_quick=arguments.quick)
    return asyncio.run(_run(context, as_json=arguments.output == "json"))


async def _run(context: Context, *, as_json: bool) -> int:
    told = []
    async for name, found in examine(context):
        told.append((name, found))
        if not as_json:
            # At once: some take their time.
            print(_line(name, found), flush=True)
    if as_json:
        rows = [
            {"check": name, "status": found.status.value, "detail": found.detail, "advice": found.advice}
            for name, found in told
        ]
        print(json.dumps(rows, indent=2))
    return 1 if any(found.status is Status.FAILED for _, found in told) else 0


def _line(name: str, found: Found) -> str:
    advice = f" -> {found.advice}" if found.advice else ""
    return printable(f"{_SHOWN[found.status]:<4}  {name:<13}  {found.detail}{advice}")
