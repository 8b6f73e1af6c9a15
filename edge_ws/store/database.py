"""One engine, two kinds of transaction; turns the driver's faults into ours.

Knows no table.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from edge_ws.errors import ConflictError, UnreachableError
from edge_ws.protocol.ids import WorkerName

KEEP_S = 30.0
"""A connection that was not used for so long goes back to the pool."""
KEEP_MANY = 4
IDLE_S = 10.0
"""PostgreSQL ends a transaction that writes and of which it hears nothing for so long: a process that is
frozen, or whose machine is gone, would else keep its rows locked from all others without limit."""
_CONFLICTS = frozenset({"40001", "40P01"})
"""PostgreSQL's serialization_failure and deadlock_detected."""


Failed = Callable[[WorkerName, Exception], None]
"""Told of a worker for which something cannot be done; for the others it is done."""


def fail(name: WorkerName, error: Exception) -> None:  # noqa: ARG001 - the shape of Failed
    """Let one worker's fault be everybody's."""
    raise error


@contextmanager
def each(name: WorkerName, failed: Failed) -> Iterator[None]:
    """Do something for one of many workers: what it raises, the database's absence apart, is told."""
    try:
        yield
    except UnreachableError:
        raise
    except Exception as error:  # noqa: BLE001 - whoever is told notes it
        failed(name, error)


def shown_url(engine: Engine) -> str:
    """Return the engine's URL with the password masked."""
    return engine.url.render_as_string(hide_password=True)


def first_line(error: BaseException) -> str:
    """Return the first line of what the driver said."""
    told = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    return (str(told).strip().splitlines() or [type(told).__name__])[0]


def _sqlstate(error: exc.SQLAlchemyError) -> str | None:
    origin = error.orig if isinstance(error, exc.DBAPIError) else None
    # psycopg2's name for it, and psycopg's.
    return getattr(origin, "pgcode", None) or getattr(origin, "sqlstate", None)


class _Kept:
    """Connections kept between transactions: each way through the pool costs a test and a reset.

    A busy gateway waits for each of them; an idle one asks the server for little else.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[Connection, float]] = []

    def take(self) -> Connection | None:
        """Return one that was used lately and that the server has not closed, None if there is none."""
        try:
            connection, used_at = self._idle.pop()
        except IndexError:
            return None
        if time.monotonic() - used_at < KEEP_S and _is_quiet(connection):
            return connection
        connection.close()
        # The last one used was on top: the others have been idle for longer.
        self.close()
        return None

    def give(self, connection: Connection) -> None:
        """Keep the connection for the next transaction."""
        if len(self._idle) < KEEP_MANY:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()

    def close(self) -> None:
        """Give all back to the pool."""
        while True:
            try:
                connection, _ = self._idle.pop()
            except IndexError:
                return
            connection.close()


def _is_quiet(connection: Connection) -> bool:
    """Tell whether the server has sent nothing since the last answer; its goodbye would be something."""
    poll = select.poll()
    try:
        poll.register(connection.connection.fileno(), select.POLLIN)
    except (AttributeError, OSError, ValueError, exc.SQLAlchemyError):
        return False
    return not poll.poll(0)


class Database:
    """Transactions on an engine that somebody else made and disposes of."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self._kept: _Kept | None = None
        self.on_news: Callable[[], None] | None = None
        """Called, in whichever thread it was, after each transaction that others may want to know of."""

    def keep_connections(self) -> None:
        """Keep connections between transactions, until they are released."""
        if self.dialect == "postgresql":
            self._kept = _Kept()

    def release_connections(self) -> None:
        """Keep no connections any more."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    @contextmanager
    def write(self, *, is_news: bool = True) -> Iterator[Connection]:
        """Open a transaction that is committed at the end of the block.

        Args:
            is_news: False for what comes all the time, and shows nobody anything new.

        Raises:
            UnreachableError: the database is away, locked or broke off; nothing of the block took effect
                (or, if the commit's answer was lost, all of it: every verb can be repeated).
        """
        with self._told(), self._connection() as connection, connection.begin():
            if self.dialect == "sqlite":
                # A deferred transaction that reads first and writes later fails with "database is locked"
                # at once when another writer came between; this one waits for its turn instead.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif self.dialect == "postgresql":
                # For this transaction: the session may be a pooler's, which others use next.
                connection.exec_driver_sql(
                    f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_S * 1000:.0f}"
                )
            yield connection
        if is_news and self.on_news is not None:
            self.on_news()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction for reading; raises as `write` does."""
        with self._told(), self._connection() as connection:
            yield connection
            connection.rollback()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        kept = self._kept
        connection = (kept.take() if kept is not None else None) or self.engine.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if kept is not None and kept is self._kept:
            kept.give(connection)
        else:
            connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
            kind = ConflictError if _sqlstate(error) in _CONFLICTS else UnreachableError
            raise kind(f"the database {shown_url(self.engine)} failed: {first_line(error)}") from error
        except exc.DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise UnreachableError(
                f"the database {shown_url(self.engine)} failed: {first_line(error)}"
            ) from error
