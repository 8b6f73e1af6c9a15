"""Turns the time that an operator names into one with an offset: here times are local, on the wire never."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta, tzinfo

from edge_ws.errors import UsageError

_CLOCK = re.compile(r"\d{1,2}:\d{2}", re.ASCII)
_DAY = len("2026-12-01")


def until(text: str, *, now: datetime | None = None, zone: tzinfo | None = None) -> str:
    """Return the moment in ISO 8601, with its offset.

    Args:
        text: `18:00`, the next time that clocks here show that, or a day with a time such as
            `2026-12-01T18:00`; local time, unless it has an offset.
        now: aware; None: this machine's clock.
        zone: what is local; None: this machine's.

    Raises:
        UsageError: it is neither.
    """
    wanted = text.strip()
    here = (datetime.now(UTC) if now is None else now).astimezone(zone)
    try:
        if _CLOCK.fullmatch(wanted):
            clock = time.fromisoformat(wanted.zfill(len("18:00")))
            found = _local(datetime.combine(here.date(), clock), zone)
            if found <= here:
                found = _local(datetime.combine(here.date() + timedelta(days=1), clock), zone)
        else:
            # A day alone would be its first moment, which hardly anybody means.
            found = datetime.fromisoformat(wanted if len(wanted) > _DAY else "")
            found = _local(found, zone) if found.tzinfo is None else found
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--until: {text[:60]!r} is no time such as 18:00 or 2026-12-01T18:00 (local time)"
        ) from error
    return found.isoformat(timespec="seconds")


def _local(naive: datetime, zone: tzinfo | None) -> datetime:
    """Return the moment at which clocks here show that, by the offset of that day."""
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)
