"""The pauses between two tries: by what was met, and for how long."""

from __future__ import annotations

import pytest

from edge_ws.errors import EdgeWsError, RefusedError, Unreachable, UnreachableError
from edge_ws.worker.transport_choice import LONGEST_S, NEW_S, REFUSED_RETRY_S, SOON_S, Pauses

FOREIGN = UnreachableError("404", kind=Unreachable.FOREIGN)


def _asking(after_s: float) -> UnreachableError:
    return UnreachableError("429", retry_after_s=after_s)


def _many(error: EdgeWsError, *, now: float = 0.0, tried_s: float = 0.0) -> list[float]:
    found = []
    for _ in range(50):
        pauses = Pauses()
        for _ in range(8):
            pauses.next_s([error], tried_s, 0.0)
        found.append(pauses.next_s([error], tried_s, now))
    return found


def test_a_foreign_answer_costs_seconds_while_the_trouble_is_new() -> None:
    assert max(_many(FOREIGN)) <= SOON_S
    late = _many(FOREIGN, now=NEW_S)
    assert SOON_S < max(late) <= LONGEST_S


def test_a_try_that_met_silence_has_waited_already() -> None:
    assert max(_many(FOREIGN, tried_s=SOON_S)) <= 1.0


def test_the_first_pauses_are_short_and_never_nothing() -> None:
    first = [Pauses().next_s([FOREIGN], 0.0, 0.0) for _ in range(100)]
    assert 0.05 <= min(first) <= max(first) <= 1.0


@pytest.mark.parametrize(
    ("asked_s", "least", "most"), [(5.0, 5.0, 10.0), (0.0, 0.05, 10.0), (1e6, 60.0, 75.0)]
)
def test_retry_after_is_honoured_within_bounds(asked_s: float, least: float, most: float) -> None:
    found = _many(_asking(asked_s))
    assert least <= min(found) <= max(found) <= most


def test_only_a_gateways_own_refusal_costs_minutes() -> None:
    assert min(_many(RefusedError("token", "unknown"))) >= 0.8 * REFUSED_RETRY_S
    assert max(_many(RefusedError("protocol", "x"))) <= SOON_S
    assert max(_many(RefusedError("unavailable", "x", retry_after_s=2.0))) <= 3.0
    assert max(_many(RefusedError("unavailable", "x", retry_after_s=1e9))) <= 1.5 * REFUSED_RETRY_S


def test_a_connection_that_lasted_ends_the_trouble() -> None:
    pauses = Pauses()
    for number in range(10):
        pauses.next_s([FOREIGN], 0.0, 100.0 * number)
    pauses.steady()
    assert pauses.next_s([FOREIGN], 0.0, 5000.0) <= 1.0
