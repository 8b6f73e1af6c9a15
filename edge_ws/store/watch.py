"""Tells when the database has changed: by PostgreSQL's LISTEN, by SQLite's file, or by polling.

SQLite: `PRAGMA data_version` on one raw connection changes when any other connection commits; a look costs
microseconds and takes no lock. PostgreSQL: a connection may be dead or deaf without a sign (a cut network, a
pooler that gives each transaction another session), so what is sent over another connection of the store's
engine must be heard on this one: at the start, and ever again. Elsewhere nothing tells, and the caller looks
by itself; whether it must may change at any time. Knows not what a change means.
"""

from __future__ import annotations

import logging
import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import ClaimId, WorkerName, new_id
from edge_ws.store.database import first_line, shown_url

log = logging.getLogger(__name__)


def tell(connection: Connection, kind: str, name: str) -> None:
    """Have the gateways look once this is committed, as the triggers do of what edge3's tables show.

    Only PostgreSQL needs to be told: elsewhere they notice each commit, or look by themselves.

    Args:
        connection: the transaction that changes it.
        kind: `q`: of a queue; `w`: of a worker.
        name: the queue's, or the worker's.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, f"{kind}:{name}")))


LOOK_EVERY_S = 0.01
AWAY_PAUSE_S = 1.0
NEWS = "n"
WATCHES = "v"
"""Kinds of what gateways tell one another; the others are the triggers'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What may have changed; a hint, never a fact: the database is looked at before anything is done."""

    everything: bool = False
    """Anything may have changed."""
    queues: frozenset[str] = frozenset()
    """Queues in which a job waits."""
    workers: frozenset[WorkerName] = frozenset()
    """Workers of whom something else is wished."""
    tokens: bool = False
    """A worker's token was revoked, changed or deleted."""
    news: frozenset[str] = frozenset()
    """Gateways that have written something; told while anybody watches the fleet."""
    watchers: frozenset[str] = frozenset()
    """Gateways by which somebody watches the fleet."""
    deleted: frozenset[tuple[ClaimId, WorkerName]] = frozenset()
    """Open claims whose row was deleted: they are stale for good."""


def read_payloads(payloads: Iterable[str]) -> Changes:
    """Return what the triggers' notifications say; what is not understood means everything."""
    named: dict[str, set[str]] = {"q": set(), "w": set(), "t": set(), "d": set(), NEWS: set(), WATCHES: set()}
    everything = False
    for payload in payloads:
        kind, _, name = payload.partition(":")
        if kind in named:
            named[kind].add(name)
        else:
            everything = True
    pairs = (name.partition(" ") for name in named["d"])
    return Changes(
        everything=everything,
        queues=frozenset(named["q"]),
        workers=frozenset(map(WorkerName, named["w"])),
        tokens=bool(named["t"]),
        news=frozenset(named[NEWS]),
        watchers=frozenset(named[WATCHES]),
        deleted=frozenset((ClaimId(claim), WorkerName(worker)) for claim, _, worker in pairs),
    )


@dataclass(frozen=True, slots=True)
class Wakeup:
    """How changes become known just now."""

    by: str
    """`listen`, `data_version`, or `polling`: the caller looks by itself."""
    since: float
    """Seconds since the epoch, by this machine's clock."""


class ChangeWatch:
    """A thread that calls back after each change; this base never hears anything.

    The callback is called on that thread, and with `everything` whenever hearing begins or ends.
    """

    def __init__(self, on_change: Callable[[Changes], None]) -> None:
        self._on_change = on_change
        self._wakeup = Wakeup("polling", time.time())
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._said = ""
        """The fault that was last logged."""

    @property
    def wakeup(self) -> Wakeup:
        """How changes become known just now."""
        return self._wakeup

    @property
    def hears(self) -> bool:
        """Tell whether each change is told now; else the caller must look by itself."""
        return self._wakeup.by != "polling"

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="edge-ws change watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _now_by(self, by: str) -> None:
        """Note how changes become known from now on; what was missed meanwhile is everything."""
        if by != self._wakeup.by:
            self._wakeup = Wakeup(by, time.time())
            self._on_change(Changes(everything=True))

    def _hears_nothing(self) -> None:
        """Note that the caller must look by itself, whatever becomes of telling it so."""
        try:
            self._now_by("polling")
        except Exception as error:  # noqa: BLE001 - it asks `hears`
            self._say(f"A change cannot be told: {first_line(error)}")

    def _say(self, sentence: str) -> None:
        """Log a fault, once while it is the same."""
        if sentence != self._said and not self._stopped.is_set():
            self._said = sentence
            log.warning("%s; the gateway looks for changes by itself meanwhile", sentence)

    def _run(self) -> None:
        return


class DataVersionWatch(ChangeWatch):
    """SQLite's way."""

    def __init__(self, engine: Engine, on_change: Callable[[Changes], None]) -> None:
        super().__init__(on_change)
        self._engine = engine

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._watch()
            except Exception as error:  # noqa: BLE001 - whatever it was: else nobody would look any more
                self._say(f"Watching the database failed: {first_line(error)}")
            self._hears_nothing()
            self._stopped.wait(AWAY_PAUSE_S)

    def _watch(self) -> None:
        with self._engine.connect() as connection:
            seen = None
            while not self._stopped.wait(LOOK_EVERY_S):
                # The raw cursor: SQLAlchemy's execution would cost twenty times the look.
                cursor = connection.connection.cursor()
                cursor.execute("PRAGMA data_version")
                version = cursor.fetchone()
                cursor.close()
                self._now_by("data_version")
                if version != seen:
                    seen = version
                    self._on_change(Changes(everything=True))


CHANNEL = "edge_ws"
"""As in the migration that makes the triggers."""
FLEET_CHANNEL = "edge_ws_fleet"
"""On which gateways tell one another what concerns those who watch the fleet; older ones are not bothered."""
SHORTEST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 15.0
"""Between tries to connect; doubles in between."""
_STOP_S = 2.0
"""`stop` waits for so long."""
_ECHO = "e:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Echoes:
    """When it is proven that the connection still hears."""

    first_within_s: float = 2.0
    every_s: float = 15.0
    within_s: float = 5.0
    """Of the later ones; a busy database may take a while."""
    deaf_pause_s: float = 300.0
    """Before the next try where LISTEN works but is not heard: a pooler keeps what each try leaves behind."""


class Ear(Protocol):
    """A driver's connection that listens."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to take."""
        ...

    def take(self) -> list[str]:
        """Return the payloads that have arrived; raises the driver's error when the connection is gone."""
        ...


class _Psycopg2Ear:
    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - the driver may not be installed
        self._connection = connection
        self.fileno: Callable[[], int] = connection.fileno

    def take(self) -> list[str]:
        self._connection.poll()
        heard = [notify.payload for notify in self._connection.notifies]
        self._connection.notifies.clear()
        return heard


class _PsycopgEar:
    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - the driver may not be installed
        self._connection = connection
        self.fileno: Callable[[], int] = connection.fileno

    def take(self) -> list[str]:
        # Its own `notifies()` would wait for them, and nothing could stop it before psycopg 3.2.
        self._connection.pgconn.consume_input()
        heard = []
        while (notify := self._connection.pgconn.notifies()) is not None:
            heard.append(notify.extra.decode())
        return heard


_EARS: dict[str, Callable[[Any], Ear]] = {"psycopg2": _Psycopg2Ear, "psycopg": _PsycopgEar}


class _DeafError(Exception):
    """An echo was not heard."""


class ListenWatch(ChangeWatch):
    """Listens for the triggers' notifications; `polling` whenever that is not proven to work."""

    def __init__(
        self,
        engine: Engine,
        on_change: Callable[[Changes], None],
        *,
        direct: Engine | None = None,
        echoes: Echoes | None = None,
    ) -> None:
        """Make the watch.

        Args:
            engine: the store's engine; echoes are sent over it.
            on_change: see `ChangeWatch`.
            direct: where to listen, if not over `engine`: past a pooler.
            echoes: when to test the connection.
        """
        super().__init__(on_change)
        self._engine = engine
        self._direct = direct or engine
        self._echoes = echoes or Echoes()
        self._errors = (exc.SQLAlchemyError, self._direct.dialect.loaded_dbapi.Error, OSError)
        self._stop_reads, self._stop_writes = os.pipe()
        self._name = new_id()
        self._sent = 0
        self._sender: threading.Thread | None = None

    @staticmethod
    def can_listen(engine: Engine) -> bool:
        """Tell whether notifications can be read with this engine's driver."""
        return engine.dialect.name == "postgresql" and engine.dialect.driver in _EARS

    def stop(self) -> None:
        """Stop the thread and wait for it; one that hangs in a dead network is left behind."""
        self._stopped.set()
        os.write(self._stop_writes, b"x")
        for thread in (self._thread, self._sender):
            if thread is not None:
                thread.join(_STOP_S)
        if self._thread is None or not self._thread.is_alive():
            os.close(self._stop_reads)
            os.close(self._stop_writes)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopped.wait(pause_s * random.uniform(0.5, 1.0)):  # noqa: S311 - no secret
            try:
                with self._listening() as ear:
                    self._prove(ear)
                    pause_s, self._said = 0.0, ""
                    self._now_by("listen")
                    log.info("Woken by LISTEN on %s", shown_url(self._direct))
                    self._hear(ear)
            except _DeafError as error:
                # One that did hear, until now, has lost its way: a new one may find it.
                pause_s = SHORTEST_PAUSE_S if self.hears else self._echoes.deaf_pause_s
                self._say(str(error))
            except Exception as error:  # noqa: BLE001 - whatever it was: else nobody would listen any more
                pause_s = min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, 2 * pause_s))
                self._say(f"LISTEN on {shown_url(self._direct)} failed: {first_line(error)}")
            self._hears_nothing()

    @contextmanager
    def _listening(self) -> Iterator[Ear]:
        connection = self._direct.raw_connection()
        driver: Any = connection.driver_connection
        try:
            # It is never given back: the pool may make another one in its place.
            connection.detach()
            # Also where the engine says otherwise: an open transaction would hear nothing, and would keep
            # the server from cleaning up.
            driver.rollback()
            driver.autocommit = True
            cursor = connection.cursor()
            cursor.execute(f"LISTEN {CHANNEL}")
            cursor.execute(f"LISTEN {FLEET_CHANNEL}")
            cursor.close()
            try:
                yield _EARS[self._direct.dialect.driver](driver)
            finally:
                self._unlisten(connection)
        finally:
            # Not the proxy's close: that rolls back first, and logs a traceback where the server has gone.
            driver.close()

    def _unlisten(self, connection: Any) -> None:  # noqa: ANN401 - a raw connection
        """Leave nothing behind in a session that a pooler gives to others (as far as that can be)."""
        if self.hears:
            return
        try:
            for channel in (CHANNEL, FLEET_CHANNEL):
                connection.cursor().execute(f"UNLISTEN {channel}")
        except self._errors as error:
            log.debug("UNLISTEN failed: %s", error)

    def _prove(self, ear: Ear) -> None:
        echo = self._send_echo()
        end = time.monotonic() + self._echoes.first_within_s
        while not self._stopped.is_set():
            self._wait(ear, end - time.monotonic())
            if echo in ear.take():
                return
            if time.monotonic() >= end:
                raise _DeafError(
                    f"LISTEN on {shown_url(self._direct)} does not hear what is sent over"
                    f" {shown_url(self._engine)} (as through PgBouncer in transaction mode, where"
                    " [edge_ws] listen_sql_alchemy_conn must name a direct connection)"
                )

    def _hear(self, ear: Ear) -> None:
        """Pass on what is heard until the watch is stopped."""
        sent_at, awaited = time.monotonic(), ""
        while not self._stopped.is_set():
            due = sent_at + (self._echoes.within_s if awaited else self._echoes.every_s)
            self._wait(ear, due - time.monotonic())
            heard = ear.take()
            if awaited in heard:
                awaited = ""
            if changes := [payload for payload in heard if not payload.startswith(_ECHO)]:
                self._on_change(read_payloads(changes))
            now = time.monotonic()
            if awaited and now >= sent_at + self._echoes.within_s:
                raise _DeafError(f"LISTEN on {shown_url(self._direct)} hears no more")
            if not awaited and now >= sent_at + self._echoes.every_s:
                sent_at, awaited = now, self._send_echo()

    def _wait(self, ear: Ear, for_s: float) -> None:
        poller = select.poll()
        for descriptor in (ear.fileno(), self._stop_reads):
            poller.register(descriptor, select.POLLIN)
        poller.poll(max(0.0, for_s) * 1000)

    def _send_echo(self) -> str:
        """Send one over another connection, in a thread: that one may hang where this one must not."""
        self._sent += 1
        payload = f"{_ECHO}{self._name}:{self._sent}"
        if self._sender is None or not self._sender.is_alive():
            self._sender = threading.Thread(target=self._notify, args=(payload,), daemon=True)
            self._sender.start()
        return payload

    def _notify(self, payload: str) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_notify(CHANNEL, payload)))
        except exc.SQLAlchemyError as error:
            # It will not be heard, and that is told then.
            log.debug("An echo was not sent: %s", first_line(error))


def make_watch(engine: Engine, on_change: Callable[[Changes], None], listen_url: str | None) -> ChangeWatch:
    """Return the watch that the engine's database allows; see `Store.watch`."""
    if engine.dialect.name == "sqlite" and engine.url.database not in {None, "", ":memory:"}:
        return DataVersionWatch(engine, on_change)
    if not ListenWatch.can_listen(engine):
        return ChangeWatch(on_change)
    return ListenWatch(engine, on_change, direct=_direct_engine(engine, listen_url))


def _direct_engine(engine: Engine, listen_url: str | None) -> Engine | None:
    if not listen_url:
        return None
    try:
        url = sa.make_url(listen_url)
        if url.drivername == "postgresql":
            url = url.set(drivername=engine.url.drivername)
        direct = sa.create_engine(url, poolclass=sa.NullPool)
    except (exc.ArgumentError, ImportError, ValueError) as error:
        raise _wrong_url(f"{type(error).__name__}") from error
    if not ListenWatch.can_listen(direct):
        raise _wrong_url(f"{direct.dialect.name} with {direct.dialect.driver}")
    return direct


def _wrong_url(why: str) -> UsageError:
    # Without what was written there: it holds a password.
    return UsageError(
        f"the URL for LISTEN cannot be used ({why}); [edge_ws] listen_sql_alchemy_conn must be like"
        " postgresql+psycopg2://user:password@host/database"
    )
