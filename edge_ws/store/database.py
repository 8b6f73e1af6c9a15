"""One engine, two kinds of transaction; turns the driver's faults into ours.

Knows no table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from edge_ws.errors import UnreachableError


def shown_url(engine: Engine) -> str:
    """Return the engine's URL with the password masked."""
    return engine.url.render_as_string(hide_password=True)


def first_line(error: BaseException) -> str:
    """Return the first line of what the driver said."""
    told = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    return (str(told).strip().splitlines() or [type(told).__name__])[0]


class Database:
    """Transactions on an engine that somebody else made and disposes of."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self.can_skip_locked = self.dialect in {"postgresql", "mysql"}

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that is committed at the end of the block.

        Raises:
            UnreachableError: the database is away, locked or broke off; nothing of the block took effect
                (or, if the commit's answer was lost, all of it: every verb can be repeated).
        """
        with self._told(), self.engine.begin() as connection:
            if self.dialect == "sqlite":
                # A deferred transaction that reads first and writes later fails with "database is locked"
                # at once when another writer came between; this one waits for its turn instead.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction for reading; raises as `write` does."""
        with self._told(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
            raise UnreachableError(
                f"the database {shown_url(self.engine)} failed: {first_line(error)}"
            ) from error
        except exc.DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise UnreachableError(
                f"the database {shown_url(self.engine)} failed: {first_line(error)}"
            ) from error

    def locked(self, query: sa.Select[tuple[object, ...]]) -> sa.Select[tuple[object, ...]]:
        """Return the query with row locks, leaving out rows that others hold (where that exists)."""
        return query.with_for_update(skip_locked=True) if self.can_skip_locked else query
