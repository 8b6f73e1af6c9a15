"""In a job's own process: have Airflow's supervisor stop its task when the host says so, and tidy up after.

There is one killer of a task: its supervisor, by its own `kill`, with its own log and its own report. The
host's word only makes it look at once, or stop what Airflow still counts as running. Wraps two methods that
every supervisor has; knows nothing of workloads, and imports Airflow nowhere.
"""

from __future__ import annotations

import functools
import math
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from edge_ws.host import leftovers

# Airflow's classes cannot be named without importing it.
_Process = Any

LEAST_GRACE_S = 0.05
"""A shorter one would not let the supervisor see that the task has ended."""
_CALM_S = 0.2
_TERM_S = 1.0
"""For what a task that ended as it should has left: 1.2 s in all, so that the slot is soon free."""


class Right:
    """The right to send a task its SIGTERM: the host and the job's process share it, and one of them gets it.

    So `on_kill` runs once, even if a supervisor that was taken for dead wakes up at that moment.
    """

    def __init__(self, number: int | None = None) -> None:
        """Make a new one, or one of an inherited descriptor."""
        self.number = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if number is None else number

    def take(self) -> bool:
        """Take it; tell whether it was there."""
        try:
            return os.eventfd_read(self.number) > 0
        except BlockingIOError:
            return False

    @property
    def is_there(self) -> bool:
        """Whether nobody has taken it."""
        return bool(select.select([self.number], [], [], 0)[0])

    def close(self) -> None:
        """Let go of the descriptor, once."""
        if self.number >= 0:
            os.close(self.number)
            self.number = -1


class Line(Protocol):
    """What is needed of the line to the host."""

    def copy(self) -> socket.socket:
        """Return the same socket under another descriptor."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait until the host speaks or is gone, or for so long; tell whether it was the former."""
        ...

    def hear(self) -> list[dict[str, Any]] | None:
        """Return what the host has said since, without waiting; None once it is gone."""
        ...

    def say(self, **words: object) -> None:
        """Tell the host, if it is there."""
        ...


@dataclass(slots=True)
class _Order:
    """The host's word to stop, until it has been carried out."""

    reason: str
    grace_s: float
    is_question: bool
    """Airflow decides: its answer to a heartbeat says whether the task is to be stopped."""
    heard_at: float
    was_asked: bool = False

    @property
    def due_at(self) -> float:
        """When a question that nobody has answered is decided without Airflow."""
        return self.heard_at + self.grace_s


class Supervision:
    """What this process does beside Airflow's supervisor, at each turn of its loop."""

    def __init__(self, line: Line, right: Right, grace_s: float) -> None:
        """`grace_s`: between SIGTERM and SIGKILL, whoever finds that the task is to be stopped."""
        self._line = line
        self._right = right
        self._grace_s = grace_s
        self._order: _Order | None = None
        self._kill_at: float | None = None
        """When the supervisor sends SIGKILL to a task that it is stopping."""
        self._held: list[Callable[[], None]] = []
        """Bad news for the task while it is to be stopped: it is to end by that, and not of these."""
        self._is_swept = False

    @property
    def _is_killing(self) -> bool:
        return self._kill_at is not None

    def wrap(self, base: type) -> None:
        """Wrap the supervisors' base class; this process has one supervisor."""
        service, kill = base._service_subprocess, base.kill  # type: ignore[attr-defined]  # noqa: SLF001
        send = base.send_msg  # type: ignore[attr-defined]

        def serve(process: _Process, **options: Any) -> int | None:  # noqa: ANN401
            return self._serve(process, service, options)

        def end(process: _Process, signal_to_send: int = signal.SIGINT, **options: Any) -> None:  # noqa: ANN401
            self._kill(process, signal_to_send, kill, options)

        def answer(
            process: _Process, msg: object, request_id: int, error: object = None, **options: object
        ) -> None:
            words = functools.partial(send, process, msg, request_id, error, **options)
            if error is not None and self.left_s() <= 0:
                self._held.append(words)
            else:
                words()

        base._service_subprocess, base.kill = serve, end  # type: ignore[attr-defined]  # noqa: SLF001
        base.send_msg = answer  # type: ignore[attr-defined]

    def attend(self, process: _Process) -> None:
        """Let the host's words wake the supervisor of this process."""
        # What came together with `go` has been read already, and would wake nobody.
        if self._hear():
            leave = process.selector.unregister
            data = (lambda _socket: self._hear(), leave)
            process.selector.register(self._line.copy(), selectors.EVENT_READ, data=data)

    # patience.Waiting

    def pause(self, seconds: float) -> None:
        """Wait, and no longer than until the host says that the task is to be stopped."""
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0 and self.left_s() > 0:
            if self._line.wait(left_s) and not self._hear():
                # Without a host nobody says so any more.
                time.sleep(max(0.0, end - time.monotonic()))

    def left_s(self) -> float:
        """Return how long a request may still be repeated; `inf` unless the task is to be stopped."""
        if self._kill_at is not None:
            return max(0.0, self._kill_at - time.monotonic())
        return math.inf if self._order is None else 0.0

    def finish(self) -> None:
        """End what is still below this process: its job is over."""
        leftovers.end_children(calm_s=0.0, term_s=0.0)

    # The supervisor's loop

    def _serve(
        self, process: _Process, service: Callable[..., int | None], options: dict[str, Any]
    ) -> int | None:
        if self._order is not None and self._order.was_asked:
            left_s = self._order.due_at - time.monotonic()
            options["max_wait_time"] = min(options["max_wait_time"], max(0.0, left_s))
        if options.get("expect_signal") is None and (self._is_killing or not self._right.is_there):
            # Whoever has sent SIGTERM sends SIGKILL next: it is no sign of too little memory.
            options["expect_signal"] = signal.SIGKILL
        code = service(process, **options)
        if code is None and not self._is_killing:
            code = self._obey(process)
        if code is None:
            leftovers.reap(but=process.pid)
        elif not self._is_swept:
            self._sweep(process)
        return code

    def _hear(self) -> bool:
        """Take in the host's words; tell whether more may come.

        Called in the middle of the supervisor's loop, so nothing is done yet.
        """
        words = self._line.hear()
        for word in words or ():
            if (stop := word.get("stop")) is not None:
                now = time.monotonic()
                self._order = _Order(stop["reason"], stop["grace_s"], stop["look"], now)
                self._grace_s = stop["grace_s"]
        return words is not None

    # Stopping

    def _obey(self, process: _Process) -> int | None:
        """Do as the host said; return the exit code once the task has ended of it."""
        order = self._order
        if order is None:
            return None
        why = order.reason
        # A callback has no heartbeat.
        if order.is_question and hasattr(process, "_send_heartbeat_if_needed"):
            if not order.was_asked or time.monotonic() >= order.due_at:
                order.was_asked = True
                self._look(process)
            if _is_over(process):
                self._order = None
                return process._exit_code  # type: ignore[no-any-return]  # noqa: SLF001
            if _is_answered(process, order.heard_at):
                self._order = None
                self._line.say(left=True)
                self._tell_held()
                return None
            if time.monotonic() < order.due_at:
                return None
            why += f"; the Execution API has not answered for {order.grace_s:g} s"
        self._order = None
        self._stop(process, why, order.grace_s)
        return process._exit_code  # type: ignore[no-any-return]  # noqa: SLF001

    def _tell_held(self) -> None:
        held, self._held = self._held, []
        for words in held:
            words()

    def _look(self, process: _Process) -> None:
        """Have the supervisor send its next heartbeat now; it kills the task if the answer says so."""
        process._last_heartbeat_attempt = -math.inf  # noqa: SLF001
        process._send_heartbeat_if_needed()  # noqa: SLF001

    def _stop(self, process: _Process, reason: str, grace_s: float) -> None:
        """Have the supervisor kill a task which Airflow counts as running, or of which it cannot be asked."""
        task_log, what = process.process_log, f"Stopping the task ({reason})"
        task_log.warning("%s: SIGTERM to its process group", what)
        process.kill(signal.SIGTERM, force=True)
        if process._exit_code == -signal.SIGKILL:  # noqa: SLF001
            late = f"as it did not stop within {grace_s:g} s of SIGTERM"
            task_log.error("%s: SIGKILL to its process group, %s", what, late)

    def _kill(
        self, process: _Process, number: int, kill: Callable[..., None], options: dict[str, Any]
    ) -> None:
        """Be the supervisor's `kill`, with our grace."""
        if number != signal.SIGTERM:
            kill(process, number, **options)
            return
        grace_s = max(self._grace_s, LEAST_GRACE_S)
        self._kill_at = time.monotonic() + grace_s
        try:
            if self._right.take():
                self._line.say(stopping=True)
                kill(process, number, **{**options, "escalation_delay": grace_s})
            else:
                self._follow(process, grace_s)
                kill(process, signal.SIGKILL)
        finally:
            self._kill_at = None

    def _follow(self, process: _Process, grace_s: float) -> None:
        """Wait for the end of a task to which the host has sent SIGTERM, as this process did not answer."""
        end = time.monotonic() + grace_s
        while process._exit_code is None and (left_s := end - time.monotonic()) > 0:  # noqa: SLF001
            process._service_subprocess(max_wait_time=left_s)  # noqa: SLF001

    # Afterwards

    def _sweep(self, process: _Process) -> None:
        """End what the task has left behind, as soon as its own process has ended.

        Its sockets, which what is left may hold open, would keep the supervisor waiting for a minute. At most
        what a task that ended as it should has left is asked to go first: a second copy of one that did not
        may start as soon as Airflow knows.
        """
        self._is_swept = True
        is_orderly = process._exit_code == 0 and not self._is_killing and not _has_failed(process)  # noqa: SLF001
        patience = (_CALM_S, _TERM_S) if is_orderly else (0.0, 0.0)
        found = leftovers.end_children(calm_s=patience[0], term_s=patience[1])
        if found:
            said = "The task's process has ended and left others behind, which were ended too: %s"
            process.process_log.warning(said, leftovers.listed(found))


def _has_failed(process: _Process) -> bool:
    state = getattr(process, "_terminal_state", None)
    return state is not None and str(getattr(state, "value", state)) in {"failed", "up_for_retry"}


def _is_over(process: _Process) -> bool:
    return process._exit_code is not None  # noqa: SLF001


def _is_answered(process: _Process, since: float) -> bool:
    """Tell whether Airflow has been asked and lets the task go on, or need not be asked.

    A task that has reported its end has no more heartbeats: Airflow bounds what its callbacks may take.
    """
    if process._last_heartbeat_attempt == -math.inf:  # noqa: SLF001
        return True
    answered_at: float = process._last_successful_heartbeat  # noqa: SLF001
    return answered_at >= since
