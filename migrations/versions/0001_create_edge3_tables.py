"""Create edge3's three tables as its 5.1.0 has them, or adopt the ones that are there.

Knows edge3's shape and revisions, none of our additions but their prefix. edge3's own migrations go by its
version row: a row that does not say what the tables are breaks them for good, so the row is written here
whenever it is known what it must say.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection
from sqlalchemy.engine.reflection import Inspector

from edge_ws.errors import SchemaError
from edge_ws.store.database import shown_url
from edge_ws.store.schema import differences

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EDGE3_HEAD = "d5a2f8b41c07"
OLDER = {
    "9d34dfc2de06": "3.0.0",
    "b3c4d5e6f7a8": "3.2.0",
    "8c275b6fbaa8": "3.2.0",
    "a09c3ee8e1d3": "3.4.0",
    "c6b3c3d093fd": "3.5.0",
    "f2a4b6c8d0e1": "5.0.0",
}
"""edge3's revisions before 5.1.0's, with the release that brought them."""

# MySQL's types are those that edge3's models and migrations give it there.
ID = sa.String(250).with_variant(mysql.VARCHAR(250, collation="utf8mb3_bin"), "mysql", "mariadb")
UUID = sa.String(36).with_variant(
    mysql.VARCHAR(36, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
)
TIME = sa.TIMESTAMP(timezone=True).with_variant(mysql.TIMESTAMP(fsp=6), "mysql", "mariadb")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")

metadata = sa.MetaData(naming_convention={"pk": "%(table_name)s_pkey"})

edge_worker = sa.Table(
    "edge_worker",
    metadata,
    sa.Column("worker_name", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("maintenance_comment", sa.String(1024)),
    sa.Column("queues", sa.String(256)),
    sa.Column("first_online", TIME),
    sa.Column("last_update", TIME),
    sa.Column("jobs_active", sa.Integer, nullable=False),
    sa.Column("sysinfo", sa.JSON),
    sa.Column("team_name", sa.String(64)),
    sa.Column("concurrency", sa.Integer),
)

edge_job = sa.Table(
    "edge_job",
    metadata,
    sa.Column("dag_id", ID, primary_key=True),
    sa.Column("task_id", ID, primary_key=True),
    sa.Column("run_id", ID, primary_key=True),
    sa.Column("map_index", sa.Integer, primary_key=True, server_default=sa.text("-1")),
    sa.Column("try_number", sa.Integer, primary_key=True),
    sa.Column("task_instance_id", UUID, primary_key=True, server_default=""),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("queue", sa.String(256), nullable=False),
    sa.Column("concurrency_slots", sa.Integer, nullable=False),
    sa.Column("priority_weight", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("command", sa.String(2048), nullable=False),
    sa.Column("queued_dttm", TIME),
    sa.Column("edge_worker", sa.String(64)),
    sa.Column("last_update", TIME),
    sa.Column("team_name", sa.String(64)),
    sa.Index("rj_order", "state", sa.text("priority_weight DESC"), "queued_dttm", "queue"),
)

edge_logs = sa.Table(
    "edge_logs",
    metadata,
    sa.Column("dag_id", ID, primary_key=True),
    sa.Column("task_id", ID, primary_key=True),
    sa.Column("run_id", ID, primary_key=True),
    sa.Column("map_index", sa.Integer, primary_key=True, server_default=sa.text("-1")),
    sa.Column("try_number", sa.Integer, primary_key=True),
    sa.Column("log_chunk_time", TIME, primary_key=True),
    sa.Column("log_chunk_data", LONG_TEXT, nullable=False),
)

version = sa.Table(
    "alembic_version_edge3",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_edge3_pkc"),
)


def upgrade() -> None:
    """Create, adopt, or refuse with a sentence that says what to run."""
    connection = op.get_bind()
    inspector = sa.inspect(connection)
    there = [table for table in metadata.tables.values() if inspector.has_table(table.name)]
    rows = _rows(connection, inspector)
    if there:
        _adopt(connection, inspector, there, rows)
    metadata.create_all(connection)
    if not there or rows <= OLDER.keys():
        _write_row(connection)


def _adopt(connection: Connection, inspector: Inspector, there: list[sa.Table], rows: set[str]) -> None:
    """Return if the tables are 5.1.0's, or a newer edge3's that hold the same."""
    reasons = differences(inspector, there)
    if rows <= OLDER.keys():
        # No row, or the row of an edge3 whose migration broke off: it may be mended only if the tables
        # are 5.1.0's and nothing else (edge3's models create them so without writing the row).
        reasons += _not_exact(inspector, there)
    elif EDGE3_HEAD not in rows and len(there) < len(metadata.tables):
        reasons.append("some of the tables are missing")
    if not reasons:
        return
    said = ", ".join(OLDER.get(row, row) for row in sorted(rows)) or "none"
    raise SchemaError(
        f"edge3's tables in {shown_url(connection.engine)} cannot be adopted: {reasons[0]} (version in"
        f" {version.name}: {said}); upgrade apache-airflow-providers-edge3 to 5.1.0 or later and run"
        " `airflow db migrate`, or drop them if edge3 is no longer in use, then migrate again"
    )


def _not_exact(inspector: Inspector, there: list[sa.Table]) -> list[str]:
    reasons = [
        f"{table.name} has the unknown column {column['name']}"
        for table in there
        for column in inspector.get_columns(table.name)
        if column["name"] not in table.columns and not column["name"].startswith("edge_ws_")
    ]
    if edge_job in there:
        orders = [
            index["column_names"]
            for index in inspector.get_indexes("edge_job")
            if index["name"] == "rj_order"
        ]
        if not any("priority_weight" in order for order in orders):
            reasons.append("the index rj_order is not 5.1.0's")
    return reasons


def _rows(connection: Connection, inspector: Inspector) -> set[str]:
    if not inspector.has_table(version.name):
        return set()
    return set(connection.scalars(sa.select(version.c.version_num)))


def _write_row(connection: Connection) -> None:
    version.create(connection, checkfirst=True)
    connection.execute(version.delete())
    connection.execute(version.insert().values(version_num=EDGE3_HEAD))


def downgrade() -> None:
    """Refuse: the tables may be edge3's by now."""
    raise NotImplementedError("edge-ws's migrations only go forward")
