"""The store: every verb on the database, one method and one transaction each.

Synchronous: callers on an event loop run it in a thread. The verbs are grouped by who uses them.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from edge_ws.errors import UsageError
from edge_ws.store.admin_verbs import AdminVerbs
from edge_ws.store.database import Database
from edge_ws.store.executor_verbs import ExecutorVerbs
from edge_ws.store.gateway_verbs import GatewayVerbs
from edge_ws.store.liveness_verbs import LivenessVerbs, RetentionVerbs
from edge_ws.store.log_verbs import LogVerbs
from edge_ws.store.operator_verbs import OperatorVerbs
from edge_ws.store.records import EDGE3_BEAT_S, EDGE3_BEATS
from edge_ws.store.report_verbs import ReportVerbs
from edge_ws.store.view_verbs import ViewVerbs
from edge_ws.store.watch import Changes, ChangeWatch, DataVersionWatch, ListenWatch
from edge_ws.store.worker_verbs import WorkerVerbs


class Store(
    ExecutorVerbs,
    WorkerVerbs,
    ReportVerbs,
    GatewayVerbs,
    LivenessVerbs,
    LogVerbs,
    AdminVerbs,
    OperatorVerbs,
    ViewVerbs,
    RetentionVerbs,
):
    """All verbs, over an engine that the caller made and disposes of.

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
        self._edge3_alive_s = EDGE3_BEATS * edge3_beat_s
        self._database = Database(engine)
        self._listen_url = listen_url

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
        engine = self._database.engine
        if engine.dialect.name == "sqlite" and engine.url.database not in {None, "", ":memory:"}:
            return DataVersionWatch(engine, on_change)
        if not ListenWatch.can_listen(engine):
            return ChangeWatch(on_change)
        return ListenWatch(engine, on_change, direct=self._direct_engine())

    def _direct_engine(self) -> Engine | None:
        if not self._listen_url:
            return None
        try:
            url = sa.make_url(self._listen_url)
            if url.drivername == "postgresql":
                url = url.set(drivername=self._database.engine.url.drivername)
            engine = sa.create_engine(url, poolclass=sa.NullPool)
        except (exc.ArgumentError, ImportError, ValueError) as error:
            raise _wrong_url(f"{type(error).__name__}") from error
        if not ListenWatch.can_listen(engine):
            raise _wrong_url(f"{engine.dialect.name} with {engine.dialect.driver}")
        return engine


def _wrong_url(why: str) -> UsageError:
    # Without what was written there: it holds a password.
    return UsageError(
        f"the URL for LISTEN cannot be used ({why}); [edge_ws] listen_sql_alchemy_conn must be like"
        " postgresql+psycopg2://user:password@host/database"
    )
