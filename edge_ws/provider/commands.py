"""What the centre's verbs do: tokens, workers and tables, in the database of the Airflow installed here.

Parses no arguments (see `edge_ws.cli.verbs`). Results go to stdout; all that is said about them, and
whatever Airflow logs meanwhile, goes to stderr.
"""

from __future__ import annotations

import logging
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import cast

from sqlalchemy.engine import Engine

from edge_ws.cli.output import Row, render
from edge_ws.errors import UsageError
from edge_ws.provider.admin import token_request, token_rows, wish_concurrency, worker_rows
from edge_ws.store import schema
from edge_ws.store.database import first_line, shown_url
from edge_ws.store.store import Store

# Airflow's database


@contextmanager
def _airflow_engine() -> Iterator[Engine]:
    """Yield the engine of Airflow's database; meanwhile stdout is stderr, for Airflow logs to stdout."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        for handler in logging.getLogger().handlers:
            # Started by `airflow`, which has set up its logging already.
            if isinstance(handler, logging.StreamHandler) and handler.stream is out:
                handler.setStream(sys.stderr)
        yield _load_engine()


def _load_engine() -> Engine:
    try:
        # Takes seconds, and sets Airflow up: only when a verb runs.
        from airflow import settings  # noqa: PLC0415

        if settings.engine is None:
            settings.initialize()
    except Exception as error:  # whatever Airflow makes of its configuration
        raise UsageError(
            f"Airflow cannot be set up here: {first_line(error)}; check [database] sql_alchemy_conn"
        ) from error
    return cast("Engine", settings.engine)


@contextmanager
def _store() -> Iterator[Store]:
    """Yield the store on Airflow's database, its tables checked."""
    with _airflow_engine() as engine:
        schema.check(engine)
        yield Store(engine)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


# Tables


def db_migrate(arguments: Namespace) -> int:  # noqa: ARG001 - the shape of every verb
    """Create the tables, or bring them up to date."""
    with _airflow_engine() as engine:
        schema.migrate(engine)
    print(f"edge-ws's tables in {shown_url(engine)} are up to date")
    return 0


def db_check(arguments: Namespace) -> int:  # noqa: ARG001 - the shape of every verb
    """Tell whether the tables are as this release needs them."""
    with _airflow_engine() as engine:
        schema.check(engine)
    print(f"edge-ws's tables in {shown_url(engine)} are as this release needs them")
    return 0


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
    print(secret)
    return 0


def token_list(arguments: Namespace) -> int:
    """List the tokens."""
    with _store() as store:
        rows = token_rows(store.tokens(), time.time())
    absent = {"queues": "all", "team_name": "any", "expires": "never"}
    return _show(rows, arguments.output, absent, "there are no tokens yet")


def token_revoke(arguments: Namespace) -> int:
    """Revoke the token of that id, or all of that name."""
    with _store() as store:
        count = store.revoke_token(arguments.token)
        known = [token for token in store.tokens() if arguments.token in {token.id, token.name}]
    if not known:
        raise UsageError(f"there is no token {arguments.token}; see: edge-ws token list")
    print(f"revoked {count} token{'' if count == 1 else 's'}" if count else "revoked already")
    return 0


# Workers


def list_workers(arguments: Namespace) -> int:
    """List the workers."""
    with _store() as store:
        rows = worker_rows(store.workers(arguments.worker_name_pattern))
    return _show(rows, arguments.output, {"queues": "all"}, "there is no such worker")


def _show(rows: Sequence[Row], form: str, absent: Mapping[str, str], nothing: str) -> int:
    if not rows:
        _say(nothing)
    text = render(rows, form, absent)
    if text:
        print(text)
    return 0


def set_worker_concurrency(arguments: Namespace) -> int:
    """Wish for a worker's concurrency and, if asked to, wait until it is applied."""
    with _store() as store:
        wait_s = arguments.wait_timeout if arguments.wait else None
        outcome = wish_concurrency(store, arguments.edge_hostname, arguments.concurrency, wait_s)
    print(outcome.as_json() if arguments.output == "json" else outcome.told())
    return 0
