"""Lengths and points of time as people give them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from edge_ws.errors import UsageError
from edge_ws.times import length, moment, seconds


@pytest.mark.parametrize(
    ("text", "found"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), (" 1D ", 86_400), ("0", 0)],
)
def test_lengths(text: str, found: float) -> None:
    assert length(text) == found


@pytest.mark.parametrize("text", ["", "h", "2 h", "-1h", "1.5h", "30m2h", "2w", "²h", "9" * 400])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(UsageError, match="is no length of time such as 2h"):
        length(text)


def test_a_length_has_bounds() -> None:
    assert seconds(60, name="for", least_s=1.0, most_s=60.0) == 60.0
    for given in (0, 61, "61s"):
        with pytest.raises(UsageError, match=r"for: .* is not between 1 s and"):
            seconds(given, name="for", least_s=1.0, most_s=60.0)


def test_moments() -> None:
    at = datetime(2026, 12, 1, 17, 0, tzinfo=UTC)
    assert moment("2026-12-01T18:00+01:00") == moment("2026-12-01T17:00Z") == moment("2026-12-01T17:00") == at


@pytest.mark.parametrize("text", ["", "18:00", "tomorrow", "9999-12-31T23:59:59-01:00"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(UsageError, match="ISO 8601"):
        moment(text)
