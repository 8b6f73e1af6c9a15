"""When a host rests, and when it tries again."""

from __future__ import annotations

import math

from edge_ws.worker.readiness import FIRST_REST_S, IN_A_ROW, LONGEST_REST_S, Health


def failing(health: Health, now: float = 0.0) -> bool:
    return [health.failed("no log folder", now) for _ in range(IN_A_ROW)][-1]


def test_it_rests_after_faults_in_a_row_only() -> None:
    health = Health()
    assert not health.failed("x", 0.0)
    assert not health.failed("x", 0.0)
    assert not health.started()
    assert failing(health, 5.0)
    assert health.left_s(6.0) == FIRST_REST_S - 1.0
    assert "the last 3 jobs could not be started here (no log folder); one is tried again" in health.sentence
    # Others that were taken before are no news.
    assert not health.failed("x", 7.0)


def test_each_failed_try_doubles_the_rest_and_a_start_ends_it() -> None:
    health = Health()
    failing(health)
    rests = []
    for _ in range(8):
        rests.append(health.left_s(0.0))
        health.try_again()
        assert health.is_trying
        assert health.left_s(0.0) == math.inf
        assert health.failed("again", 0.0)
        assert not health.is_trying
    assert rests[:3] == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S]
    assert rests[-1] == LONGEST_REST_S
    health.try_again()
    assert health.started()
    assert not health.is_trying
    assert not health.started()
