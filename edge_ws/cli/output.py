"""Rows as a table, plain columns, JSON or YAML, and the way to stdout. Knows not what the rows are about."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence

from edge_ws.errors import EdgeWsError

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


def printable(text: str) -> str:
    """Return the text with a blank for what would move the cursor, or break the line.

    It may come from a worker, and is to do nothing to an operator's terminal.
    """
    return "".join(one if one.isprintable() else " " for one in text)


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
