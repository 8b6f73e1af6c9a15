"""How much of workers' logs the database keeps: of one job's, of all of a worker's, of all that are there.

Of a log that is over a limit it keeps the begin and the end. Knows the sizes by what is written here and, now
and then, by what the table holds: other gateways write as well, and logs are moved away.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from edge_ws.protocol.ids import WorkerName
from edge_ws.server.config import GatewaySettings
from edge_ws.store.logs import SHOWN_LOG
from edge_ws.store.records import LogBounds

log = logging.getLogger(__name__)

MEASURE_S = 10.0
"""Between two looks at the table, while logs come."""
SHORT = LogBounds(4 * 1024 * 1024, 1024 * 1024)
"""What is kept of each log that grows while its worker has too much there."""
_MEBIBYTE = 1024 * 1024


class LogLimits:
    """The limits in force; for one thread at a time."""

    def __init__(
        self,
        measure: Callable[[], Mapping[WorkerName, int]],
        settings: GatewaySettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it; `measure` returns the bytes that each worker's logs have in the table (blocking)."""
        self._measure = measure
        self._clock = clock
        self._of_job = settings.job_log_limit
        self._of_worker = settings.worker_log_limit
        self._of_all = settings.log_table_limit
        self._sizes: Counter[WorkerName] = Counter()
        self._size_of_all = 0
        self._measured_at: float | None = None
        self._over: set[WorkerName] = set()

    def bounds(self, workers: Collection[WorkerName]) -> dict[WorkerName, LogBounds]:
        """Return what is kept of the logs of those workers' jobs, all of those it does not name (blocking).

        Raises:
            UnreachableError: the database is away.
        """
        now = self._clock()
        if self._measured_at is None or now >= self._measured_at + MEASURE_S:
            self._sizes = Counter(self._measure())
            self._size_of_all = self._sizes.total()
            self._measured_at = now
        return {name: bounds for name in workers if (bounds := self._of(name)) is not None}

    def grown(self, worker: WorkerName, size: int) -> None:
        """Note that so many bytes were written."""
        self._sizes[worker] += size
        self._size_of_all += size

    def _of(self, name: WorkerName) -> LogBounds | None:
        tail = min(SHOWN_LOG, self._of_job // 2)
        of_job = LogBounds(self._of_job - tail, tail) if self._of_job else None
        if not self._is_over(name):
            return of_job
        return SHORT if of_job is None else LogBounds(min(SHORT.head, of_job.head), min(SHORT.tail, tail))

    def _is_over(self, name: WorkerName) -> bool:
        """Tell whether the worker has too much there; or, of too much in all, more than its share."""
        size = self._sizes[name]
        share = self._of_all // max(1, len(self._sizes))
        is_over = 0 < self._of_worker < size or (0 < self._of_all < self._size_of_all and size > share)
        if is_over and name not in self._over:
            self._over.add(name)
            log.warning(
                "Worker %s has %d MiB of logs in the database, which is over a limit: until less is there, of"
                " each that grows only the first %d MiB and the last one are kept",
                name,
                size // _MEBIBYTE,
                SHORT.head // _MEBIBYTE,
            )
        elif not is_over:
            self._over.discard(name)
        return is_over
