"""What a gateway counts and measures: since it began, and by minute for the last hour. In memory; no I/O.

The counters only grow: a minute is what they grew by, so an event costs one addition. Minutes are those of
the database's clock, which all gateways share; this machine's may be wrong. For the event loop alone, but for
`database`, which any thread may call.
"""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import orjson

from edge_ws.protocol.ids import ClaimId, WorkerName
from edge_ws.recent import Recent

MINUTES = 60
"""So many are kept, the one that goes on not counted."""
BOUNDS = tuple(
    float(f"{digit}e{power}") for power in range(-3, 4) for digit in (1, 2, 5) if (digit, power) != (5, 3)
)
"""Upper bounds of the buckets of durations, 1 ms, 2 ms, 5 ms ... 2000 s; one more is for what is longer. Of
all releases the same, so that those of several gateways can be added."""
DURATIONS = ("push_latency", "start_latency", "wish_latency", "loop_lag", "database_read", "database_write")
TRANSPORTS = ("websocket", "longpoll")
KEPT = 10_000
"""Claims and wishes whose beginning is remembered until their end; more than that are not measured."""
LONGEST = 60_000
"""Characters of the hour as JSON: what a text column takes in every database."""
LOOK_S = 0.25
"""Between two looks at the event loop."""
VERSION = 1


class Histogram:
    """Durations in the buckets of BOUNDS."""

    __slots__ = ("buckets", "longest", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.longest = 0.0
        """Since the minute began."""

    def add(self, seconds: float) -> None:
        """Count a duration."""
        seconds = max(seconds, 0.0)
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)


@dataclass(frozen=True, slots=True)
class Minute:
    """What happened in a minute, as it is kept and written down."""

    number: int
    """Minutes since the epoch."""
    counts: Mapping[str, int]
    """`name:label` or `name` -> how many, zeros left out."""
    durations: Mapping[str, Sequence[float]]
    """Name -> total, longest, then bucket and count in turn; those without any left out."""
    connections: Mapping[str, int]
    """By transport, at its end."""

    def as_json(self) -> dict[str, object]:
        """Return it as it is written down."""
        return {"t": self.number, "c": self.counts, "d": self.durations, "n": self.connections}


@dataclass(slots=True)
class _Begin:
    """The counters as the minute began."""

    number: int
    counts: Counter[str] = field(default_factory=Counter)
    buckets: dict[str, list[int]] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)


class Figures:
    """Counts and durations of one gateway."""

    def __init__(
        self,
        connections: Callable[[], Mapping[str, int]] = dict,
        *,
        has_metrics: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it.

        Args:
            connections: returns how many workers are connected, by transport.
            has_metrics: the gateway has a listener for Prometheus.
            clock: seconds of any monotone clock.
        """
        self.counts: Counter[str] = Counter()
        """Since the gateway began: `name:label` or `name` -> how many."""
        self.durations = {name: Histogram() for name in DURATIONS}
        self.started_at = time.time()
        """Seconds since the epoch, by this machine's clock."""
        self.wakeup = "polling"
        """How changes of the database become known."""
        self.has_metrics = has_metrics
        self._connections = connections
        self._clock = clock
        self._ahead_s = time.time() - clock()
        self._begin = _Begin(self._minute())
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)
        self._offered: Recent[ClaimId, float] = Recent(KEPT)
        """When the job was queued; not accepted yet."""
        self._accepted: Recent[ClaimId, float | None] = Recent(KEPT)
        """The same; not started yet."""
        self._wished: Recent[WorkerName, tuple[int, float]] = Recent(KEPT)
        """The revision that is to be applied, and since when."""
        self._lock = threading.Lock()

    # What happens

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Count something; the label is one of a few, never a stranger's word."""
        self.counts[f"{name}:{label}" if label else name] += by

    def offered(self, claim: ClaimId, waited_s: float, free_s: float) -> None:
        """A job has been offered.

        Args:
            claim: of the job.
            waited_s: for how long it had been queued.
            free_s: for how long its worker had had a slot for it.
        """
        self.counts["offers"] += 1
        self.durations["push_latency"].add(min(waited_s, free_s))
        self._offered.put(claim, self._clock() - waited_s)

    def accepted(self, claim: ClaimId) -> None:
        """An offer has been accepted; to say so again changes nothing."""
        if claim not in self._accepted:
            self.counts["offer_results:accepted"] += 1
            self._accepted.put(claim, self._offered.pop(claim, None))

    def offer_ended(self, claim: ClaimId, result: str) -> None:
        """An offer has come to nothing."""
        self._offered.pop(claim, None)
        self.counts[f"offer_results:{result}"] += 1

    def gone(self, claims: Iterable[ClaimId]) -> None:
        """A worker's connection has ended: of what it held, those are free again that it had not accepted."""
        for claim in claims:
            if self._offered.pop(claim, None) is not None:
                self.counts["offer_results:disconnected"] += 1

    def started(self, claim: ClaimId) -> None:
        """A job has started; to say so again changes nothing."""
        queued_at = self._accepted.pop(claim, None)
        if queued_at is not None:
            self.durations["start_latency"].add(self._clock() - queued_at)

    def is_about_to_start(self, claim: ClaimId) -> bool:
        """Tell whether a claim was accepted here and has not started."""
        return claim in self._accepted

    def wished(self, worker: WorkerName, revision: int, at: float) -> None:
        """A worker is told a wish, which became known at that time of the clock."""
        if revision > self._wished.get(worker, (0, 0.0))[0]:
            self._wished.put(worker, (revision, at))

    def applied(self, worker: WorkerName, revision: int) -> bool:
        """Take note of what a worker has in force; return whether it is news."""
        wish = self._wished.get(worker)
        if wish is None or revision < wish[0]:
            return False
        del self._wished[worker]
        self.durations["wish_latency"].add(self._clock() - wish[1])
        return True

    def database(self, kind: str, seconds: float, failed: str | None) -> None:
        """Take note of a transaction; see `edge_ws.store.database.Observer`. From any thread."""
        with self._lock:
            self.durations[f"database_{kind}"].add(seconds)
            if failed is not None:
                self.counts[f"database_errors:{failed}"] += 1

    # By minute

    def aligned(self, database_time: float, at: float) -> None:
        """Note the database's time at that time of the clock: minutes are by it."""
        self._ahead_s = database_time - at
        self.turn()

    def _minute(self) -> int:
        return int((self._clock() + self._ahead_s) // 60)

    def turn(self) -> None:
        """Close the minute if it is over; call it every second or so."""
        number = self._minute()
        if number != self._begin.number:
            self._minutes.append(self._now())
            for one in self.durations.values():
                one.longest = 0.0
            self._begin = self._beginning(number)

    def _beginning(self, number: int) -> _Begin:
        with self._lock:
            return _Begin(
                number,
                self.counts.copy(),
                {name: one.buckets.copy() for name, one in self.durations.items()},
                {name: one.total for name, one in self.durations.items()},
            )

    def _now(self) -> Minute:
        """Return the minute that goes on."""
        begin, now = self._begin, self._beginning(self._begin.number)
        durations = {}
        for name, buckets in now.buckets.items():
            before = begin.buckets.get(name) or [0] * len(buckets)
            grown = [(i, n - b) for i, (n, b) in enumerate(zip(buckets, before, strict=True)) if n > b]
            if grown:
                total = now.totals[name] - begin.totals.get(name, 0.0)
                pairs = [number for pair in grown for number in pair]
                durations[name] = [round(total, 6), round(self.durations[name].longest, 6), *pairs]
        return Minute(begin.number, dict(now.counts - begin.counts), durations, dict(self._connections()))

    def snapshot(self) -> dict[str, object]:
        """Return the hour as it is written down, for `figure_rows`."""
        self.turn()
        return {
            "version": VERSION,
            "wakeup": self.wakeup,
            "connections": dict(self._connections()),
            "loop_lag_s": round(self.durations["loop_lag"].longest, 6),
            "minutes": [one.as_json() for one in (*self._minutes, self._now())],
        }

    def as_text(self) -> str:
        """Return the snapshot as JSON; the oldest minutes are left out if else it does not fit its column."""
        told = self.snapshot()
        minutes = told["minutes"]
        assert isinstance(minutes, list)
        text = orjson.dumps(told)
        while len(text) > LONGEST and len(minutes) > 1:
            del minutes[: max(1, len(minutes) // 4)]
            text = orjson.dumps(told)
        return text.decode()

    async def keep_for_ever(self, wakeup: Callable[[], str]) -> NoReturn:
        """Measure how late the event loop is, and close each minute.

        Args:
            wakeup: returns how changes of the database become known now.
        """
        while True:
            due = self._clock() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self.durations["loop_lag"].add(self._clock() - due)
            self.wakeup = wakeup()
            self.turn()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has happened that is worth keeping when the gateway has ended."""
        return not any(self.counts[name] for name in self.counts if not name.startswith("database"))
