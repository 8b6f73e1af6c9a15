"""Add what edge-ws needs beyond edge3's tables: two columns, room for long commands, its own tables.

Knows no edge3 version: whatever edge_job and edge_worker are, they get the same additions.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MYSQL = ("mysql", "mariadb")

ID = sa.String(250).with_variant(mysql.VARCHAR(250, collation="utf8mb3_bin"), *MYSQL)
UUID = sa.String(36).with_variant(mysql.VARCHAR(36, charset="ascii", collation="ascii_bin"), *MYSQL)
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), *MYSQL)

COLUMNS = {"edge_ws_claim": UUID, "edge_ws_owner": sa.Integer()}
OWNER_INDEX = "edge_ws_job_owner"
# The executor reads its ended rows several times a second; all others are not in the index.
ENDED = "edge_ws_owner IS NOT NULL AND state NOT IN ('queued', 'restarting', 'running')"

metadata = sa.MetaData()

sa.Table(
    "edge_ws_claim",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("dag_id", ID, nullable=False),
    sa.Column("task_id", ID, nullable=False),
    sa.Column("run_id", ID, nullable=False),
    sa.Column("map_index", sa.Integer, nullable=False),
    sa.Column("try_number", sa.Integer, nullable=False),
    sa.Column("task_instance_id", UUID, nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("worker", sa.String(64), nullable=False),
    sa.Column("site", UUID, nullable=False),
    sa.Column("host", UUID),
    sa.Column("gateway", UUID, nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(20), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("lease_until", sa.Double),
    sa.Column("result", sa.String(20)),
    sa.Column("detail", sa.String(1000), nullable=False, server_default=""),
    sa.Column("ended_at", sa.Double),
    sa.Column("log_end", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("log_path", sa.Text, nullable=False),
    sa.Column("log_base", sa.BigInteger),
    sa.Column("log_state", sa.String(10), nullable=False, server_default="none"),
    sa.Column("log_uploaded", sa.Boolean, nullable=False, server_default=sa.false()),
    # Not by phase: an index that names a column is written at each change of it.
    sa.Index(
        "edge_ws_claim_open",
        "worker",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
    sa.Index(
        "edge_ws_claim_ended",
        "ended_at",
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    ),
    sa.Index(
        "edge_ws_claim_log",
        "ended_at",
        sqlite_where=sa.text("log_state = 'held'"),
        postgresql_where=sa.text("log_state = 'held'"),
    ),
    # Each row is changed three times soon after it was written: with room beside it, that touches no index.
    postgresql_with={"fillfactor": 40},
)

sa.Table(
    "edge_ws_log",
    metadata,
    sa.Column("claim", UUID, primary_key=True),
    sa.Column("log_offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary(1024 * 1024), nullable=False),
)

sa.Table(
    "edge_ws_worker",
    metadata,
    sa.Column("worker_name", sa.String(64), primary_key=True),
    sa.Column("site", UUID, nullable=False),
    sa.Column("gateway", UUID),
    sa.Column("connection", UUID),
    sa.Column("transport", sa.String(20)),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("token_id", UUID),
    sa.Column("local_concurrency", sa.Integer, nullable=False),
    sa.Column("local_queues", sa.JSON),
    sa.Column("wish_revision", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("wish_concurrency", sa.Integer),
    sa.Column("wish_queues", sa.JSON),
    sa.Column("applied_revision", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("applied_concurrency", sa.Integer),
    sa.Column("applied_queues", sa.JSON),
    sa.Column("applied_at", sa.Double),
)

sa.Table(
    "edge_ws_token",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("name", sa.String(250), nullable=False),
    sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("worker_pattern", sa.String(250), nullable=False),
    sa.Column("queues", sa.JSON),
    sa.Column("team", sa.String(64)),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

sa.Table(
    "edge_ws_gateway",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("hostname", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
)


def upgrade() -> None:
    """Add what is not there yet; where DDL commits at once, a broken-off run is finished by the next."""
    _add_columns()
    _widen("edge_job", "command", LONG_TEXT, nullable=False)
    _widen("edge_worker", "queues", sa.Text(), nullable=True)
    connection = op.get_bind()
    for table in metadata.tables.values():
        table.create(connection, checkfirst=True)
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def _add_columns() -> None:
    inspector = sa.inspect(op.get_bind())
    columns = {column["name"] for column in inspector.get_columns("edge_job")}
    for name, kind in COLUMNS.items():
        if name not in columns:
            op.add_column("edge_job", sa.Column(name, kind))
    indexes = {index["name"] for index in inspector.get_indexes("edge_job")}
    if OWNER_INDEX not in indexes:
        ended = sa.text(ENDED)
        op.create_index(
            OWNER_INDEX, "edge_job", ["edge_ws_owner"], sqlite_where=ended, postgresql_where=ended
        )


def _widen(table: str, column: str, wide: sa.types.TypeEngine[str], *, nullable: bool) -> None:
    """Give the column room on databases that hold values to the declared length."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        return
    narrow = next(c["type"] for c in sa.inspect(connection).get_columns(table) if c["name"] == column)
    if getattr(narrow, "length", None) is not None:
        op.alter_column(table, column, existing_type=narrow, type_=wide, existing_nullable=nullable)


def downgrade() -> None:
    """Refuse: what running jobs need would be lost."""
    raise NotImplementedError("edge-ws's migrations only go forward")
