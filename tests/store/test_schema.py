"""The chain of migrations on databases without edge3's code: new, half done, replaced, newer, in the way."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import ExitStack

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import edge_ws
from edge_ws.errors import SchemaError, UnreachableError
from edge_ws.store import schema
from edge_ws.store.tables import (
    EDGE3_HEAD,
    EDGE3_TABLES,
    EDGE3_VERSION_TABLE,
    JOB_INDEXES,
    OWN_TABLES,
    TRIGGERS,
    VERSION_TABLE,
    WAKE_FUNCTION,
    claim,
    edge_job,
    edge_logs,
    edge_worker,
    gateway,
    metadata,
    token,
    worker,
)

_AT_ONCE = """
import sys, sqlalchemy
from edge_ws.store import schema
strict = {"isolation_level": "REPEATABLE READ"} if "postgresql" in sys.argv[1] else {}
engine = sqlalchemy.create_engine(sys.argv[1], **strict)
print("ready", flush=True)
sys.stdin.readline()
schema.migrate(engine)
schema.check(engine)
assert not any(name.split(".")[0] == "airflow" for name in sys.modules)
"""


def to_0001(engine: sa.Engine) -> None:
    """Leave edge3's three tables and its version row, nothing of ours."""
    with engine.connect() as connection, schema._alone(connection):
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(f"DROP TABLE {VERSION_TABLE}")


def rows(engine: sa.Engine, table: str) -> set[str]:
    with engine.connect() as connection:
        return {row.version_num for row in connection.exec_driver_sql(f"SELECT version_num FROM {table}")}


def set_row(engine: sa.Engine, table: str, version: str | None) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {table}")
        if version is not None:
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES ('{version}')")


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def shape(engine: sa.Engine) -> dict[str, object]:
    inspector = sa.inspect(engine)
    return {
        name: (
            {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(name)},
            inspector.get_pk_constraint(name),
            sorted((i["name"], i["column_names"]) for i in inspector.get_indexes(name)),
            inspector.get_unique_constraints(name),
        )
        for name in tables(engine)
    }


def replace(
    engine: sa.Engine, table: sa.Table, *, without: str = "", extra: sa.Column[int] | None = None
) -> None:
    """Put another table of that name in its place."""
    other = sa.Table(
        table.name,
        sa.MetaData(),
        *(sa.Column(c.name, c.type, primary_key=c.primary_key) for c in table.columns if c.name != without),
        *([extra] if extra is not None else []),
    )
    with engine.begin() as connection:
        table.drop(connection)
        other.create(connection)


def a_job(**values: object) -> sa.Insert:
    return edge_job.insert().values(
        dag_id="d", task_id="t", try_number=1, state="queued", queue="q", concurrency_slots=1, **values
    )


class TestNewDatabase:
    def test_lacks_our_tables_until_migrated(self, empty_engine: sa.Engine) -> None:
        what = "(has no edge-ws tables|there is no database) .*; run `airflow db migrate` or `edge-ws db"
        with pytest.raises(SchemaError, match=what):
            schema.check(empty_engine)
        schema.migrate(empty_engine)
        schema.check(empty_engine)
        assert rows(empty_engine, EDGE3_VERSION_TABLE) == {EDGE3_HEAD}

    def test_gets_the_tables_of_tables_py(self, empty_engine: sa.Engine) -> None:
        schema.migrate(empty_engine)
        names = set(metadata.tables)

        def is_ours(thing: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
            return name in names if kind == "table" else kind != "index" or not reflected

        with empty_engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_object": is_ours,
                    "compare_type": True,
                    # What SQLite reflects of a default is text that Alembic takes for another one.
                    "compare_server_default": empty_engine.dialect.name != "sqlite",
                },
            )
            found = compare_metadata(context, metadata)
        if empty_engine.dialect.name == "sqlite":
            # SQLite heeds no length: the columns stay as edge3 declares them.
            widened = {("edge_job", "command"), ("edge_worker", "queues")}
            found = [d for d in found if not (isinstance(d, list) and (d[0][2], d[0][3]) in widened)]
        assert found == []

    def test_holds_long_commands_and_queues(self, empty_engine: sa.Engine) -> None:
        schema.migrate(empty_engine)
        with empty_engine.begin() as connection:
            connection.execute(a_job(run_id="r", command="x" * 100_000))
            connection.execute(
                edge_worker.insert().values(
                    worker_name="w",
                    state="idle",
                    jobs_active=0,
                    queues=str([f"queue-{n}" for n in range(500)]),
                )
            )

    def test_finds_what_it_asks_for_often_by_index(self, empty_engine: sa.Engine) -> None:
        schema.migrate(empty_engine)
        explain = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}[empty_engine.dialect.name]
        wanted = {
            "edge_ws_job_owner": "edge_job WHERE edge_ws_owner = 7"
            " AND state NOT IN ('queued', 'restarting', 'running')",
            "edge_ws_claim_ended": "edge_ws_claim WHERE ended_at < 5",
        }
        with empty_engine.connect() as connection:
            if empty_engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET enable_seqscan = off")
            for index, condition in wanted.items():
                plan = connection.exec_driver_sql(f"{explain} SELECT 1 FROM {condition}").all()
                assert index in str(plan)

    def test_is_the_same_after_another_migrate(self, empty_engine: sa.Engine) -> None:
        schema.migrate(empty_engine)
        before = shape(empty_engine)
        schema.migrate(empty_engine)
        assert shape(empty_engine) == before

    def test_can_be_migrated_by_many_at_once(self, empty_engine: sa.Engine) -> None:
        url = empty_engine.url.render_as_string(hide_password=False)
        with ExitStack() as stack:
            holder = stack.enter_context(empty_engine.connect())
            with schema._alone(holder):
                racers = [
                    stack.enter_context(
                        subprocess.Popen(
                            [sys.executable, "-c", _AT_ONCE, url],
                            env={"PYTHONPATH": edge_ws.__path__[0] + "/.."},
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            text=True,
                        )
                    )
                    for _ in range(3)
                ]
                for racer in racers:
                    assert racer.stdout is not None
                    assert racer.stdout.readline() == "ready\n"
                # They find the lock taken, and go on once this block has given it back.
                for racer in racers:
                    assert racer.stdin is not None
                    racer.stdin.write("go\n")
                    racer.stdin.flush()
            for racer in racers:
                _, said = racer.communicate(timeout=60)
                assert racer.returncode == 0, said
        schema.check(empty_engine)

    def test_logging_stays_as_it_was(self, empty_engine: sa.Engine) -> None:
        names = [None, "alembic", "alembic.runtime.migration", "sqlalchemy.engine"]
        before = [(logging.getLogger(n).level, list(logging.getLogger(n).handlers)) for n in names]
        schema.migrate(empty_engine)
        assert [(logging.getLogger(n).level, list(logging.getLogger(n).handlers)) for n in names] == before
        assert not logging.getLogger("alembic.runtime.migration").disabled


class TestHalfDone:
    """As a run leaves it that broke off where each statement commits by itself."""

    @pytest.mark.parametrize(
        "undone",
        [
            ["DROP TABLE edge_job", "DROP TABLE edge_logs"],
            [f"DROP TABLE {EDGE3_VERSION_TABLE}"],
            ["DROP INDEX edge_ws_job_owner", "ALTER TABLE edge_job DROP COLUMN edge_ws_owner"],
            ["DROP INDEX edge_ws_claim_ended", "DROP INDEX edge_ws_claim_open", "DROP TABLE edge_ws_gateway"],
            ["DROP TABLE edge_ws_claim", "DROP TABLE edge_ws_log"],
        ],
    )
    def test_is_finished_by_the_next_run(self, engine: sa.Engine, undone: list[str]) -> None:
        whole = shape(engine)
        run(engine, *undone, f"DROP TABLE {VERSION_TABLE}")
        schema.migrate(engine)
        schema.check(engine)
        assert shape(engine) == whole
        assert rows(engine, EDGE3_VERSION_TABLE) == {EDGE3_HEAD}


class TestBehindOurVersionRow:
    def test_a_dropped_table_is_made_again(self, engine: sa.Engine) -> None:
        whole = shape(engine)
        run(engine, f"DROP TABLE {gateway.name}")
        with pytest.raises(
            SchemaError, match=r"out of date \(there is no table edge_ws_gateway\); run `airflow"
        ):
            schema.check(engine)
        schema.migrate(engine)
        assert shape(engine) == whole

    def test_edge3_tables_made_anew_get_our_columns(self, engine: sa.Engine) -> None:
        whole = shape(engine)
        run(engine, *(f"DROP TABLE {table.name}" for table in EDGE3_TABLES))
        run(engine, f"DROP TABLE {VERSION_TABLE}")
        to_0001(engine)
        run(
            engine,
            f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL"
            f", CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))",
        )
        set_row(engine, VERSION_TABLE, *schema._script().get_heads())
        with pytest.raises(SchemaError, match="edge_job lacks the column edge_ws_claim"):
            schema.check(engine)
        schema.migrate(engine)
        assert shape(engine) == whole

    @pytest.mark.parametrize("name", JOB_INDEXES)
    def test_a_dropped_index_is_made_again(self, engine: sa.Engine, name: str) -> None:
        whole = shape(engine)
        run(engine, f"DROP INDEX {name}")
        with pytest.raises(
            SchemaError, match=rf"out of date \(edge_job lacks the index {name}\); run `airflow"
        ):
            schema.check(engine)
        schema.migrate(engine)
        schema.check(engine)
        assert shape(engine) == whole

    @pytest.mark.parametrize(("name", "table"), TRIGGERS.items())
    def test_a_dropped_trigger_is_made_again(self, postgres_engine: sa.Engine, name: str, table: str) -> None:
        run(postgres_engine, f"DROP TRIGGER {name} ON {table}")
        with pytest.raises(SchemaError, match=f"{table} lacks the trigger {name}"):
            schema.check(postgres_engine)
        schema.migrate(postgres_engine)
        schema.check(postgres_engine)


class TestNewerRevision:
    def test_is_fine_while_its_tables_have_what_we_need(self, engine: sa.Engine) -> None:
        run(engine, "ALTER TABLE edge_ws_worker ADD COLUMN mood VARCHAR(10)")
        set_row(engine, VERSION_TABLE, "0099")
        schema.check(engine)
        schema.migrate(engine)
        assert rows(engine, VERSION_TABLE) == {"0099"}

    def test_is_refused_when_they_have_not(self, engine: sa.Engine) -> None:
        run(engine, "ALTER TABLE edge_ws_worker DROP COLUMN applied_at")
        set_row(engine, VERSION_TABLE, "0099")
        for verb in (schema.check, schema.migrate):
            with pytest.raises(
                SchemaError, match=r"newer edge-ws \(revision 0099\) .*lacks the column applied_at"
            ):
                verb(engine)

    def test_an_older_one_must_be_migrated(self, engine: sa.Engine) -> None:
        set_row(engine, VERSION_TABLE, "0001")
        with pytest.raises(SchemaError, match=r"out of date \(revision 0001\); run") as caught:
            schema.check(engine)
        assert caught.value.remedy == "run `airflow db migrate` or `edge-ws db migrate`"
        schema.migrate(engine)
        schema.check(engine)


class TestSomeTables:
    def test_may_do_where_others_do_not(self, engine: sa.Engine) -> None:
        run(engine, "ALTER TABLE edge_ws_worker DROP COLUMN applied_at")
        assert schema.has_all(engine, [edge_job, gateway])
        assert not schema.has_all(engine, [edge_job, worker])


class TestAdoption:
    @pytest.mark.parametrize("version", [None, "a09c3ee8e1d3", "f2a4b6c8d0e1"])
    def test_exact_tables_without_a_true_version_row_get_it(
        self, empty_engine: sa.Engine, version: str | None
    ) -> None:
        to_0001(empty_engine)
        set_row(empty_engine, EDGE3_VERSION_TABLE, version)
        schema.migrate(empty_engine)
        assert rows(empty_engine, EDGE3_VERSION_TABLE) == {EDGE3_HEAD}

    def test_without_a_version_table_it_is_made(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        run(empty_engine, f"DROP TABLE {EDGE3_VERSION_TABLE}", f"DROP TABLE {edge_logs.name}")
        schema.migrate(empty_engine)
        assert rows(empty_engine, EDGE3_VERSION_TABLE) == {EDGE3_HEAD}
        schema.check(empty_engine)

    def test_a_row_without_tables_is_set_right(self, empty_engine: sa.Engine) -> None:
        run(
            empty_engine,
            f"CREATE TABLE {EDGE3_VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
            f"INSERT INTO {EDGE3_VERSION_TABLE} VALUES ('c6b3c3d093fd')",
        )
        schema.migrate(empty_engine)
        assert rows(empty_engine, EDGE3_VERSION_TABLE) == {EDGE3_HEAD}

    def test_a_newer_edge3_is_taken_as_it_is(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        run(empty_engine, "ALTER TABLE edge_job ADD COLUMN mood VARCHAR(10)")
        set_row(empty_engine, EDGE3_VERSION_TABLE, "ffff00000001")
        schema.migrate(empty_engine)
        schema.check(empty_engine)
        assert rows(empty_engine, EDGE3_VERSION_TABLE) == {"ffff00000001"}

    def test_an_older_edge3_is_refused(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        run(empty_engine, "DROP INDEX rj_order", "ALTER TABLE edge_job DROP COLUMN priority_weight")
        set_row(empty_engine, EDGE3_VERSION_TABLE, "f2a4b6c8d0e1")
        self._refused(
            empty_engine, r"lacks the column priority_weight \(version .*: 5\.0\.0\); upgrade apache-"
        )

    def test_a_version_row_that_promises_too_much_is_refused(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        run(empty_engine, "ALTER TABLE edge_worker DROP COLUMN concurrency")
        self._refused(empty_engine, r"edge_worker lacks the column concurrency \(version .*: d5a2f8b41c07\)")

    def test_unknown_columns_without_a_version_row_are_refused(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        run(empty_engine, "ALTER TABLE edge_worker ADD COLUMN mood VARCHAR(10)")
        set_row(empty_engine, EDGE3_VERSION_TABLE, None)
        self._refused(empty_engine, r"edge_worker has the unknown column mood \(version .*: none\)")

    def test_an_older_index_without_a_version_row_is_refused(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        run(
            empty_engine,
            "DROP INDEX rj_order",
            "CREATE INDEX rj_order ON edge_job (state, queued_dttm, queue)",
            f"DROP TABLE {EDGE3_VERSION_TABLE}",
        )
        self._refused(empty_engine, "the index rj_order is not 5.1.0's")

    def test_a_newer_edge3_with_a_table_missing_is_refused(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        run(empty_engine, f"DROP TABLE {edge_logs.name}")
        set_row(empty_engine, EDGE3_VERSION_TABLE, "ffff00000001")
        self._refused(empty_engine, r"some of the tables are missing \(version .*: ffff00000001\)")

    def test_a_newer_edge3_that_wants_values_we_do_not_give_is_refused(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        replace(empty_engine, edge_worker, extra=sa.Column("mood", sa.Integer, nullable=False))
        set_row(empty_engine, EDGE3_VERSION_TABLE, "ffff00000001")
        self._refused(empty_engine, "edge_worker wants a value for the unknown column mood")

    def test_another_primary_key_is_refused(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        replace(
            empty_engine,
            edge_worker,
            extra=sa.Column("mood", sa.Integer, primary_key=True, server_default="1"),
        )
        set_row(empty_engine, EDGE3_VERSION_TABLE, "ffff00000001")
        self._refused(empty_engine, "edge_worker has another primary key")

    def _refused(self, engine: sa.Engine, sentence: str) -> None:
        before = shape(engine)
        with pytest.raises(SchemaError, match=sentence) as caught:
            schema.migrate(engine)
        assert engine.url.render_as_string() in str(caught.value)
        assert shape(engine) == before


class TestFaults:
    def test_a_table_of_another_shape_in_the_way_undoes_all(self, empty_engine: sa.Engine) -> None:
        run(empty_engine, f"CREATE TABLE {token.name} (id INTEGER PRIMARY KEY)")
        with pytest.raises(
            SchemaError, match=r"not those of edge-ws \(edge_ws_token lacks the column name\); rename"
        ):
            schema.migrate(empty_engine)
        assert tables(empty_engine) == {token.name}

    def test_a_locked_database_is_told(self, sqlite_engine: sa.Engine) -> None:
        hasty = sa.create_engine(sqlite_engine.url, connect_args={"timeout": 0.01})
        with (
            sqlite_engine.connect() as holder,
            schema._alone(holder),
            pytest.raises(SchemaError, match=r"are in use \(database is locked\); wait for"),
        ):
            schema.migrate(hasty)
        hasty.dispose()

    def test_an_unreachable_database_is_told_without_its_password(self) -> None:
        engine = sa.create_engine("postgresql+psycopg2://airflow:secret@127.0.0.1:1/airflow")
        for verb in (schema.check, schema.migrate):
            with pytest.raises(
                UnreachableError, match=r"airflow:\*\*\*@127.0.0.1:1/airflow failed: "
            ) as caught:
                verb(engine)
            assert "secret" not in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_a_file_that_cannot_be_opened_is_told(self) -> None:
        engine = sa.create_engine("sqlite:////nonexistent/folder/airflow.db")
        with pytest.raises(UnreachableError, match="unable to open database file"):
            schema.check(engine)

    def test_missing_rights_are_told(self, postgres_engine: sa.Engine) -> None:
        run(postgres_engine, f"DROP TABLE {gateway.name}")

        def lower(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
            cursor = connection.cursor()
            cursor.execute("SET SESSION AUTHORIZATION pg_monitor")
            cursor.close()
            connection.commit()

        engine = sa.create_engine(postgres_engine.url, poolclass=sa.NullPool)
        sa.event.listen(engine, "connect", lower)
        with pytest.raises(SchemaError, match="could not be read or changed: permission denied for"):
            schema.migrate(engine)


class TestDrop:
    def test_takes_out_what_is_ours_and_nothing_else(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(a_job(run_id="edge3's", command="{}"))
            connection.execute(a_job(run_id="ours", command="{}", edge_ws_owner=7))
            connection.execute(a_job(run_id="reported", command="{}", edge_ws_claim="c"))
            for name in ("edge3's", "ours"):
                connection.execute(edge_worker.insert().values(worker_name=name, state="idle", jobs_active=0))
            connection.execute(
                worker.insert().values(worker_name="ours", site="s", seen_at=1.0, local_concurrency=1)
            )
        with engine.begin() as connection:
            schema.drop(connection)
        assert tables(engine) == {*(table.name for table in EDGE3_TABLES), EDGE3_VERSION_TABLE}
        with engine.connect() as connection:
            assert connection.scalars(sa.select(edge_job.c.run_id)).all() == ["edge3's"]
            assert connection.scalars(sa.select(edge_worker.c.worker_name)).all() == ["edge3's"]
        schema.migrate(engine)
        schema.check(engine)

    def test_takes_our_triggers_and_their_function_away(self, postgres_engine: sa.Engine) -> None:
        with postgres_engine.begin() as connection:
            schema.drop(connection)
            for catalog in (
                "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
                "SELECT proname FROM pg_proc",
            ):
                found = connection.exec_driver_sql(catalog).scalars().all()
                assert not {WAKE_FUNCTION, *TRIGGERS} & set(found)
            connection.execute(a_job(run_id="r", command="{}"))
        schema.migrate(postgres_engine)
        schema.check(postgres_engine)

    def test_is_content_with_an_empty_database(self, empty_engine: sa.Engine) -> None:
        with empty_engine.begin() as connection:
            schema.drop(connection)
        assert tables(empty_engine) == set()

    def test_leaves_edge3_alone_that_was_never_ours(self, empty_engine: sa.Engine) -> None:
        to_0001(empty_engine)
        before = shape(empty_engine)
        with empty_engine.begin() as connection:
            schema.drop(connection)
        assert shape(empty_engine) == before


def test_our_tables_have_our_prefix() -> None:
    assert all(table.name.startswith("edge_ws_") for table in OWN_TABLES)
    assert claim in OWN_TABLES
