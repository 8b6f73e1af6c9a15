"""What the centre's verbs do on tables, and the centre as operators' verbs see it: Airflow's database here.

Parses no arguments (see `edge_ws.cli.verbs`). Results go to stdout; all that is said about them, and
whatever Airflow logs meanwhile, goes to stderr.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from edge_ws.cli.output import tell
from edge_ws.provider.airflow_setup import (
    airflow_engine,
    edge3_heartbeat_s,
    load_engine,
    log_folder,
    tables_engine,
)
from edge_ws.provider.airflow_tables import Named
from edge_ws.provider.audit import AirflowAudit, operating_user
from edge_ws.provider.tasks import AirflowTasks
from edge_ws.server.admin import perform
from edge_ws.server.diagnosis import Unmet
from edge_ws.store import schema
from edge_ws.store.database import shown_url
from edge_ws.store.store import Store


@contextmanager
def _engine() -> Iterator[Engine]:
    """Yield the engine of Airflow's database, our tables checked."""
    with tables_engine() as engine:
        schema.check(engine)
        yield engine


# Tables


def db_migrate(arguments: Namespace) -> int:  # noqa: ARG001 - the shape of every verb
    """Create the tables, or bring them up to date."""
    with airflow_engine() as engine:
        schema.migrate(engine)
    tell(f"edge-ws's tables in {shown_url(engine)} are up to date")
    return 0


def db_check(arguments: Namespace) -> int:  # noqa: ARG001 - the shape of every verb
    """Tell whether the tables are as this release needs them."""
    with airflow_engine() as engine:
        schema.check(engine)
    tell(f"edge-ws's tables in {shown_url(engine)} are as this release needs them")
    return 0


def check(arguments: Namespace) -> int:
    """Tell whether all that edge-ws needs at the centre is there."""
    with airflow_engine() as engine:
        # Takes a second: Airflow's executors, models and tokens.
        from edge_ws.provider import check as checks
        from edge_ws.provider import compat

        # It tells of each request.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        findings = list(checks.look(engine, compat.conf))
    tell(checks.render(findings, arguments.output))
    return checks.exit_code(findings)


# Operators' verbs


class OnDatabase:
    """The operations of `edge_ws.server.admin`, done here: the operator may write into the database."""

    def __init__(self, engine: Engine) -> None:
        self._store = Store(engine, edge3_beat_s=edge3_heartbeat_s())
        self._tasks = AirflowTasks(engine, log_folder, _unmet)
        self._audit = AirflowAudit(engine, by_command_line=True)

    def __call__(self, operation: str, given: dict[str, object], *, changes: bool) -> object:  # noqa: ARG002
        """Return the operation's result."""
        return perform(
            self._store, operation, given, operator=operating_user(), tasks=self._tasks, audit=self._audit
        )

    def has_gateway(self) -> bool:
        """Tell whether a gateway is alive."""
        return any(one.is_alive for one in self._store.views.gateways())


def _unmet(task: Named) -> tuple[Unmet, ...]:
    # Takes seconds: Airflow itself, its models and the DAG. Only what it has yet to queue is asked about.
    load_engine()
    from edge_ws.provider.dependencies import unmet

    return unmet(task)


@contextmanager
def database() -> Iterator[OnDatabase]:
    """Yield the centre that is this database."""
    with _engine() as engine:
        yield OnDatabase(engine)
