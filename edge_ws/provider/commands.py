"""What the centre's verbs do: tokens and tables, in the database of the Airflow installed here.

Parses no arguments (see `edge_ws.cli.verbs`). Results go to stdout; all that is said about them, and
whatever Airflow logs meanwhile, goes to stderr.
"""

from __future__ import annotations

import logging
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from edge_ws.cli.output import show, tell
from edge_ws.errors import UsageError
from edge_ws.provider.admin import token_request, token_rows
from edge_ws.provider.airflow_setup import (
    airflow_engine,
    edge3_heartbeat_s,
    load_engine,
    log_folder,
    tables_engine,
)
from edge_ws.provider.airflow_tables import Named
from edge_ws.provider.tasks import AirflowTasks
from edge_ws.server.admin import perform
from edge_ws.server.scene import Unmet
from edge_ws.store import schema
from edge_ws.store.database import shown_url
from edge_ws.store.store import Store


@contextmanager
def _engine() -> Iterator[Engine]:
    """Yield the engine of Airflow's database, our tables checked."""
    with tables_engine() as engine:
        schema.check(engine)
        yield engine


@contextmanager
def _store() -> Iterator[Store]:
    """Yield the store on Airflow's database, its tables checked."""
    with _engine() as engine:
        yield Store(engine, edge3_beat_s=edge3_heartbeat_s())


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


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
        from edge_ws.provider import check as checks  # noqa: PLC0415
        from edge_ws.provider import compat  # noqa: PLC0415

        # It tells of each request.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        findings = list(checks.look(engine, compat.conf))
    tell(checks.render(findings, arguments.output))
    return checks.exit_code(findings)


# Tokens


def token_create(arguments: Namespace) -> int:
    """Make a token; its secret alone goes to stdout."""
    request = token_request(
        arguments.name,
        pattern=arguments.worker_name_pattern,
        queues=arguments.queues,
        team=arguments.team_name,
        expires=arguments.expires,
    )
    with _store() as store:
        secret = store.create_token(
            request.name,
            worker_pattern=request.worker_pattern,
            queues=request.queues,
            team=request.team,
            expires_in_s=request.expires_in_s,
        )
    _say(f"{request.told()}; it is shown only this once: put it into the worker's --token-file")
    tell(secret)
    return 0


def token_list(arguments: Namespace) -> int:
    """List the tokens."""
    with _store() as store:
        rows = token_rows(store.tokens(), time.time())
    absent = {"queues": "all", "team_name": "any", "expires": "never"}
    show(rows, arguments.output, absent, "there are no tokens yet")
    return 0


def token_revoke(arguments: Namespace) -> int:
    """Revoke the token of that id, or all of that name."""
    if not arguments.token.isprintable():
        # No name is like that, and the database might not even take it.
        raise UsageError(f"there is no token {arguments.token!r}; see: edge-ws token list")
    with _store() as store:
        count = store.revoke_token(arguments.token)
        known = [token for token in store.tokens() if arguments.token in {token.id, token.name}]
    if not known:
        raise UsageError(f"there is no token {arguments.token}; see: edge-ws token list")
    tell(f"revoked {count} token{'' if count == 1 else 's'}" if count else "revoked already")
    return 0


# Operators' verbs


class OnDatabase:
    """The operations of `edge_ws.server.admin`, done here: the operator may write into the database."""

    def __init__(self, engine: Engine) -> None:
        self._store = Store(engine, edge3_beat_s=edge3_heartbeat_s())
        self._tasks = AirflowTasks(engine, log_folder, _unmet)

    def __call__(self, operation: str, given: dict[str, object], *, changes: bool) -> object:  # noqa: ARG002
        """Return the operation's result."""
        return perform(self._store, operation, given, tasks=self._tasks)

    def has_gateway(self) -> bool:
        """Tell whether a gateway is alive."""
        return any(one.is_alive for one in self._store.gateways())


def _unmet(task: Named) -> tuple[Unmet, ...]:
    # Takes seconds: Airflow itself, its models and the DAG. Only what it has yet to queue is asked about.
    load_engine()
    from edge_ws.provider.dependencies import unmet  # noqa: PLC0415

    return unmet(task)


@contextmanager
def database() -> Iterator[OnDatabase]:
    """Yield the centre that is this database."""
    with _engine() as engine:
        yield OnDatabase(engine)
