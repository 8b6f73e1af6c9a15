"""The time that an operator names."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from edge_ws.cli.until import until
from edge_ws.errors import UsageError

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 10, 24, 10, 0, tzinfo=UTC)
"""In Berlin 12:00, the day before summer time ends."""


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:00", "2026-10-24T18:00:00+02:00"),
        # The next one: of tomorrow, by the offset that counts then.
        ("12:00", "2026-10-25T12:00:00+01:00"),
        ("9:30", "2026-10-25T09:30:00+01:00"),
        (" 2026-12-01T18:00 ", "2026-12-01T18:00:00+01:00"),
        ("2026-12-01 18:00", "2026-12-01T18:00:00+01:00"),
        ("2026-12-01T18:00Z", "2026-12-01T18:00:00+00:00"),
        ("2026-12-01T18:00-05:00", "2026-12-01T18:00:00-05:00"),
    ],
)
def test_it_is_local_time(text: str, moment: str) -> None:
    assert until(text, now=NOON, zone=BERLIN) == moment


def test_without_a_zone_it_is_this_machines() -> None:
    found = datetime.fromisoformat(until("2026-12-01T18:00"))
    assert found == datetime(2026, 12, 1, 18, 0).astimezone()


@pytest.mark.parametrize("text", ["", "soon", "25:00", "18", "2026-12-01", "18:00:00:00", "9999-99-99T00:00"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="--until: "):
        until(text, now=NOON, zone=BERLIN)
