"""The store: every verb on the database, one method and one transaction each, grouped by role.

Synchronous: callers on an event loop run it in a thread. Who needs one role only is handed that role.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy.engine import Engine

from edge_ws.store.claims import ClaimStore
from edge_ws.store.database import Database
from edge_ws.store.dispatch import DispatchStore
from edge_ws.store.ends import EndsStore
from edge_ws.store.jobs import JobStore
from edge_ws.store.liveness import LivenessStore
from edge_ws.store.logs import LogStore
from edge_ws.store.operators import OperatorStore
from edge_ws.store.picture import PictureStore
from edge_ws.store.queues import QueueStore
from edge_ws.store.records import EDGE3_BEAT_S, EDGE3_BEATS
from edge_ws.store.reports import ReportStore
from edge_ws.store.retention import RetentionStore
from edge_ws.store.tokens import TokenStore
from edge_ws.store.views import ViewStore
from edge_ws.store.watch import Changes, ChangeWatch, make_watch
from edge_ws.store.workers import WorkerStore


class Store:
    """All roles over one engine, which the caller made and disposes of.

    Every verb raises UnreachableError when the database is away; it can then be repeated.
    """

    def __init__(
        self, engine: Engine, *, listen_url: str | None = None, edge3_beat_s: float = EDGE3_BEAT_S
    ) -> None:
        """Make the store.

        Args:
            engine: the database.
            listen_url: its URL past a pooler, for LISTEN; None: over the engine. PostgreSQL only.
            edge3_beat_s: the heartbeat of edge3's workers.
        """
        database, alive_s = Database(engine), EDGE3_BEATS * edge3_beat_s
        self._database: Final = database
        self._listen_url: Final = listen_url
        self.jobs: Final = JobStore(database)
        """The executor's: its rows."""
        self.dispatch: Final = DispatchStore(database)
        """The dispatcher's: what waits, and claiming it."""
        self.claims: Final = ClaimStore(database)
        """The reaper's: claims that nobody reports."""
        self.reports: Final = ReportStore(database, alive_s)
        """What workers report about claims."""
        self.workers: Final = WorkerStore(database, alive_s)
        """What workers say about themselves."""
        self.liveness: Final = LivenessStore(database, alive_s)
        """Who is there."""
        self.retention: Final = RetentionStore(database)
        """What is forgotten, and when."""
        self.logs: Final = LogStore(database)
        """Jobs' logs on their way."""
        self.operators: Final = OperatorStore(database)
        """What operators wish of workers."""
        self.queues: Final = QueueStore(database)
        """What operators wish of queues."""
        self.ends: Final = EndsStore(database)
        """Maintenance that ends by itself."""
        self.tokens: Final = TokenStore(database)
        """Workers' credentials."""
        self.views: Final = ViewStore(database, alive_s)
        """What anybody may see."""
        self.picture: Final = PictureStore(database, self.views)
        """The whole fleet at one moment, for those who watch it."""

    def keep_connections(self) -> None:
        """Keep a few connections between transactions, for a process that has one after another."""
        self._database.keep_connections()

    def release_connections(self) -> None:
        """Give the kept connections back to the engine's pool."""
        self._database.release_connections()

    def watch(self, on_change: Callable[[Changes], None]) -> ChangeWatch:
        """Return a watch, not started, that calls `on_change` on a thread of its own after each change.

        Raises:
            UsageError: the URL for LISTEN is none, or its driver is not installed.
        """
        return make_watch(self._database.engine, on_change, self._listen_url)
