"""Databases for tests: every kind that we support, a new one for each test in milliseconds.

A migrated database is copied from a template that was migrated once. PostgreSQL takes long to make and to drop
one: a test that has changed rows only leaves its database, emptied, to the next one.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from edge_ws.store import schema
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.services import bundled_postgres, debian_postgres

_PROGRAMS: dict[str, Callable[[], Path]] = {
    "postgresql-18": bundled_postgres,
    "postgresql-debian": debian_postgres,
}
POSTGRES_KINDS = tuple(_PROGRAMS)
KINDS = ("sqlite", *POSTGRES_KINDS)
USUAL_KINDS = ("sqlite", "postgresql-18")
"""For tests that are not of SQL itself."""
_TEMPLATE = "edge_ws_template"
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_CATALOGS = (
    "attrdef",
    "attribute",
    "constraint",
    "depend",
    "index",
    "namespace",
    "statistic",
    "trigger",
    "type",
)
# Whatever is made, altered, dropped or analysed leaves a younger row, or fewer rows, in one of these or another
# name; TRUNCATE does not.
_SCHEMA = [
    *(f"(SELECT (count(*), max(xmin::text::bigint)) FROM pg_{name})" for name in _CATALOGS),
    "(SELECT array_agg((relname, reloptions) ORDER BY oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace)",
    """(SELECT array_agg(setconfig) FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
        WHERE datname = current_database())""",
]
_RESET_SEQUENCES = "SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence"


def make_engine(url: str | sa.URL) -> sa.Engine:
    """Return an engine as Airflow makes it for that URL."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _like_airflow)
    return engine


def _like_airflow(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


@contextmanager
def using(url: str | sa.URL) -> Iterator[sa.Engine]:
    """Give an engine for the length of the block."""
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


class _Emptier:
    """Makes a used PostgreSQL database as new; what that is, it learns from the template."""

    def __init__(self, connection: sa.Connection) -> None:
        names = sa.inspect(connection).get_table_names()
        full = self._full(connection, names)
        self._emptied = [name for name in names if name not in full]
        contents = [f"(SELECT array_agg(t.*)::text FROM {name} t)" for name in full]
        self._query = f"SELECT ROW({', '.join([*_SCHEMA, *contents])})::text"
        self._as_new = connection.exec_driver_sql(self._query).scalar_one()

    def empties(self, connection: sa.Connection) -> bool:
        """Empty a used database and end its connections; say no if more than rows has changed."""
        connection.exec_driver_sql(_END_OTHERS)
        if connection.exec_driver_sql(self._query).scalar_one() != self._as_new:
            return False
        if full := self._full(connection, self._emptied):
            connection.exec_driver_sql(f"TRUNCATE {', '.join(full)} CASCADE")
        connection.exec_driver_sql(_RESET_SEQUENCES)
        return True

    @staticmethod
    def _full(connection: sa.Connection, names: Iterable[str]) -> list[str]:
        parts = [f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in names]
        return list(connection.exec_driver_sql(" UNION ALL ".join(parts)).scalars())


class Databases:
    """Makes databases of any kind; starts a kind's server and migrates its template when first asked.

    Adds its servers' process ids to `pids`.
    """

    def __init__(self, folder: Path, pids: set[int]) -> None:
        self._folder = folder
        self._pids = pids
        self._numbers = itertools.count(1)
        self._servers: dict[str, PostgresServer] = {}
        self._templates: set[str] = set()
        self._emptiers: dict[str, _Emptier] = {}
        self._free: dict[str, list[str]] = {}
        """By kind, the databases that are as the template is."""
        self._engines: dict[tuple[str, str], sa.Engine] = {}
        self._until_closed = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._until_closed.close()

    @contextmanager
    def new(self, kind: str, *, migrated: bool) -> Iterator[str]:
        """Give the URL of a new database, which goes at the end of the block."""
        if migrated and kind not in self._templates:
            self._make_template(kind)
            self._templates.add(kind)
        if kind == "sqlite":
            yield self._new_file(migrated=migrated)
            return
        free = self._free.setdefault(kind, []) if migrated else []
        name = free.pop() if free else self._new_database(kind, migrated=migrated)
        is_empty = False
        try:
            yield self._server(kind).url(name).render_as_string(hide_password=False)
            if migrated:
                with self._admin(kind, name) as connection:
                    is_empty = self._emptiers[kind].empties(connection)
        finally:
            if is_empty:
                free.append(name)
            else:
                self._engines.pop((kind, name), None)
                with self._admin(kind) as connection:
                    connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _new_database(self, kind: str, *, migrated: bool) -> str:
        name = f"test_{next(self._numbers)}"
        template = _TEMPLATE if migrated else "template0"
        with self._admin(kind) as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def _make_template(self, kind: str) -> None:
        if kind == "sqlite":
            url: str | sa.URL = self._file(_TEMPLATE)
        else:
            url = self._server(kind).url(_TEMPLATE)
            with self._admin(kind) as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
        with using(url) as engine:
            schema.migrate(engine)
        if kind != "sqlite":
            with self._admin(kind, _TEMPLATE) as connection:
                self._emptiers[kind] = _Emptier(connection)

    def _file(self, name: str) -> str:
        return f"sqlite:///{self._folder / name}.db"

    def _new_file(self, *, migrated: bool) -> str:
        name = f"test_{next(self._numbers)}"
        if migrated:
            # Whole without its -wal: the template's engine was the last to close it.
            shutil.copyfile(self._folder / f"{_TEMPLATE}.db", self._folder / f"{name}.db")
        return self._file(name)

    def _server(self, kind: str) -> PostgresServer:
        if kind not in self._servers:
            self._servers[kind] = self._until_closed.enter_context(postgres_server(_PROGRAMS[kind]()))
            self._pids.add(self._servers[kind].pid)
        return self._servers[kind]

    def server_pid(self, kind: str) -> int:
        """Process id of the server of a kind of PostgreSQL."""
        return self._server(kind).pid

    @contextmanager
    def _admin(self, kind: str, database: str = "postgres") -> Iterator[sa.Connection]:
        if (kind, database) not in self._engines:
            url = self._server(kind).url(database)
            # No pool: tests look at who is connected.
            engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
            self._engines[kind, database] = engine
        with self._engines[kind, database].connect() as connection:
            yield connection
