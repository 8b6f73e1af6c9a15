"""The verbs that tell what happens to the fleet, `events`, and how its last hour was, `figures`.

Load neither Airflow nor the store: with `--url` there may be none.
"""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

from edge_ws.cli import output
from edge_ws.cli.backend import Centre, reach
from edge_ws.cli.output import Row, render, render_one, show, tell
from edge_ws.errors import UnreachableError, UsageError
from edge_ws.texts import printable

ASK_S = 1.0
"""Between two looks for new events."""
AT_ONCE = 500
"""Events of one look."""
MINUTES = 10
"""Minutes that a table shows below the hour."""
_TIME = re.compile(r"([0-9]{1,7})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_EVENTS = ("at", "kind", "worker", "queue", "who", "words")


def events(arguments: Namespace) -> int:
    """Tell what has happened; with `--follow` what happens, too, until Ctrl-C."""
    given = {
        **_since(arguments.since),
        "worker": arguments.worker,
        "kind": arguments.kind,
        "limit": arguments.limit,
    }
    stdout = sys.stdout
    with reach(arguments) as centre:
        rows = centre("events", given, changes=False)
        if arguments.follow:
            with redirect_stdout(stdout):
                _follow(centre, rows, arguments)
    only = any(given[name] for name in ("worker", "kind")) or arguments.since is not None
    nothing = f"nothing{' like that' if only else ''} has happened lately"
    if arguments.output in {"table", "plain"}:
        rows = output.usual([{**row, "at": _clock(row["at"])} for row in rows], _EVENTS)
    show(rows, arguments.output, {}, nothing)
    return 0


def _since(text: str | None) -> dict[str, object]:
    """Return the parameters that a time, or an event's id, stands for."""
    if text is None:
        return {}
    if text.isascii() and text.isdigit() and len(text) < 10:
        return {"since": int(text)}
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(f"--since: {text!r} is neither a time such as 10m, 2h or 1d, nor an event's id")
    return {"within_s": min(int(match[1]) * _SECONDS[match[2]], 2**31 - 1)}


def _follow(centre: Centre, rows: list[Row], arguments: Namespace) -> None:
    """Tell these events, then each new one; never returns."""
    only = {"worker": arguments.worker, "kind": arguments.kind, "limit": AT_ONCE}
    # What is not asked for has ids, too: begin behind all that there is.
    newest = centre("events", {"limit": 1}, changes=False)
    last = max((int(str(one["id"])) for one in (*rows, *newest)), default=0)
    is_away = False
    while True:
        for row in rows:
            tell(_told(row, arguments.output))
        time.sleep(ASK_S)
        try:
            rows = centre("events", {"since": last, **only}, changes=False)
        except UnreachableError as error:
            if not is_away:
                print(printable(f"asking again each second: {error}"), file=sys.stderr, flush=True)
            is_away, rows = True, []
            continue
        is_away = False
        last = max((last, *(int(str(row["id"])) for row in rows)))


def _told(row: Row, form: str) -> str:
    if form == "json":
        return json.dumps(dict(row))
    if form == "yaml":
        return render([row], "yaml", {})
    about = [str(row[name]) for name in ("worker", "queue") if row[name] is not None]
    who = f" ({row['who']})" if row["who"] is not None else ""
    return printable(f"{_clock(row['at'])}  {row['kind']:<17} {' '.join(about):<20} {row['words']}{who}")


def _clock(at: object) -> str:
    """Return an ISO time without its date's `T` and its zone, which is always UTC."""
    return str(at).replace("T", " ").partition("+")[0]


def figures(arguments: Namespace) -> int:
    """Tell how the last hour was."""
    with reach(arguments) as centre:
        row = centre("figures", {}, changes=False)
    if arguments.output in {"json", "yaml"}:
        tell(render_one(row, arguments.output))
        return 0
    minutes = row["minutes"][-MINUTES:]
    rows = [_line("the hour", row["hour"]), *(_line(_clock(one["minute"])[11:16], one) for one in minutes)]
    tell(render(rows, arguments.output, {}))
    if arguments.output == "table":
        tell(f"\n{_summary(row['gateways'])}")
    return 0


def _line(name: str, minute: Mapping[str, Any]) -> Row:
    ends = minute["ends"]
    connected = minute["connections"]
    return {
        "utc": name,
        "push_p50": _span(minute["push_latency"]["p50"]),
        "push_p99": _span(minute["push_latency"]["p99"]),
        "start_p50": _span(minute["start_latency"]["p50"]),
        "start_p99": _span(minute["start_latency"]["p99"]),
        "offers": minute["offers"],
        "success": ends.get("success", 0),
        "failed": ends.get("failed", 0),
        "others": sum(ends.values()) - ends.get("success", 0) - ends.get("failed", 0),
        "connects": sum(minute["connects"].values()),
        "drops": sum(minute["drops"].values()),
        "websocket": connected["websocket"],
        "longpoll": connected["longpoll"],
    }


def _span(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _summary(gateways: Sequence[Mapping[str, Any]]) -> str:
    alive = [one for one in gateways if one["alive"]]
    shown = ", ".join(f"{one['hostname']}/{one['pid']}" for one in alive)
    count = f"{len(alive)} gateway{'' if len(alive) == 1 else 's'}"
    degraded = [one for one in alive if one["wakeup"] == "polling"]
    more = (
        f"; {len(degraded)} of them not notified of changes by the database: they poll it" if degraded else ""
    )
    return printable(f"{count} alive{': ' if shown else ''}{shown}{more}")
