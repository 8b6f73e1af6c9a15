"""Lengths and points of time as people give them: `90s`, `2h`, `1h30m`; ISO 8601. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from edge_ws.errors import UsageError

_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_LENGTH = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", re.ASCII)


def length(text: str) -> float:
    """Return the seconds of a length such as `2h`, `1h30m` or `90s`; a bare number is seconds.

    Raises:
        UsageError: it is none.
    """
    wanted = text.strip().lower()
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 10:
        return float(wanted)
    found = _LENGTH.fullmatch(wanted)
    if not wanted or found is None:
        raise UsageError(f"{text[:60]!r} is no length of time such as 2h, 1h30m, 90s or 1d")
    parts = zip(_UNITS.values(), found.groups(), strict=True)
    return sum(seconds * int(number) for seconds, number in parts if number)


def seconds(given: int | str, *, name: str, least_s: float, most_s: float) -> float:
    """Return a length of time that was given as seconds or as a text.

    Args:
        given: it.
        name: names it in a sentence.
        least_s: the shortest.
        most_s: the longest.

    Raises:
        UsageError: it is none, or out of range.
    """
    try:
        found = float(given) if isinstance(given, int) else length(given)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    if not least_s <= found <= most_s:
        raise UsageError(f"{name}: {given} is not between {least_s:g} s and {most_s / 86_400:g} days")
    return found


def moment(text: str) -> datetime:
    """Return the moment that ISO 8601 names, such as `2026-12-01T18:00+01:00`; without an offset it is UTC.

    Raises:
        UsageError: it names none.
    """
    try:
        found = datetime.fromisoformat(text.strip())
        return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text[:60]!r} is no time in ISO 8601 such as 2026-12-01T18:00+01:00") from error
