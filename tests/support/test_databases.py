"""The fixtures' databases: as new for each test, migrated or empty, on servers that are not root's."""

from __future__ import annotations

import os
from contextlib import ExitStack

import psutil
import pytest
import sqlalchemy as sa

from edge_ws.store import schema
from edge_ws.store.tables import EDGE3_TABLES, OWN_TABLES, VERSION_TABLE, edge_worker
from tests.support.databases import POSTGRES_KINDS, Databases, using


def tables(engine: sa.Engine) -> set[str]:
    with engine.connect() as connection:
        return set(sa.inspect(connection).get_table_names())


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_a_migrated_database_of_its_own(engine: sa.Engine, round_: int) -> None:
    schema.check(engine)
    assert tables(engine) >= {table.name for table in (*EDGE3_TABLES, *OWN_TABLES)}
    with engine.begin() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(edge_worker)) == 0
        connection.execute(edge_worker.insert().values(worker_name="w", state="idle", jobs_active=0))


@pytest.mark.parametrize("kind", POSTGRES_KINDS)
def test_rows_and_connections_are_not_left_to_the_next_one(kind: str, databases: Databases) -> None:
    row = edge_worker.insert().values(worker_name="w", state="idle", jobs_active=0)
    with ExitStack() as left:
        for _ in range(2):
            with databases.new(kind, migrated=True) as url:
                connection = left.enter_context(using(url)).connect()
                assert connection.scalar(sa.select(sa.func.count()).select_from(edge_worker)) == 0
                connection.execute(row)
                connection.commit()
                # In a transaction, and holding a lock, when its test is over.
                connection.execute(sa.update(edge_worker).values(state="running"))
            with pytest.raises(sa.exc.OperationalError):
                connection.execute(sa.select(edge_worker))
            connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE edge_worker ADD COLUMN odd integer",
        "ALTER TABLE edge_worker ALTER COLUMN state SET DEFAULT 'odd'",
        "ALTER TABLE edge_worker ALTER COLUMN state DROP NOT NULL",
        "ALTER TABLE edge_worker RENAME TO odd",
        "ALTER INDEX edge_worker_pkey RENAME TO odd",
        "ALTER TABLE edge_worker DISABLE TRIGGER USER",
        "ALTER TABLE edge_worker DROP CONSTRAINT edge_worker_pkey CASCADE",
        "CREATE FUNCTION odd() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA odd",
        "ANALYZE",
        f"UPDATE {VERSION_TABLE} SET version_num = 'odd'",
        "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 9999', current_database()); END$$",
    ],
)
def test_more_than_rows_is_not_left_to_the_next_one(statement: str, databases: Databases) -> None:
    used = []
    for _ in range(2):
        with databases.new("postgresql-18", migrated=True) as url, using(url) as engine:
            schema.check(engine)
            used.append(url)
            with engine.begin() as connection:
                connection.execute(sa.text(statement))
    assert used[0] != used[1]


def test_an_empty_database(empty_engine: sa.Engine) -> None:
    assert tables(empty_engine) == set()


def test_url_and_engine_are_the_same_database(database_url: str, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(edge_worker.insert().values(worker_name="w", state="idle", jobs_active=0))
    with using(database_url) as other, other.connect() as connection:
        assert connection.scalar(sa.select(edge_worker.c.worker_name)) == "w"


@pytest.mark.parametrize("kind", POSTGRES_KINDS)
def test_no_server_runs_as_root(kind: str, databases: Databases) -> None:
    with databases.new(kind, migrated=False):
        server = psutil.Process(databases.server_pid(kind)).uids().real
    assert server != 0
    assert server == os.geteuid() or os.geteuid() == 0
