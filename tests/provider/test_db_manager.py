"""Our manager under Airflow's own database functions and commands, with and without the real edge3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from edge_ws.store import schema
from edge_ws.store.tables import (
    EDGE3_HEAD,
    EDGE3_VERSION_TABLE,
    OWN_TABLES,
    edge_job,
)
from tests.support.databases import Databases, using
from tests.support.managers import OURS, Airflow, Managers

EDGE3_3_5_0 = "c6b3c3d093fd"


@pytest.fixture(params=["sqlite", "postgresql-18"])
def engine(request: pytest.FixtureRequest, databases: Databases) -> Iterator[sa.Engine]:
    """A new database without tables; one PostgreSQL: each of these tests starts Airflow several times."""
    with databases.new(request.param, migrated=False) as url, using(url) as engine:
        yield engine


@pytest.fixture
def plain(engine: sa.Engine, tmp_path: Path, managers: Managers) -> Airflow:
    """An Airflow without edge3."""
    url = engine.url.render_as_string(hide_password=False)
    return Airflow(home=tmp_path, url=url, managers=managers)


@pytest.fixture
def with_edge3(plain: Airflow, edge3_path: Path) -> Airflow:
    """The same Airflow with edge3 installed."""
    return replace(plain, edge3=edge3_path)


def row(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT version_num FROM {EDGE3_VERSION_TABLE}").scalar()


def add_jobs(engine: sa.Engine) -> None:
    """One row of our executor, one of edge3's."""
    values = {
        "dag_id": "d",
        "task_id": "t",
        "try_number": 1,
        "state": "queued",
        "queue": "q",
        "command": "{}",
    }
    with engine.begin() as connection:
        for run_id, owner in (("ours", 7), ("edge3's", None)):
            job = sa.insert(edge_job).values(
                run_id=run_id, edge_ws_owner=owner, concurrency_slots=1, **values
            )
            connection.execute(job)


def jobs(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(edge_job.c.run_id)))


def test_a_new_airflow_gets_edge3_s_tables_and_ours(engine: sa.Engine, plain: Airflow) -> None:
    done = plain.command("db", "migrate")
    assert done.returncode == 0, done.stderr
    schema.check(engine)
    assert row(engine) == EDGE3_HEAD
    add_jobs(engine)
    plain.steps(
        "core check_migrations 1",
        "core upgradedb",
        "core check_migrations 1",
        "core resetdb",
        "core check_migrations 1",
    )
    schema.check(engine)
    assert jobs(engine) == ["edge3's"]
    assert row(engine) == EDGE3_HEAD


def test_edge3_installed_later_takes_over_its_tables(
    engine: sa.Engine, plain: Airflow, with_edge3: Airflow
) -> None:
    plain.steps("core upgradedb")
    add_jobs(engine)
    with_edge3.steps(
        "core upgradedb", "core check_migrations 1", "edge3 must_be_done", "edge3 initdb", "ours must_be_done"
    )
    assert jobs(engine) == ["edge3's", "ours"]
    with_edge3.steps("core resetdb", "core check_migrations 1", "edge3 must_be_done", "ours must_be_done")
    assert jobs(engine) == []


def test_a_new_airflow_with_both(engine: sa.Engine, with_edge3: Airflow) -> None:
    done = with_edge3.command("db", "migrate")
    assert done.returncode == 0, done.stderr
    schema.check(engine)
    with_edge3.steps("edge3 must_be_done", "ours must_be_done", "core upgradedb", "core check_migrations 1")
    assert row(engine) == EDGE3_HEAD


@pytest.mark.parametrize("order", [["ours", "edge3"], ["edge3", "ours"]])
def test_either_manager_may_be_first(engine: sa.Engine, with_edge3: Airflow, order: list[str]) -> None:
    with_edge3.steps(
        "ours must_not_be_done",
        *(f"{who} initdb" for who in order),
        *(f"{who} upgradedb" for who in order),
        "edge3 must_be_done",
        "ours must_be_done",
    )
    schema.check(engine)


def test_one_migrate_brings_an_older_edge3_and_us_up(
    engine: sa.Engine, plain: Airflow, with_edge3: Airflow
) -> None:
    """Airflow sorts the managers of providers: edge3's comes first."""
    with_edge3.steps(f"edge3 upgrade {EDGE3_3_5_0}")
    refused = plain.command("db", "migrate")
    said = refused.stderr.strip().splitlines()[-1]
    assert refused.returncode == 1
    assert "upgrade apache-airflow-providers-edge3 to 5.1.0 or later and run `airflow db migrate`" in said
    assert "Traceback" not in refused.stdout + refused.stderr
    with_edge3.steps("core upgradedb", "core check_migrations 1")
    schema.check(engine)


def test_our_reset_leaves_edge3_alone(engine: sa.Engine, with_edge3: Airflow) -> None:
    with_edge3.steps("edge3 initdb", "ours initdb")
    add_jobs(engine)
    with_edge3.steps("ours resetdb", "ours must_be_done", "edge3 must_be_done")
    assert jobs(engine) == ["edge3's"]


@pytest.fixture
def anywhere(tmp_path: Path, managers: Managers) -> Airflow:
    """An Airflow whose kind of database does not matter."""
    return Airflow(home=tmp_path, url=f"sqlite:///{tmp_path}/airflow.db", managers=managers)


@pytest.mark.parametrize("words", [["migrate", "--show-sql-only"], ["downgrade", "-r", "0001", "-y"]])
def test_what_the_chain_cannot_do_is_refused_in_a_sentence(anywhere: Airflow, words: list[str]) -> None:
    done = anywhere.command("db-manager", words[0], OURS, *words[1:])
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("edge-ws's migrations ")
    assert "Traceback" not in done.stderr


def test_the_manager_declares_our_tables_only(anywhere: Airflow) -> None:
    anywhere.steps(" ".join(["ours must_declare", *sorted(table.name for table in OWN_TABLES)]))
