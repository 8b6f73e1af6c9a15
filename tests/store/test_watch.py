"""What tells of changes, on real databases: what is told and what is not, and how hearing comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.store import schema
from edge_ws.store.store import Store
from edge_ws.store.watch import CHANNEL, Changes, ChangeWatch, Echoes, ListenWatch, read_payloads
from tests.support import services
from tests.support.bouncer import transaction_pooler
from tests.support.databases import Databases, using
from tests.support.postgres import postgres_server
from tests.support.reports import SingleReports
from tests.support.rows import FakeWorker, enqueue, new_job
from tests.support.waiting import wait_until

EVERYTHING = Changes(everything=True)
INSERT = (
    "INSERT INTO edge_job (dag_id, task_id, run_id, map_index, try_number, state, queue, concurrency_slots, command)"
    " VALUES ('d', '{name}', 'r', -1, 1, 'queued', '{queue}', 1, '{{}}')"
)


class Heard:
    """What a watch has told, in order."""

    def __init__(self) -> None:
        self.changes: list[Changes] = []

    def __call__(self, changes: Changes) -> None:
        self.changes.append(changes)

    def of(self, what: Callable[[Changes], object]) -> bool:
        return any(what(one) for one in list(self.changes))


@contextmanager
def watching(watch: ChangeWatch) -> Iterator[ChangeWatch]:
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


@contextmanager
def listening(engine: sa.Engine) -> Iterator[Heard]:
    """Hear what is told from now on."""
    heard = Heard()
    with watching(Store(engine).watch(heard)) as watch:
        wait_until(lambda: watch.hears)
        assert watch.wakeup.by == "listen"
        wait_until(lambda: heard.changes)
        heard.changes.clear()
        yield heard


def run(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def until_told_last(engine: sa.Engine, heard: Heard) -> Changes:
    """Return all that was told before something that is told for certain."""
    run(engine, f"NOTIFY {CHANNEL}, 'q:last'")
    wait_until(lambda: heard.of(lambda one: "last" in one.queues))
    told, heard.changes = heard.changes, []
    return Changes(
        everything=any(one.everything for one in told),
        queues=frozenset().union(*(one.queues for one in told)) - {"last"},
        workers=frozenset().union(*(one.workers for one in told)),
        tokens=any(one.tokens for one in told),
        deleted=frozenset().union(*(one.deleted for one in told)),
    )


def kill_listeners(engine: sa.Engine) -> int:
    """Have the server end all sessions that listen."""
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
    )
    with engine.begin() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


class TestWhatIsTold:
    @pytest.mark.parametrize(
        ("statement", "queue"),
        [
            (INSERT.format(name="new", queue="other"), "other"),
            ("UPDATE edge_job SET state = 'queued' WHERE task_id = 't'", "q"),
            ("UPDATE edge_job SET queue = 'p' WHERE task_id = 'waits'", "p"),
            ("UPDATE edge_job SET command = '{}' WHERE task_id = 'waits'", "q"),
            (INSERT.format(name="x" * 250, queue="\u00e4" * 256), "\u00e4" * 256),
        ],
    )
    def test_a_job_that_is_queued(self, postgres_engine: sa.Engine, statement: str, queue: str) -> None:
        enqueue(postgres_engine, job := new_job(), new_job("waits"))
        worker = FakeWorker(Store(postgres_engine))
        worker.register()
        worker.start(job)
        with listening(postgres_engine) as heard:
            run(postgres_engine, statement)
            assert until_told_last(postgres_engine, heard) == Changes(queues=frozenset({queue}))

    def test_a_job_that_is_queued_again_by_us(self, postgres_engine: sa.Engine) -> None:
        enqueue(postgres_engine, new_job())
        with listening(postgres_engine) as heard:
            enqueue(postgres_engine, new_job())
            assert until_told_last(postgres_engine, heard) == Changes(queues=frozenset({"q"}))

    @pytest.mark.parametrize(
        "change",
        [
            "concurrency = 3",
            "queues = '[''a'']'",
            "state = 'maintenance request'",
            "state = 'maintenance exit'",
            "state = 'shutdown request'",
        ],
    )
    def test_a_wish(self, postgres_engine: sa.Engine, change: str) -> None:
        FakeWorker(Store(postgres_engine)).register()
        with listening(postgres_engine) as heard:
            run(postgres_engine, f"UPDATE edge_worker SET {change}")
            run(postgres_engine, f"UPDATE edge_worker SET {change}")
            assert until_told_last(postgres_engine, heard) == Changes(workers=frozenset({"w1"}))

    def test_an_open_claim_whose_row_is_deleted(self, postgres_engine: sa.Engine) -> None:
        store = Store(postgres_engine)
        enqueue(postgres_engine, job := new_job(), new_job("waits"))
        worker = FakeWorker(store)
        worker.register()
        claim = worker.start(job)
        with listening(postgres_engine) as heard:
            store.jobs.revoke(new_job("waits").key)
            store.jobs.revoke(job.key)
            assert until_told_last(postgres_engine, heard) == Changes(deleted=frozenset({(claim, "w1")}))

    @pytest.mark.parametrize(
        "statement", ["UPDATE edge_ws_token SET expires_at = 1", "DELETE FROM edge_ws_token"]
    )
    def test_a_token(self, postgres_engine: sa.Engine, statement: str) -> None:
        store = Store(postgres_engine)
        with listening(postgres_engine) as heard:
            store.tokens.create_token("t", worker_pattern="*", queues=None, team=None, expires_in_s=None)
            assert until_told_last(postgres_engine, heard) == Changes()
            run(postgres_engine, statement)
            assert until_told_last(postgres_engine, heard) == Changes(tokens=True)

    def test_nothing_of_what_gateways_do(self, postgres_engine: sa.Engine) -> None:
        store, worker = Store(postgres_engine), FakeWorker(Store(postgres_engine))
        enqueue(postgres_engine, *(jobs := [new_job(f"t{number}") for number in range(3)]))
        registered = worker.register()
        with listening(postgres_engine) as heard:
            worker.register()
            claims = [worker.start(job) for job in jobs]
            SingleReports(store.reports).append_log(worker.principal, claims[0], 0, b"hello")
            store.liveness.beat([registered.connection])
            for claim in claims:
                worker.finish(claim)
            store.jobs.reported(7, [job.key for job in jobs])
            store.claims.repair()
            store.liveness.mark_silent()
            store.retention.purge(-1.0)
            assert until_told_last(postgres_engine, heard) == Changes()

    def test_nothing_before_the_commit(self, postgres_engine: sa.Engine) -> None:
        with listening(postgres_engine) as heard, postgres_engine.connect() as connection:
            connection.exec_driver_sql(INSERT.format(name="a", queue="q"))
            assert until_told_last(postgres_engine, heard) == Changes()
            connection.rollback()
            assert until_told_last(postgres_engine, heard) == Changes()


class TestLosingAndFindingIt:
    def test_a_session_that_the_server_ends(self, postgres_engine: sa.Engine) -> None:
        heard = Heard()
        with watching(Store(postgres_engine).watch(heard)) as watch:
            for _ in range(3):
                wait_until(lambda: watch.hears)
                heard.changes.clear()
                assert kill_listeners(postgres_engine) >= 1
                # Once when it is lost, once when it is back: what was missed meanwhile is looked for.
                wait_until(lambda: heard.changes.count(EVERYTHING) == 2)
            wait_until(lambda: watch.hears)
            run(postgres_engine, INSERT.format(name="a", queue="other"))
            wait_until(lambda: heard.of(lambda one: "other" in one.queues))

    def test_a_session_that_hangs(self, postgres_engine: sa.Engine) -> None:
        heard = Heard()
        echoes = Echoes(every_s=0.2, within_s=0.5)
        with watching(ListenWatch(postgres_engine, heard, echoes=echoes)) as watch:
            wait_until(lambda: watch.hears)
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
            with postgres_engine.begin() as connection:
                pid = connection.exec_driver_sql(query).scalar_one()
            heard.changes.clear()
            os.kill(pid, signal.SIGSTOP)
            try:
                wait_until(lambda: heard.changes.count(EVERYTHING) == 2)
                wait_until(lambda: watch.hears)
                run(postgres_engine, INSERT.format(name="a", queue="other"))
                wait_until(lambda: heard.of(lambda one: "other" in one.queues))
            finally:
                os.kill(pid, signal.SIGCONT)

    def test_a_server_that_is_restarted(self) -> None:
        with postgres_server(services.bundled_postgres()) as server, using(server.url("postgres")) as engine:
            schema.migrate(engine)
            heard = Heard()
            with watching(Store(engine).watch(heard)) as watch:
                wait_until(lambda: watch.hears)
                server.stop()
                wait_until(lambda: not watch.hears)
                server.restart()
                wait_until(lambda: watch.hears, 30)
                engine.dispose()
                heard.changes.clear()
                run(engine, INSERT.format(name="a", queue="q"))
                wait_until(lambda: heard.of(lambda one: "q" in one.queues))

    def test_a_pooler_that_swallows_it(self, databases: Databases, caplog: pytest.LogCaptureFixture) -> None:
        program = services.pgbouncer()
        with (
            databases.new("postgresql-18", migrated=True) as url,
            transaction_pooler(program, url) as pooled,
            using(pooled) as engine,
        ):
            heard = Heard()
            echoes = Echoes(first_within_s=0.5)
            with watching(ListenWatch(engine, heard, echoes=echoes)) as watch:
                wait_until(lambda: "listen_sql_alchemy_conn must name a direct connection" in caplog.text)
                assert (watch.hears, watch.wakeup.by, heard.changes) == (False, "polling", [])
            with watching(Store(engine, listen_url=url).watch(heard)) as watch:
                wait_until(lambda: watch.hears)
                enqueue(engine, new_job())
                wait_until(lambda: heard.of(lambda one: "q" in one.queues))


class TestSqlite:
    def test_tells_of_other_connections_commits(self, sqlite_engine: sa.Engine) -> None:
        heard = Heard()
        with watching(Store(sqlite_engine).watch(heard)) as watch:
            wait_until(lambda: watch.hears)
            assert watch.wakeup.by == "data_version"
            wait_until(lambda: heard.changes)
            heard.changes.clear()
            enqueue(sqlite_engine, new_job())
            wait_until(lambda: heard.changes)
            assert set(heard.changes) == {EVERYTHING}

    def test_cannot_tell_in_memory(self) -> None:
        with using("sqlite://") as engine, watching(Store(engine).watch(Heard())) as watch:
            assert (watch.hears, watch.wakeup.by) == (False, "polling")


class TestPayloads:
    def test_each_kind(self) -> None:
        assert read_payloads(["q:a", "q:b:c", "q:a", "w:w1", "t:x", "d:claim w 2"]) == Changes(
            queues=frozenset({"a", "b:c"}),
            workers=frozenset({"w1"}),
            tokens=True,
            deleted=frozenset({("claim", "w 2")}),
        )

    @pytest.mark.parametrize("payload", ["*", "", "z:from a newer release"])
    def test_what_is_not_understood_is_everything(self, payload: str) -> None:
        assert read_payloads(["q:a", payload]) == Changes(everything=True, queues=frozenset({"a"}))

    def test_a_name_too_long_for_one(self, postgres_engine: sa.Engine) -> None:
        run(postgres_engine, "ALTER TABLE edge_job ALTER COLUMN queue TYPE text")
        with listening(postgres_engine) as heard:
            run(postgres_engine, INSERT.format(name="a", queue="x" * 8000))
            assert until_told_last(postgres_engine, heard) == EVERYTHING


class TestUrlForListen:
    @pytest.mark.parametrize(
        "url",
        [
            "db.example.com",
            "mysql+nothing://u:secret@h/d",
            "sqlite:///secret",
            "postgresql+asyncpg://u:secret@h/d",
        ],
    )
    def test_one_that_cannot_be_used(self, postgres_engine: sa.Engine, url: str) -> None:
        with pytest.raises(UsageError, match="listen_sql_alchemy_conn must be like") as caught:
            Store(postgres_engine, listen_url=url).watch(Heard())
        assert "secret" not in str(caught.value)

    def test_without_a_driver_it_takes_the_engines(self, postgres_engine: sa.Engine) -> None:
        url = postgres_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        heard = Heard()
        with watching(Store(postgres_engine, listen_url=url).watch(heard)) as watch:
            wait_until(lambda: watch.hears)
