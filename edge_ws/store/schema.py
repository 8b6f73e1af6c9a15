"""Brings a database's tables to the shape of `tables.py`, tells what they lack, and drops ours.

Knows Alembic and the chain in `migrations/`, not what a step of it does. Each step looks at what is there
and adds what is missing, so running the whole chain again is always safe. More tables and more columns than
wanted are fine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.reflection import Inspector

from edge_ws.errors import SchemaError, UnreachableError
from edge_ws.resources import migrations_dir
from edge_ws.store.database import first_line, shown_url
from edge_ws.store.tables import (
    EDGE3_TABLES,
    JOB_INDEXES,
    OWN_TABLES,
    TRIGGERS,
    VERSION_TABLE,
    WAKE_FUNCTION,
    edge_job,
    edge_worker,
    worker,
)


def differences(inspector: Inspector, tables: Iterable[sa.Table]) -> list[str]:
    """Return what keeps statements made for `tables` from working; empty: nothing.

    Each entry is a phrase such as "edge_job lacks the column edge_ws_claim".
    """
    wanted = {table.name: table for table in tables}
    columns = inspector.get_multi_columns(filter_names=list(wanted))
    keys = inspector.get_multi_pk_constraint(filter_names=list(wanted))
    found: list[str] = []
    for name, table in wanted.items():
        if (None, name) not in columns:
            found.append(f"there is no table {name}")
            continue
        there = {column["name"]: column for column in columns[None, name]}
        found += [
            f"{name} lacks the column {column.name}" for column in table.columns if column.name not in there
        ]
        found += [
            f"{name} wants a value for the unknown column {column['name']}"
            for column in there.values()
            if column["name"] not in table.columns and not column["nullable"] and column["default"] is None
        ]
        if set(keys[None, name]["constrained_columns"]) != set(table.primary_key.columns.keys()):
            found.append(f"{name} has another primary key")
    return found


def lost_aids(connection: Connection) -> list[str]:
    """Return which of our indexes and triggers edge3's tables lack, as phrases.

    A column that edge3 drops and adds again takes them with it.
    """
    inspector = sa.inspect(connection)
    if not inspector.has_table(edge_job.name):
        return []
    there = {index["name"] for index in inspector.get_indexes(edge_job.name)}
    found = [f"{edge_job.name} lacks the index {name}" for name in JOB_INDEXES if name not in there]
    if connection.dialect.name == "postgresql":
        named = sa.text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
        fired = set(connection.scalars(named))
        found += [
            f"{table} lacks the trigger {name}" for name, table in TRIGGERS.items() if name not in fired
        ]
    return found


_LOCK_KEY = 0x6564_6765_5F77_7301
"""PostgreSQL's advisory lock for our migrations; not Airflow's, which a caller may hold already."""
_LOCK_WAIT_S = 600
"""How long one migration waits for another one to end."""
_TABLE_WAIT_S = 30
"""How long a step waits for a table (PostgreSQL): all that use it queue up behind the waiting step."""
_BUSY = frozenset({"55P03", "40P01", "SQLITE_BUSY"})
"""Codes of a lock that was not had in time, and of a deadlock."""
_WHOSE = "is it the centre's? see AIRFLOW_HOME and [database] sql_alchemy_conn"
_RUN = "run `airflow db migrate` or `edge-ws db migrate`"


def migrate(engine: Engine) -> None:
    """Create and change the tables until they are what this release needs.

    Safe to repeat, and safe while others do the same. A newer release's tables are left alone.

    Raises:
        SchemaError: tables are in the way that this release cannot adopt, or may not change.
        UnreachableError: the database does not answer.
    """
    with _told(engine), engine.connect() as connection, _alone(connection):
        found = _revisions(connection)
        missing = _missing(connection)
        if not found <= _known():
            if missing:
                raise _newer(engine, found, missing)
            return
        if found and (missing or lost_aids(connection)):
            # An older release's tables; or somebody replaced tables behind our version row, and the step
            # that mends them is one that the row calls done. All steps once more serves both.
            connection.execute(sa.delete(sa.table(VERSION_TABLE)))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        missing = _missing(connection)
        if missing:
            raise SchemaError(
                f"tables in {shown_url(engine)} are not those of edge-ws ({missing[0]});"
                " rename or drop them and migrate again"
            )


def check(engine: Engine) -> None:
    """Make sure that the tables have what this release needs; tables of a newer one may do.

    Raises:
        SchemaError: they have not; the sentence says what to run.
        UnreachableError: the database does not answer.
    """
    if _lacks_file(engine):
        raise SchemaError(f"there is no database {shown_url(engine)} ({_WHOSE})", remedy=_RUN)
    with _told(engine), engine.connect() as connection:
        found = _revisions(connection)
        missing = _missing(connection)
        lost = [] if missing else lost_aids(connection)
    if not found:
        raise SchemaError(f"the database {shown_url(engine)} has no edge-ws tables ({_WHOSE})", remedy=_RUN)
    if not found <= _known():
        if missing:
            raise _newer(engine, found, missing)
        return
    if found != set(_script().get_heads()):
        missing = missing or [f"revision {', '.join(sorted(found))}"]
    if missing or lost:
        reason = (missing or lost)[0]
        raise SchemaError(f"edge-ws's tables in {shown_url(engine)} are out of date ({reason})", remedy=_RUN)


def _lacks_file(engine: Engine) -> bool:
    """Tell whether a connection would create an empty file of SQLite."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return False
    return os.access(Path(name).parent, os.W_OK | os.X_OK) and not Path(name).exists()


def has_all(engine: Engine, tables: Iterable[sa.Table]) -> bool:
    """Tell whether statements on these tables alone work, whichever release has migrated them.

    Raises:
        UnreachableError: the database does not answer.
    """
    with _told(engine), engine.connect() as connection:
        return not differences(sa.inspect(connection), tables)


def drop(connection: Connection) -> None:
    """Drop our tables and our version row, and take our rows out of edge3's tables.

    Those stay, with our two empty columns: they may be edge3's to drop, and if not they wait for the next
    `migrate`. Rows left there would be offered to workers on behalf of an Airflow that knows them no more.
    The caller begins and commits.
    """
    inspector = sa.inspect(connection)
    if not differences(inspector, [edge_job]):
        ours = sa.or_(edge_job.c.edge_ws_owner.is_not(None), edge_job.c.edge_ws_claim.is_not(None))
        connection.execute(edge_job.delete().where(ours))
    if inspector.has_table(edge_worker.name) and inspector.has_table(worker.name):
        names = sa.select(worker.c.worker_name)
        connection.execute(edge_worker.delete().where(edge_worker.c.worker_name.in_(names)))
    for table in OWN_TABLES:
        table.drop(connection, checkfirst=True)
    if connection.dialect.name == "postgresql":
        # With the triggers that call it.
        connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {WAKE_FUNCTION}() CASCADE")
    sa.Table(VERSION_TABLE, sa.MetaData()).drop(connection, checkfirst=True)


def _newer(engine: Engine, found: set[str], missing: list[str]) -> SchemaError:
    said = ", ".join(sorted(found))
    return SchemaError(
        f"the database {shown_url(engine)} was migrated by a newer edge-ws (revision {said}) and does not"
        f" suit this one ({missing[0]})",
        remedy="install the edge-ws that migrated it, or a later one",
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _known() -> set[str]:
    return {step.revision for step in _script().walk_revisions()}


def _revisions(connection: Connection) -> set[str]:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return set()
    column: sa.ColumnClause[str] = sa.column("version_num", sa.String)
    return set(connection.scalars(sa.select(column).select_from(sa.table(VERSION_TABLE))))


def _missing(connection: Connection) -> list[str]:
    return differences(sa.inspect(connection), (*EDGE3_TABLES, *OWN_TABLES))


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Open a transaction that no other migration of this database runs beside."""
    dialect = connection.dialect.name
    if dialect in {"mysql", "mariadb"}:
        with _named_lock(connection), connection.begin():
            yield
        return
    if dialect == "postgresql":
        # A stricter level would go on seeing the tables as they were before the wait for the lock.
        connection.execution_options(isolation_level="READ COMMITTED")
    with connection.begin():
        if dialect == "postgresql":
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_TABLE_WAIT_S}s'"))
        elif dialect == "sqlite":
            # Takes the write lock now; what was read before it would be another migration's past.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield


@contextmanager
def _named_lock(connection: Connection) -> Iterator[None]:
    """Hold MySQL's lock of our name: it belongs to the session, for every DDL statement commits there."""
    name = f"edge_ws:{connection.engine.url.database}"[:64]
    with connection.begin():
        got = connection.scalar(sa.select(sa.func.get_lock(name, _LOCK_WAIT_S)))
    if got != 1:
        raise SchemaError(
            f"another migration of {shown_url(connection.engine)} has been running for {_LOCK_WAIT_S} s;"
            " wait for it and migrate again"
        )
    try:
        yield
    finally:
        with connection.begin():
            connection.scalar(sa.select(sa.func.release_lock(name)))


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        if _code(error) in _BUSY:
            raise SchemaError(
                f"the tables in {shown_url(engine)} are in use ({first_line(error)}); wait for what works on"
                " them, or stop it, and migrate again"
            ) from error
        if isinstance(error, exc.OperationalError | exc.InterfaceError) or error.connection_invalidated:
            raise UnreachableError(f"the database {shown_url(engine)} failed: {first_line(error)}") from error
        raise SchemaError(
            f"the tables in {shown_url(engine)} could not be read or changed: {first_line(error)}"
        ) from error
    except exc.TimeoutError as error:
        raise UnreachableError(f"the database {shown_url(engine)} failed: {first_line(error)}") from error


def _code(error: exc.DBAPIError) -> str | None:
    """Return the driver's code of the fault: psycopg2, psycopg, sqlite3 each name it otherwise."""
    for name in ("pgcode", "sqlstate", "sqlite_errorname"):
        code = getattr(error.orig, name, None)
        if isinstance(code, str):
            return code
    return None
