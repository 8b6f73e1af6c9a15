"""Has old versions of DAG bundles removed, as Airflow expects of a long-lived worker: in a forked child.

The host never waits for it: to remove a large tree takes long. Nor has it a thread for that, as it forks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from edge_ws.host import bundles, runner
from edge_ws.host.sentences import one_line
from edge_ws.processes import thread_count

LONGEST_S = 600
"""A child that takes longer is ended; what it has not removed waits for the next one."""


class Sweeper:
    """Forks a child every now and then."""

    def __init__(self, every_s: float, now: float) -> None:
        """`every_s`: Airflow's `[dag_processor] stale_bundle_cleanup_interval`; 0: never."""
        self._every_s = every_s
        self._due_at = now + every_s if every_s > 0 else None
        self.pid: int | None = None
        """The last child; it may have ended."""

    @property
    def due_at(self) -> float | None:
        """When `tick` must be called next, None for never."""
        return self._due_at

    def tick(self, now: float, close_inherited: Callable[[], None]) -> None:
        """Fork a child if one is due; `close_inherited` closes in it what only the host may hold open."""
        if self._due_at is None or now < self._due_at:
            return
        self._due_at = now + self._every_s
        # A fork copies only the thread that forks: a lock that another one holds would stay locked for ever.
        if thread_count() > 1:
            return
        try:
            self.pid = os.fork()
        except OSError:
            return
        if self.pid == 0:
            _sweep(close_inherited)


def _sweep(close_inherited: Callable[[], None]) -> None:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(LONGEST_S)
        os.nice(10)
        close_inherited()
        runner.set_title("edge-ws host: removing old bundle versions")
        bundles.remove_stale_versions()
    except BaseException as error:  # noqa: BLE001 - a child must not run the host's code
        sys.stderr.write(f"edge-ws host: old bundle versions are not all removed: {one_line(error)}\n")
    finally:
        os._exit(0)
