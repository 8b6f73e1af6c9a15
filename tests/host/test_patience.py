"""How long a request is repeated: with the retrying library that Airflow's client has, and no Airflow."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import tenacity

from edge_ws.host.execution_api import Patience


class Clock:
    """Counts what is waited between the tries; waits only if it is told how."""

    def __init__(self, sleep: Callable[[float], None] = lambda _seconds: None) -> None:
        self._sleep = sleep
        self.paused = 0.0
        self.left = math.inf

    def pause(self, seconds: float) -> None:
        self.paused += seconds
        self._sleep(seconds)

    def left_s(self) -> float:
        return self.left - self.paused


class RefusedError(Exception):
    """No answer, or one of that status."""

    def __init__(self, status: int | None) -> None:
        self.response = None if status is None else SimpleNamespace(status_code=status)


def tries(
    patience_s: float | None, status: int | None, clock: Clock, at_most: int | None = -1, wait_s: float = 0.5
) -> int:
    """Make a request that always fails, as Airflow's client does: five tries, half a second between them."""
    made = []

    class Client:
        @tenacity.retry(stop=tenacity.stop_after_attempt(5), wait=tenacity.wait_fixed(wait_s), reraise=True)
        def request(self) -> None:
            made.append(1)
            raise RefusedError(status)

    patience = Patience(clock, patience_s=patience_s)
    patience.put_into(Client)
    limit = contextlib.nullcontext() if at_most == -1 else patience.tries(at_most)
    with limit, pytest.raises(RefusedError):
        Client().request()
    return len(made)


def test_a_request_without_an_answer_is_repeated_for_the_time() -> None:
    clock = Clock(sleep=time.sleep)
    assert tries(2.0, None, clock, wait_s=0.05) > 5
    assert 1.0 < clock.paused < 2.0


@pytest.mark.parametrize(
    ("patience_s", "status", "at_most", "made"),
    [
        (None, None, -1, 5),  # the user has set the number
        (240.0, 500, -1, 5),  # Airflow's own fault, which may come each time
        (240.0, None, None, 5),  # one that somebody else repeats
        (240.0, None, 1, 1),
    ],
)
def test_others_are_repeated_less_often(
    patience_s: float | None, status: int | None, at_most: int | None, made: int
) -> None:
    assert tries(patience_s, status, Clock(), at_most) == made


def test_while_the_task_is_being_stopped_no_try_comes_after_its_end() -> None:
    clock = Clock()
    clock.left = 1.2
    assert tries(240.0, None, clock) == 3
    clock.left = clock.paused
    assert tries(240.0, None, clock) == 1


def test_the_line_is_tried_again_within_seconds() -> None:
    clock = Clock()
    assert tries(None, None, clock, wait_s=90.0) == 5
    assert clock.paused == 40.0
