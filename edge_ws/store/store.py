"""The store: every verb on the database, one method and one transaction each.

Synchronous: callers on an event loop run it in a thread. The verbs are grouped by who uses them.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Engine

from edge_ws.store.admin_verbs import AdminVerbs
from edge_ws.store.database import Database
from edge_ws.store.executor_verbs import ExecutorVerbs
from edge_ws.store.gateway_verbs import GatewayVerbs
from edge_ws.store.report_verbs import ReportVerbs
from edge_ws.store.wakeup import ChangeWatch
from edge_ws.store.worker_verbs import WorkerVerbs


class Store(ExecutorVerbs, WorkerVerbs, ReportVerbs, GatewayVerbs, AdminVerbs):
    """All verbs, over an engine that the caller made and disposes of.

    Every verb raises UnreachableError when the database is away; it can then be repeated.
    """

    def __init__(self, engine: Engine) -> None:
        self._database = Database(engine)

    def watch(self, on_change: Callable[[], None]) -> ChangeWatch:
        """Return a watch, not started, that calls `on_change` on a thread of its own after each change."""
        return ChangeWatch(self._database.engine, on_change)
