"""Rows as a table, plain columns, JSON or YAML. Knows nothing of what the rows are about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

Row = Mapping[str, object]
"""Column -> a string, number, truth value, list of strings, or None."""


def render(rows: Sequence[Row], form: str, absent: Mapping[str, str]) -> str:
    """Return the rows in that form, without a line break at the end; no rows make no table.

    `absent` says how tables show None, by column; elsewhere it is a dash.
    """
    match form:
        case "json":
            return json.dumps([dict(row) for row in rows])
        case "yaml":
            # A JSON value is a YAML value too.
            items = ("\n  ".join(f"{key}: {json.dumps(value)}" for key, value in row.items()) for row in rows)
            return "\n".join(f"- {item}" for item in items) or "[]"
        case _:
            return _columns(rows, absent, framed=form == "table")


def _columns(rows: Sequence[Row], absent: Mapping[str, str], *, framed: bool) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, *([_cell(row[name], absent.get(name, "-")) for name in names] for row in rows)]
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
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
