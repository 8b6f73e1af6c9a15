"""When a row was committed, and what becomes of the run's tasks: on a SQLite file and a log of the test's."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_ws.demo.watch import CommitWatch, OfferLog, RunWatch, Task
from tests.support.waiting import wait_until

KEY = ("press", "r1", -1, 1)
_TABLES = """
CREATE TABLE edge_job (dag_id, task_id, run_id, map_index, try_number);
CREATE TABLE edge_ws_claim (dag_id, task_id, run_id, map_index, try_number, id, worker, created_at);
CREATE TABLE edge_ws_worker (worker_name, transport);
CREATE TABLE dag_run (dag_id, run_id, state);
"""
_TASKS = """
CREATE TABLE task_instance (dag_id, task_id, run_id, {index}, try_number, rendered_map_index, queue, state,
  start_date, queued_dttm{more});
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "airflow.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_TABLES)
    return file


@pytest.fixture
def writer(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield connection


@pytest.fixture(params=["3.3", "3.4"])
def index(request: pytest.FixtureRequest, writer: sqlite3.Connection) -> str:
    """What the index is called in Airflow's table of tasks, which is as that release has it."""
    if request.param == "3.3":
        writer.execute(_TASKS.format(index="map_index", more=""))
        return "map_index"
    writer.execute(_TASKS.format(index="region_index", more=", working_set DEFAULT true"))
    writer.execute(
        "INSERT INTO task_instance VALUES"
        " ('factory', 'press', 'r1', -1, 0, NULL, 'q', 'failed', NULL, '2026-01-01 00:00:00', NULL)"
    )
    return "region_index"


def _queue(writer: sqlite3.Connection, key: tuple[str, str, int, int] = KEY) -> None:
    writer.execute("INSERT INTO edge_job VALUES ('factory', ?, ?, ?, ?)", key)


def test_the_moment_is_before_the_commit_and_not_before_the_transaction(
    database: Path, writer: sqlite3.Connection
) -> None:
    with CommitWatch(database, "factory") as watch:
        _queue(writer, ("other", "r1", -1, 1))
        wait_until(watch.moments)
        writer.execute("BEGIN IMMEDIATE")
        _queue(writer)
        written_at = time.time()
        # The scheduler's transaction goes on after the row is written: that time is not the push's.
        wait_until(lambda: time.time() > written_at + 0.2)
        assert KEY not in watch.moments()
        before = time.time()
        writer.execute("COMMIT")
        after = time.time()
        moment = wait_until(lambda: watch.moments().get(KEY))
    assert before - 0.15 < moment <= after


def test_a_row_keeps_its_moment(database: Path, writer: sqlite3.Connection) -> None:
    with CommitWatch(database, "factory") as watch:
        _queue(writer)
        first = wait_until(lambda: watch.moments().get(KEY))
        writer.execute("DELETE FROM edge_job")
        _queue(writer)
        _queue(writer, ("weld", "r1", -1, 1))
        wait_until(lambda: len(watch.moments()) == 2)
        assert watch.moments()[KEY] == first


def test_rows_of_other_dags_do_not_count(database: Path, writer: sqlite3.Connection) -> None:
    with CommitWatch(database, "factory") as watch:
        writer.execute("INSERT INTO edge_job VALUES ('other', 'press', 'r1', -1, 1)")
        _queue(writer)
        assert list(wait_until(watch.moments)) == [KEY]


def test_offers_are_read_as_the_log_grows(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text(
        "2026 INFO connected: w1\n2026 DEBUG offer: claim=a at=12.5\n2026 DEBUG offer: claim=b at=1"
    )
    offers = OfferLog(log)
    assert offers.moments() == {"a": 12.5}
    with log.open("a") as file:
        file.write("3.25\nsomething else\n")
    assert offers.moments() == {"a": 12.5, "b": 13.25}


def test_a_run(database: Path, writer: sqlite3.Connection, index: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("x offer: claim=c1 at=100.020\nx offer: claim=c2 at=105.0\n")
    writer.executescript(
        f"""
        INSERT INTO dag_run VALUES ('factory', 'r1', 'running'), ('factory', 'r2', 'failed');
        INSERT INTO edge_ws_worker VALUES ('w1', 'websocket');
        INSERT INTO edge_ws_claim VALUES
          ('factory', 'press', 'r1', -1, 1, 'c1', 'w1', 1.0), ('factory', 'press', 'r1', -1, 1, 'c2', 'w2', 2.0);
        INSERT INTO task_instance (dag_id, task_id, run_id, {index}, try_number, rendered_map_index, queue, state,
          start_date, queued_dttm) VALUES
          ('factory', 'weld', 'r1', 0, 1, 'left', 'q', 'queued', NULL, '2026-01-02 00:00:01.000000'),
          ('factory', 'weld', 'r1', 1, 1, NULL, 'q', 'queued', NULL, '2026-01-02 00:00:01.000000'),
          ('factory', 'press', 'r1', -1, 1, NULL, 'q', 'running', '2026-01-02 00:00:00.500000', '2026-01-02 00:00:00'),
          ('factory', 'press', 'r2', -1, 1, NULL, 'q', 'failed', NULL, '2026-01-02 00:00:00'),
          ('factory', 'paint', 'r1', -1, 0, NULL, 'q', NULL, NULL, NULL);
        """
    )
    with (
        CommitWatch(database, "factory") as commits,
        closing(RunWatch(database, "factory", "r1", commits, OfferLog(log))) as watch,
    ):
        assert watch.state() == "running"
        assert watch.transport("w1") == "websocket"
        press, left, right = watch.tasks()
    assert press == Task(
        name="press",
        queue="q",
        worker="w2",
        state="running",
        committed_at=None,
        offered_at=100.020,
        started_at=1767312000.5,
    )
    assert (left.name, right.name) == ("weld [left]", "weld [1]")
    assert (left.worker, left.offered_at, left.push_ms, left.start_ms) == (None, None, None, None)


def test_what_is_counted() -> None:
    task = Task(
        name="a", queue="q", worker="w", state=None, committed_at=10.0, offered_at=10.015, started_at=10.25
    )
    assert task.push_ms == pytest.approx(15)
    assert task.start_ms == pytest.approx(250)
