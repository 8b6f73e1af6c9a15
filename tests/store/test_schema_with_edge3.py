"""The chain of migrations beside the real edge3's: the same tables, in either order, with data in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from edge_ws.errors import SchemaError
from edge_ws.store import schema
from edge_ws.store.schema import lost_aids
from edge_ws.store.tables import (
    EDGE3_HEAD,
    EDGE3_TABLES,
    EDGE3_VERSION_TABLE,
    VERSION_TABLE,
    edge_job,
    edge_logs,
    edge_worker,
    utc_now,
)
from tests.support.databases import Databases, using
from tests.support.managers import Airflow, Managers

ADDED = ["edge_ws_claim", "edge_ws_owner"]
KEY = {"dag_id": "d", "task_id": "t", "run_id": "r", "try_number": 1}
EDGE3_3_5_0 = "c6b3c3d093fd"


@pytest.fixture(params=["sqlite", "postgresql-18"])
def empty_engine(request: pytest.FixtureRequest, databases: Databases) -> Iterator[sa.Engine]:
    """As elsewhere, but with one PostgreSQL: each of these tests runs Airflow's code several times."""
    with databases.new(request.param, migrated=False) as url, using(url) as engine:
        yield engine


@pytest.fixture
def airflow(empty_engine: sa.Engine, tmp_path: Path, edge3_path: Path, managers: Managers) -> Airflow:
    """An Airflow with edge3 on the new database."""
    url = empty_engine.url.render_as_string(hide_password=False)
    return Airflow(home=tmp_path, url=url, managers=managers, edge3=edge3_path)


def row(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT version_num FROM {EDGE3_VERSION_TABLE}").scalar()


def shape(engine: sa.Engine) -> dict[str, object]:
    inspector = sa.inspect(engine)
    found: dict[str, object] = {}
    for name in (*(table.name for table in EDGE3_TABLES), EDGE3_VERSION_TABLE):
        columns = {
            c["name"]: (str(c["type"]), getattr(c["type"], "timezone", None), c["nullable"], c["default"])
            for c in inspector.get_columns(name)
        }
        indexes = [
            (i["name"], i["column_names"], i.get("column_sorting")) for i in inspector.get_indexes(name)
        ]
        uniques = inspector.get_unique_constraints(name)
        found[name] = (columns, inspector.get_pk_constraint(name), sorted(indexes), uniques)
    return found


def fill(engine: sa.Engine, **values: object) -> None:
    """Put a row into each of edge3's tables; the job without our columns unless `values` has them."""
    job = {"state": "queued", "queue": "q", "concurrency_slots": 1, "command": "{}", **values}
    with engine.begin() as connection:
        connection.execute(sa.insert(edge_job).values(**KEY, **job))
        connection.execute(sa.insert(edge_worker).values(worker_name="w", state="idle", jobs_active=0))
        connection.execute(
            sa.insert(edge_logs).values(**KEY, log_chunk_time=utc_now(), log_chunk_data="said")
        )


def data(engine: sa.Engine) -> dict[str, list[dict[str, object]]]:
    with engine.connect() as connection:
        return {
            table.name: [
                {name: value for name, value in found._mapping.items() if name not in ADDED}
                for found in connection.execute(sa.text(f"SELECT * FROM {table.name}"))
            ]
            for table in EDGE3_TABLES
        }


@pytest.mark.parametrize("verb", ["initdb", "files"])
def test_our_first_step_makes_what_edge3_makes(
    empty_engine: sa.Engine, airflow: Airflow, tmp_path: Path, verb: str
) -> None:
    airflow.steps(f"edge3 {verb}", "edge3 must_be_done")
    theirs = shape(empty_engine)
    with empty_engine.begin() as connection:
        for name in (*(table.name for table in EDGE3_TABLES), EDGE3_VERSION_TABLE):
            connection.exec_driver_sql(f"DROP TABLE {name}")
    with empty_engine.connect() as connection, schema._alone(connection):
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    assert shape(empty_engine) == theirs
    assert row(empty_engine) == EDGE3_HEAD


def test_filled_tables_of_edge3_are_adopted_with_their_rows(
    empty_engine: sa.Engine, airflow: Airflow
) -> None:
    airflow.steps("edge3 initdb")
    fill(empty_engine)
    before = data(empty_engine)
    schema.migrate(empty_engine)
    schema.check(empty_engine)
    assert data(empty_engine) == before
    assert row(empty_engine) == EDGE3_HEAD
    airflow.steps(
        "edge3 must_be_done", "edge3 upgradedb", "edge3 initdb", "edge3 must_be_done", "ours must_be_done"
    )
    assert data(empty_engine) == before


def test_edge3_s_own_migrations_keep_our_columns_and_indexes(
    empty_engine: sa.Engine, airflow: Airflow
) -> None:
    """Down and up again: on SQLite each of these steps makes edge_job anew."""
    schema.migrate(empty_engine)
    fill(empty_engine, edge_ws_claim="c", edge_ws_owner=7)
    columns, _, indexes, _ = shape(empty_engine)["edge_job"]  # type: ignore[misc]
    airflow.steps(
        "edge3 must_be_done", f"edge3 downgrade {EDGE3_3_5_0}", "edge3 upgradedb", "edge3 must_be_done"
    )
    if empty_engine.dialect.name == "postgresql":
        # The index went with a column; what wakes gateways is all there.
        with empty_engine.connect() as connection:
            assert lost_aids(connection) == ["edge_job lacks the index edge_ws_job_queued"]
        airflow.steps("ours must_not_be_done")
    airflow.steps("ours upgradedb", "ours must_be_done")
    after, _, left, _ = shape(empty_engine)["edge_job"]  # type: ignore[misc]
    assert after == columns
    assert [name for name, *_ in left] == [name for name, *_ in indexes]
    with empty_engine.connect() as connection:
        assert connection.execute(sa.select(edge_job.c.edge_ws_claim, edge_job.c.edge_ws_owner)).all() == [
            ("c", 7)
        ]
        if empty_engine.dialect.name == "sqlite":
            # The indexes are still of some rows only.
            made = connection.exec_driver_sql(
                "SELECT name, sql FROM sqlite_master WHERE name LIKE 'edge_ws_job_%'"
            )
            conditions = {name: statement.partition(" WHERE ")[2] for name, statement in made}
            assert conditions == {
                "edge_ws_job_owner": "edge_ws_owner IS NOT NULL"
                " AND state NOT IN ('queued', 'restarting', 'running')",
                "edge_ws_job_queued": "",
            }


def test_tables_that_edge3_made_without_a_version_row_are_set_right(
    empty_engine: sa.Engine, airflow: Airflow
) -> None:
    """Its api-server does that; alone, edge3's migration stamps its first revision and breaks off."""
    airflow.steps("edge3 create_all")
    with pytest.raises(AssertionError, match="jobs_failed"):
        airflow.steps("edge3 initdb")
    assert row(empty_engine) != EDGE3_HEAD
    schema.migrate(empty_engine)
    airflow.steps("edge3 must_be_done", "edge3 initdb", "edge3 upgradedb", "ours must_be_done")


def test_an_older_edge3_is_refused_until_it_is_migrated(empty_engine: sa.Engine, airflow: Airflow) -> None:
    airflow.steps(f"edge3 upgrade {EDGE3_3_5_0}")
    before = shape(empty_engine)
    with pytest.raises(
        SchemaError, match=r"lacks the column task_instance_id \(version .*: 3\.5\.0\); upgrade apache"
    ):
        schema.migrate(empty_engine)
    assert shape(empty_engine) == before
    assert not sa.inspect(empty_engine).has_table(VERSION_TABLE)
    airflow.steps("edge3 upgradedb", "ours upgradedb", "ours must_be_done")


def test_edge3_resets_its_tables_behind_our_back(empty_engine: sa.Engine, airflow: Airflow) -> None:
    schema.migrate(empty_engine)
    airflow.steps(
        "edge3 resetdb", "ours must_not_be_done", "ours upgradedb", "ours must_be_done", "edge3 must_be_done"
    )
    schema.check(empty_engine)


def test_edge3_may_change_what_our_triggers_look_at(postgres_engine: sa.Engine) -> None:
    """PostgreSQL refuses that for columns that a trigger's own condition names."""
    with postgres_engine.begin() as connection:
        for column in ("queue", "command", "team_name", "edge_worker", "dag_id"):
            connection.exec_driver_sql(f"ALTER TABLE edge_job ALTER COLUMN {column} TYPE VARCHAR(700)")
        connection.exec_driver_sql("ALTER TABLE edge_worker ALTER COLUMN queues TYPE VARCHAR(9000)")
        connection.exec_driver_sql("ALTER TABLE edge_worker DROP COLUMN concurrency")
