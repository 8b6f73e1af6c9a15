"""How long Airflow's client repeats a request that gets no answer, and what happens while it waits.

Airflow's own number of tries is over after some seconds, and whatever the task wanted then fails: too soon
for a site whose line is away for a minute. So they are repeated for minutes here, but for those that have
somebody else to repeat them. Patches the client's class, so only for a process that runs one job; imports no
Airflow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

PATIENCE_S = 240.0
"""No heartbeat is sent meanwhile, and Airflow fails a task without one for 300 s by default: what can never
pass must have failed by then, with its reason in the task's log."""
LONGEST_PAUSE_S = 10.0
"""Between two tries; Airflow's own is 90 s, for which a task would stand still after the line is back."""
_INTERNAL_ERROR = 500


class Waiting(Protocol):
    """Whoever waits between two tries."""

    def pause(self, seconds: float) -> None:
        """Wait, and no longer than until the task is to be stopped."""

    def left_s(self) -> float:
        """Return how long a request may still be repeated; `inf` unless the task is to be stopped."""


class Patience:
    """Decides for all clients of this process whether a request is tried again."""

    def __init__(
        self, waiting: Waiting, *, patience_s: float | None = PATIENCE_S, pause_s: float = LONGEST_PAUSE_S
    ) -> None:
        """`patience_s`: how long a request is repeated; None for as often as Airflow does.

        `pause_s`: the longest time between two tries.
        """
        self._waiting = waiting
        self._patience_s = patience_s
        self._pause_s = pause_s
        self._tries: int | None = None
        self._is_short = False
        self._airflows: Callable[[Any], bool] = lambda _state: True

    def put_into(self, client: Any) -> None:  # noqa: ANN401 - Airflow's client class
        """Have all clients of that class ask this one."""
        # Until 3.4 the method of that name is the repeating one itself.
        repeating = getattr(client, "_request_with_retry", client.request).retry
        self._airflows, wait = repeating.stop, repeating.wait
        repeating.wait = lambda state: min(wait(state), self._pause_s)
        repeating.stop, repeating.sleep = self._is_over, self._waiting.pause

    @contextlib.contextmanager
    def tries(self, number: int | None = None) -> Iterator[None]:
        """Try a request so often at the most; None for as often as Airflow does."""
        self._is_short, self._tries = True, number
        try:
            yield
        finally:
            self._is_short, self._tries = False, None

    def _is_over(self, state: Any) -> bool:  # noqa: ANN401 - the retrying library's class
        """Tell whether the try that has failed was the last one."""
        if state.upcoming_sleep >= self._waiting.left_s():
            return True
        if self._tries is not None:
            return bool(state.attempt_number >= self._tries)
        if self._is_short or self._patience_s is None or _is_airflows_own(state.outcome.exception()):
            return self._airflows(state)
        return bool(state.seconds_since_start + state.upcoming_sleep >= self._patience_s)


def _is_airflows_own(error: BaseException | None) -> bool:
    """Tell whether the request arrived and Airflow stumbled over it, as it may do each time."""
    return getattr(getattr(error, "response", None), "status_code", 0) == _INTERNAL_ERROR
