"""The fixtures' databases: new for each test, migrated or empty, on servers that are not root's."""

from __future__ import annotations

import os

import psutil
import pytest
import sqlalchemy as sa

from edge_ws.store import schema
from edge_ws.store.tables import EDGE3_TABLES, OWN_TABLES, edge_worker
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
