"""Databases for tests: every kind that we support, a new one for each test in milliseconds.

A migrated database is copied from a template that was migrated once.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
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
        name = f"test_{next(self._numbers)}"
        template = _TEMPLATE if migrated else "template0"
        with self._admin(kind) as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self._server(kind).url(name).render_as_string(hide_password=False)
        finally:
            with self._admin(kind) as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _make_template(self, kind: str) -> None:
        if kind == "sqlite":
            url: str | sa.URL = self._file(_TEMPLATE)
        else:
            url = self._server(kind).url(_TEMPLATE)
            with self._admin(kind) as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
        with using(url) as engine:
            schema.migrate(engine)

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
    def _admin(self, kind: str) -> Iterator[sa.Connection]:
        url = self._server(kind).url("postgres")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            yield connection
