"""Tells when the database has changed, where it can be told without asking for it each time.

SQLite: `PRAGMA data_version` on one raw connection changes when any other connection commits; a look costs
microseconds and takes no lock. Elsewhere: nothing here yet tells, and the dispatcher looks by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy import exc
from sqlalchemy.engine import Engine

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.01
AWAY_PAUSE_S = 1.0


class ChangeWatch:
    """A thread that calls back after each change; `can_watch` says whether this database allows it."""

    def __init__(self, engine: Engine, on_change: Callable[[], None]) -> None:
        self._engine = engine
        self._on_change = on_change
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def can_watch(self) -> bool:
        """Tell whether changes can be watched on this kind of database (a private one has no others)."""
        return self._engine.dialect.name == "sqlite" and self._engine.url.database not in {
            None,
            "",
            ":memory:",
        }

    def start(self) -> None:
        """Start the thread; `on_change` is called on it."""
        self._thread = threading.Thread(target=self._run, name="edge-ws change watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._watch()
            except (exc.SQLAlchemyError, OSError) as error:
                log.warning("Watching the database failed, trying again: %s", error)
                self._stop.wait(AWAY_PAUSE_S)

    def _watch(self) -> None:
        with self._engine.connect() as connection:
            seen = None
            while not self._stop.wait(LOOK_EVERY_S):
                # The raw cursor: SQLAlchemy's execution would cost twenty times the look.
                cursor = connection.connection.cursor()
                version = cursor.execute("PRAGMA data_version").fetchone()
                cursor.close()
                if version != seen:
                    seen = version
                    self._on_change()
