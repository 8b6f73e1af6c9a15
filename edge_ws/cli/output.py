"""Rows as a table, plain columns, JSON or YAML: which columns, in which order, how many."""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from edge_ws.errors import EdgeWsError, UsageError
from edge_ws.protocol.ids import EXPIRY_TOLD_S
from edge_ws.texts import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the arguments ask for."""

    columns: tuple[str, ...] | None = None
    """None: the usual ones."""
    sort: str | None = None
    reverse: bool = False
    limit: int | None = None


def wanted(arguments: Namespace, *, limit: int | None) -> Wanted:
    """Return what the arguments ask for; `limit`: the most rows, None for all.

    Raises:
        UsageError: there is nothing between two commas, or the limit is below 1.
    """
    columns = None
    if arguments.columns is not None:
        columns = tuple(one.strip() for one in arguments.columns.split(","))
        if not all(columns):
            raise UsageError(f"--columns: {arguments.columns!r} has an empty name")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit: {limit} is less than 1")
    return Wanted(columns=columns, sort=arguments.sort, reverse=arguments.reverse, limit=limit)


def arrange(rows: Sequence[Row], asked: Wanted) -> list[Row]:
    """Return the rows that are asked for in their order, with the columns that are asked for.

    Raises:
        UsageError: there is no such column.
    """
    if not rows:
        return []
    for flag, names in (("--columns", asked.columns or ()), ("--sort", (asked.sort,) if asked.sort else ())):
        if unknown := next((name for name in names if name not in rows[0]), None):
            raise UsageError(f"{flag}: there is no column {unknown}; there are {', '.join(rows[0])}")
    found = list(rows)
    if asked.sort is not None:
        column = asked.sort
        there = [row for row in found if row[column] is not None]
        there.sort(key=lambda row: _key(row[column]), reverse=asked.reverse)
        # What is not known is neither least nor most.
        found = [*there, *(row for row in found if row[column] is None)]
    elif asked.reverse:
        found.reverse()
    return [_only(row, asked.columns) for row in found[: asked.limit]]


def _key(value: object) -> tuple[float, str]:
    # Numbers before texts: a column has one kind of value, but for what an older gateway sends.
    if isinstance(value, int | float):
        return float(value), ""
    return 0.0, ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _only(row: Row, columns: Sequence[str] | None) -> Row:
    return row if columns is None else {name: row[name] for name in columns}


def usual(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Return the rows with the usual columns only, as far as they have them."""
    return [{name: row[name] for name in columns if name in row} for row in rows]


def fit(cells: Sequence[Sequence[str]], width: int, gap: int) -> int:
    """Return how many columns, from the left, fit the width; at least one.

    Args:
        cells: the lines of the table, with its head.
        width: characters of the terminal.
        gap: characters between two columns.
    """
    used = 0
    for index in range(len(cells[0])):
        used += max(len(line[index]) for line in cells) + (gap if index else 0)
        if used > width:
            return max(1, index)
    return len(cells[0])


def expiring(rows: Sequence[Mapping[str, object]], now: float) -> str:
    """Return whose tokens expire soon, as the end of a summary; empty: nobody's.

    Args:
        rows: the workers, as `list-workers` has them.
        now: seconds since the epoch.
    """
    soon = datetime.fromtimestamp(now + EXPIRY_TOLD_S, UTC).isoformat(timespec="seconds")
    names = [str(row.get("worker_name")) for row in rows if str(row.get("token_expires") or "~") <= soon]
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; the token expires within 14 days, or has expired, of {', '.join(names[:3])}{more}"


def worker_summary(rows: Sequence[Mapping[str, object]], queues_waiting: int | None) -> str:
    """Return in one line how the workers are: each is counted once.

    Args:
        rows: the workers, as `list-workers` has them.
        queues_waiting: how many queues hold jobs that wait; None: nobody knows.
    """
    total = len(rows)
    away = [row for row in rows if not row.get("connected", True)]
    offline = sum(str(row.get("state")).startswith("offline") for row in away)
    here = [row for row in rows if row.get("connected", True)]
    maintained = sum("maintenance" in str(row.get("state")) for row in here)
    others = [row for row in here if "maintenance" not in str(row.get("state"))]
    idle_codes = [str(row.get("no_jobs_code")) for row in others if not row.get("takes_jobs", True)]
    connected = f"{len(others)} connected"
    if idle_codes:
        codes = ", ".join(sorted(set(idle_codes)))
        connected += (
            f" ({len(idle_codes)} of them take{'s' if len(idle_codes) == 1 else ''} no jobs: {codes})"
        )
    counts = [connected]
    for number, words in (
        (offline, "offline"),
        (len(away) - offline, "not heard of"),
        (maintained, "in maintenance"),
    ):
        if number:
            counts.append(f"{number} {words}")
    said = f"{total} worker{'' if total == 1 else 's'}: {', '.join(counts)}"
    if queues_waiting is None:
        return said
    waits = f"{queues_waiting} queue{' waits' if queues_waiting == 1 else 's wait'}"
    return f"{said}; {waits if queues_waiting else 'no queue waits'}"


def queue_summary(rows: Sequence[Mapping[str, object]]) -> str:
    """Return in one line how the queues are."""
    waiting = [row for row in rows if row.get("queued")]
    stuck = [row for row in waiting if not row.get("workers")]
    said = f"{len(rows)} queue{'' if len(rows) == 1 else 's'}: {len(waiting)} with jobs that wait"
    said = f"{said}, {len(stuck)} of them without a worker that takes jobs" if stuck else said
    paused = sum(bool(row.get("paused")) for row in rows)
    return f"{said}; {paused} paused" if paused else said


def job_summary(rows: Sequence[Mapping[str, object]]) -> str:
    """Return in one line how the jobs are."""
    states = [str(row.get("state")) for row in rows]
    counts = ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))
    return f"{len(rows)} job{'' if len(rows) == 1 else 's'}: {counts}"


Row = Mapping[str, object]
"""Column -> a string, number, truth value, list of strings, or None."""


def show(rows: Sequence[Row], form: str, absent: Mapping[str, str], nothing: str) -> None:
    """Print the rows in that form; if there are none, say `nothing` on stderr."""
    if not rows:
        print(nothing, file=sys.stderr)
    text = render(rows, form, absent)
    if text:
        tell(text)


def terminal_width() -> int | None:
    """Return the characters of the terminal that stdout is, None if it is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def tell(text: str, end: str = "\n") -> None:
    """Write the text to stdout, now, with all that waits there.

    Raises:
        EdgeWsError: stdout is closed, or takes nothing more: a full disk, say.
        BrokenPipeError: its reader has left.
    """
    if sys.stdout is None:
        raise EdgeWsError("the result cannot be shown: standard output is closed")
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard()
        raise EdgeWsError(f"the result cannot be written to standard output: {error.strerror}") from error


def discard() -> None:
    """Have stdout take whatever comes: Python writes what is left at its exit, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def render(rows: Sequence[Row], form: str, absent: Mapping[str, str]) -> str:
    """Return the rows in that form, without a line break at the end; no rows make no table.

    `absent` says how tables show None, by column; elsewhere it is a dash.
    """
    match form:
        case "json":
            return json.dumps([dict(row) for row in rows])
        case "yaml":
            items = ("\n  ".join(f"{key}: {_yaml(value)}" for key, value in row.items()) for row in rows)
            return "\n".join(f"- {item}" for item in items) or "[]"
        case _:
            return _columns(rows, absent, framed=form == "table")


def render_one(row: Row, form: str) -> str:
    """Return one row as text, JSON or YAML; in text nothing is said of what is None or empty."""
    match form:
        case "json":
            return json.dumps(dict(row))
        case "yaml":
            return "\n".join(f"{name}: {_yaml(value)}" for name, value in row.items())
        case _:
            wide = max(map(len, row), default=0)
            there = {name: value for name, value in row.items() if value not in (None, [], {})}
            return "\n".join(_line(name, value, wide) for name, value in there.items())


def _yaml(value: object) -> str:
    """Return the value as JSON, which is YAML, but for characters that JSON writes as two."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in text)


def _line(name: str, value: object, wide: int) -> str:
    if isinstance(value, list) and isinstance(value[0], Mapping):
        table = _columns(value, {}, framed=False).replace("\n", "\n  ")
        return f"{name}\n  {table}"
    if isinstance(value, Mapping):
        inner = max(map(len, value))
        parts = (f"  {printable(key):<{inner}}  {_cell(one, '-')}" for key, one in value.items())
        return "\n".join([name, *parts])
    return f"{name:<{wide}}  {_cell(value, '-')}"


def cells(rows: Sequence[Row], absent: Mapping[str, str]) -> list[list[str]]:
    """Return the lines of a table of these rows (there are some), its head first."""
    names = list(rows[0])
    return [names, *([_cell(row[name], absent.get(name, "-")) for name in names] for row in rows)]


def _columns(rows: Sequence[Row], absent: Mapping[str, str], *, framed: bool) -> str:
    if not rows:
        return ""
    lines = cells(rows, absent)
    names = lines[0]
    wide = [max(len(line[index]) for line in lines) for index in range(len(names))]
    gap = " | " if framed else "  "
    shown = [
        gap.join(f"{cell:<{width}}" for cell, width in zip(line, wide, strict=True)).rstrip()
        for line in lines
    ]
    if framed:
        shown.insert(1, "=+=".join("=" * width for width in wide))
    return "\n".join(shown)


def _cell(value: object, absent: str) -> str:
    if value is None:
        return absent
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(",".join(map(str, value)) if isinstance(value, list) else str(value))
