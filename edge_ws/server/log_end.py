"""What the end of a task's log says: its last errors, if there are any, else the last line. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from edge_ws.texts import printable

LAST = 20
"""Lines that are looked at: what was an error long before the end did not end it."""
ERRORS = 3
"""Errors that are told at the most: the last one is often but the consequence of the one before."""
LONGEST = 200
"""Characters that are told of a line."""
_BAD = frozenset({"error", "critical", "exception", "fatal"})
_BEGIN = "::group::Pre Execute"
"""The event with which each round of an attempt begins."""


class LogEnd(NamedTuple):
    """What the end of a log says."""

    line: str = ""
    """Empty: there is no log."""
    is_error: bool = False


NO_LOG = LogEnd()


def log_end(data: bytes) -> LogEnd:
    """Return the last errors of the attempt's last round in one line, else its last line.

    Airflow's supervisor writes a JSON object a line (`level`, `event`, `error_detail`); what else is there is
    taken as it is.
    """
    lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
    entries = [_entry(line) for line in lines[-LAST:]]
    begun = max((index for index, (_, text) in enumerate(entries) if text == _BEGIN), default=-1)
    entries = entries[begun + 1 :] or entries
    bad = list(dict.fromkeys(_short(text) for level, text in entries if level in _BAD))
    if bad:
        return LogEnd("; ".join(bad[-ERRORS:]), is_error=True)
    return LogEnd(_short(entries[-1][1])) if entries else NO_LOG


def _short(text: str) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _entry(line: str) -> tuple[str, str]:
    """Return a line's level, empty if it has none, and its words."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return "", line
    if not isinstance(entry, Mapping):
        return "", line
    return str(entry.get("level", "")), _words(entry)


def _words(entry: Mapping[str, Any]) -> str:
    event = str(entry.get("event", ""))
    detail = entry.get("error_detail")
    first = detail[0] if isinstance(detail, list) and detail else None
    if isinstance(first, Mapping) and first.get("exc_type"):
        return f"{event}: {first['exc_type']}: {first.get('exc_value', '')}".rstrip(": ")
    return event
