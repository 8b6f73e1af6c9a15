"""Tells when the database has changed, where it can be told without asking for it each time.

SQLite: `PRAGMA data_version` on one raw connection changes when any other connection commits; a look costs
microseconds and takes no lock. PostgreSQL: see `listen`. Elsewhere nothing tells, and the caller looks by
itself; whether it must may change at any time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import exc
from sqlalchemy.engine import Engine

from edge_ws.protocol.ids import ClaimId, WorkerName

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.01
AWAY_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What may have changed; a hint, never a fact: the database is looked at before anything is done."""

    everything: bool = False
    """Anything may have changed."""
    queues: frozenset[str] = frozenset()
    """Queues in which a job waits."""
    workers: frozenset[WorkerName] = frozenset()
    """Workers of whom something else is wished."""
    tokens: bool = False
    """A worker's token was revoked, changed or deleted."""
    deleted: frozenset[tuple[ClaimId, WorkerName]] = frozenset()
    """Open claims whose row was deleted: they are stale for good."""


def read_payloads(payloads: Iterable[str]) -> Changes:
    """Return what the triggers' notifications say; what is not understood means everything."""
    named: dict[str, set[str]] = {"q": set(), "w": set(), "t": set(), "d": set()}
    everything = False
    for payload in payloads:
        kind, _, name = payload.partition(":")
        if kind in named:
            named[kind].add(name)
        else:
            everything = True
    pairs = (name.partition(" ") for name in named["d"])
    return Changes(
        everything=everything,
        queues=frozenset(named["q"]),
        workers=frozenset(map(WorkerName, named["w"])),
        tokens=bool(named["t"]),
        deleted=frozenset((ClaimId(claim), WorkerName(worker)) for claim, _, worker in pairs),
    )


@dataclass(frozen=True, slots=True)
class Wakeup:
    """How changes become known just now."""

    by: str
    """`listen`, `data_version`, or `polling`: the caller looks by itself."""
    since: float
    """Seconds since the epoch, by this machine's clock."""


class ChangeWatch:
    """A thread that calls back after each change; this base never hears anything.

    The callback is called on that thread, and with `everything` whenever hearing begins or ends.
    """

    def __init__(self, on_change: Callable[[Changes], None]) -> None:
        self._on_change = on_change
        self._wakeup = Wakeup("polling", time.time())
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def wakeup(self) -> Wakeup:
        """How changes become known just now."""
        return self._wakeup

    @property
    def hears(self) -> bool:
        """Tell whether each change is told now; else the caller must look by itself."""
        return self._wakeup.by != "polling"

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="edge-ws change watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _now_by(self, by: str) -> None:
        """Note how changes become known from now on; what was missed meanwhile is everything."""
        if by != self._wakeup.by:
            self._wakeup = Wakeup(by, time.time())
            self._on_change(Changes(everything=True))

    def _run(self) -> None:
        return


class DataVersionWatch(ChangeWatch):
    """SQLite's way."""

    def __init__(self, engine: Engine, on_change: Callable[[Changes], None]) -> None:
        super().__init__(on_change)
        self._engine = engine

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._watch()
            except (exc.SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error, OSError) as error:
                log.warning("Watching the database failed, trying again: %s", error)
            self._now_by("polling")
            self._stopped.wait(AWAY_PAUSE_S)

    def _watch(self) -> None:
        with self._engine.connect() as connection:
            seen = None
            while not self._stopped.wait(LOOK_EVERY_S):
                # The raw cursor: SQLAlchemy's execution would cost twenty times the look.
                cursor = connection.connection.cursor()
                cursor.execute("PRAGMA data_version")
                version = cursor.fetchone()
                cursor.close()
                self._now_by("data_version")
                if version != seen:
                    seen = version
                    self._on_change(Changes(everything=True))
