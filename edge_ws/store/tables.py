"""The tables as SQLAlchemy Core sees them: edge3's three, and our own `edge_ws_*`.

The migrations create and change them; nothing here does. Times in edge3's columns are UTC timestamps as
Airflow writes them; times in ours are seconds since the epoch by the database's clock (`epoch_now`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from edge_ws.store.records import HEARTBEAT_S, SEEN_BEATS


class UtcTimestamp(TypeDecorator[datetime]):
    """An aware UTC datetime in edge3's timestamp columns (SQLite keeps it naive)."""

    impl = sa.TIMESTAMP(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive values; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware UTC datetime."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class epoch_now(FunctionElement[float]):  # noqa: N801 - used as a SQL function
    """Database time, seconds since the epoch, as a double; moves on inside a transaction."""

    type = sa.Double()
    inherit_cache = True


class utc_now(FunctionElement[datetime]):  # noqa: N801 - used as a SQL function
    """Database time in the form of edge3's timestamp columns."""

    type = UtcTimestamp()
    inherit_cache = True


@compiles(epoch_now, "postgresql")
def _epoch_postgresql(element: epoch_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(epoch_now, "sqlite")
def _epoch_sqlite(element: epoch_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "mysql")
def _epoch_mysql(element: epoch_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "(unix_timestamp(sysdate(6)) + 0e0)"


@compiles(utc_now, "postgresql")
def _utc_postgresql(element: utc_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "clock_timestamp()"


@compiles(utc_now, "sqlite")
def _utc_sqlite(element: utc_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    # The form in which SQLAlchemy writes a DATETIME: six digits of microseconds.
    return "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')"


@compiles(utc_now, "mysql")
def _utc_mysql(element: utc_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "utc_timestamp(6)"


metadata = sa.MetaData()

# edge3's tables, as its 5.1.0 has them (models/edge_job.py, edge_worker.py, edge_logs.py), with our two
# columns on edge_job.

edge_job = sa.Table(
    "edge_job",
    metadata,
    sa.Column("dag_id", sa.String(250), primary_key=True),
    sa.Column("task_id", sa.String(250), primary_key=True),
    sa.Column("run_id", sa.String(250), primary_key=True),
    sa.Column("map_index", sa.Integer, primary_key=True, server_default=sa.text("-1")),
    sa.Column("try_number", sa.Integer, primary_key=True),
    sa.Column("task_instance_id", sa.String(36), primary_key=True, server_default=""),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("queue", sa.String(256), nullable=False),
    sa.Column("concurrency_slots", sa.Integer, nullable=False),
    sa.Column("priority_weight", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("queued_dttm", UtcTimestamp),
    sa.Column("edge_worker", sa.String(64)),
    sa.Column("last_update", UtcTimestamp),
    sa.Column("team_name", sa.String(64)),
    sa.Column("edge_ws_claim", sa.String(36)),
    sa.Column("edge_ws_owner", sa.Integer),
)

edge_worker = sa.Table(
    "edge_worker",
    metadata,
    sa.Column("worker_name", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("maintenance_comment", sa.String(1024)),
    sa.Column("queues", sa.Text),
    sa.Column("first_online", UtcTimestamp),
    sa.Column("last_update", UtcTimestamp),
    sa.Column("jobs_active", sa.Integer, nullable=False),
    sa.Column("sysinfo", sa.JSON),
    sa.Column("team_name", sa.String(64)),
    sa.Column("concurrency", sa.Integer),
)

edge_logs = sa.Table(
    "edge_logs",
    metadata,
    sa.Column("dag_id", sa.String(250), primary_key=True),
    sa.Column("task_id", sa.String(250), primary_key=True),
    sa.Column("run_id", sa.String(250), primary_key=True),
    sa.Column("map_index", sa.Integer, primary_key=True, server_default=sa.text("-1")),
    sa.Column("try_number", sa.Integer, primary_key=True),
    sa.Column("log_chunk_time", UtcTimestamp, primary_key=True),
    sa.Column("log_chunk_data", sa.Text, nullable=False),
)

# Ours. No foreign keys to edge3's tables: edge3 deletes its rows when it likes.

claim = sa.Table(
    "edge_ws_claim",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("dag_id", sa.String(250), nullable=False),
    sa.Column("task_id", sa.String(250), nullable=False),
    sa.Column("run_id", sa.String(250), nullable=False),
    sa.Column("map_index", sa.Integer, nullable=False),
    sa.Column("try_number", sa.Integer, nullable=False),
    sa.Column("task_instance_id", sa.String(36), nullable=False),
    # The workload's own id: the task instance's (or the callback's).
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("worker", sa.String(64), nullable=False),
    sa.Column("site", sa.String(36), nullable=False),
    sa.Column("host", sa.String(36)),
    sa.Column("gateway", sa.String(36), nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(20), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    # While offered: when the offer may be taken back. Once accepted: when the last token minted for the
    # claim can no longer start anything.
    sa.Column("lease_until", sa.Double),
    # How it ended: success, failed, refused, expired, not_started, lost, stale.
    sa.Column("result", sa.String(20)),
    sa.Column("detail", sa.String(1000), nullable=False, server_default=""),
    sa.Column("ended_at", sa.Double),
    sa.Column("log_end", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("log_path", sa.Text, nullable=False),
    # Bytes of the file in Airflow's log folder when the move there was begun.
    sa.Column("log_base", sa.BigInteger),
    # none: no bytes yet; held: in edge_ws_log; moved: in Airflow's log folder.
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
    postgresql_with={"fillfactor": 40},
)

# Which workers could not start a queued job through their own fault. A row counts for the round of the job
# (the time at which it was queued) that it names.
fault = sa.Table(
    "edge_ws_fault",
    metadata,
    sa.Column("dag_id", sa.String(250), primary_key=True),
    sa.Column("task_id", sa.String(250), primary_key=True),
    sa.Column("run_id", sa.String(250), primary_key=True),
    sa.Column("map_index", sa.Integer, primary_key=True),
    sa.Column("try_number", sa.Integer, primary_key=True),
    sa.Column("task_instance_id", sa.String(36), primary_key=True),
    sa.Column("worker", sa.String(64), primary_key=True),
    sa.Column("queued_dttm", UtcTimestamp),
    sa.Column("reason", sa.String(1000), nullable=False),
    sa.Column("noted_at", sa.Double, nullable=False),
)

log = sa.Table(
    "edge_ws_log",
    metadata,
    sa.Column("claim", sa.String(36), primary_key=True),
    sa.Column("log_offset", sa.BigInteger, primary_key=True),
    sa.Column("data", sa.LargeBinary(1024 * 1024), nullable=False),
)

worker = sa.Table(
    "edge_ws_worker",
    metadata,
    sa.Column("worker_name", sa.String(64), primary_key=True),
    sa.Column("site", sa.String(36), nullable=False),
    sa.Column("gateway", sa.String(36)),
    # A new one for each hello: two gateways never both think the worker is theirs.
    sa.Column("connection", sa.String(36)),
    # Of the same site, the last one first: what is on its way by them is still taken.
    sa.Column("former_connections", sa.JSON(none_as_null=True)),
    sa.Column("transport", sa.String(20)),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("token_id", sa.String(36)),
    # Of the secret by which it came, of the two that a token may have; and from where.
    sa.Column("secret_hash", sa.String(64)),
    sa.Column("address", sa.String(64)),
    sa.Column("local_concurrency", sa.Integer, nullable=False),
    sa.Column("local_queues", sa.JSON(none_as_null=True)),
    # So often the gateway that has its connection writes `seen_at`; an older release's are NULL.
    sa.Column("heartbeat_s", sa.Double),
    # One life of its daemon, those before it (the last one first), and how often any of them has come back.
    sa.Column("life", sa.String(36)),
    sa.Column("former_lives", sa.JSON(none_as_null=True)),
    sa.Column("returns", sa.Integer, nullable=False, server_default=sa.text("0")),
    # Number of the last request of the worker's own host that was taken in.
    sa.Column("asked_number", sa.Integer, nullable=False, server_default=sa.text("0")),
    # The wish as last numbered, to notice when edge3's CLI or psql writes another into edge_worker.
    sa.Column("wish_revision", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("wish_concurrency", sa.Integer),
    sa.Column("wish_queues", sa.JSON(none_as_null=True)),
    sa.Column("wish_maintenance", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("wish_comment", sa.String(1024)),
    sa.Column("wish_shutdown", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("wish_asked", sa.Integer, nullable=False, server_default=sa.text("0")),
    # When tasks that still run are stopped, where it is to shut down; NULL: never.
    sa.Column("wish_deadline", sa.Double),
    sa.Column("applied_revision", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("applied_concurrency", sa.Integer),
    sa.Column("applied_queues", sa.JSON(none_as_null=True)),
    sa.Column("applied_at", sa.Double),
)

# The maintenance that our verbs have asked for. A row counts as long as the worker is in maintenance with
# this very comment: whoever asks by other means has written another one, or has ended it.
maintenance = sa.Table(
    "edge_ws_maintenance",
    metadata,
    sa.Column("worker_name", sa.String(64), primary_key=True),
    sa.Column("comment", sa.String(1024), nullable=False),
    sa.Column("wished_by", sa.String(250)),
    sa.Column("wished_at", sa.Double, nullable=False),
    # When a gateway ends it; NULL: an operator does.
    sa.Column("ends_at", sa.Double),
)

# Queues of which nothing is handed out: a row is a pause.
paused_queue = sa.Table(
    "edge_ws_queue",
    metadata,
    sa.Column("queue", sa.String(256), primary_key=True),
    sa.Column("paused_at", sa.Double, nullable=False),
    sa.Column("paused_by", sa.String(250)),
    sa.Column("note", sa.String(1024), nullable=False),
)

token = sa.Table(
    "edge_ws_token",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(250), nullable=False),
    sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("worker_pattern", sa.String(250), nullable=False),
    sa.Column("queues", sa.JSON(none_as_null=True)),
    sa.Column("team", sa.String(64)),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    # The one before the last rotation, and until when it is taken.
    sa.Column("old_secret_hash", sa.String(64)),
    sa.Column("old_expires_at", sa.Double),
    # Names by which workers may be known with it, in all; NULL: as many as there are by default.
    sa.Column("max_workers", sa.Integer),
    sa.Index("edge_ws_token_old_secret", "old_secret_hash"),
)

gateway = sa.Table(
    "edge_ws_gateway",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("hostname", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    # So often it writes `seen_at`, by its own setting; an older release's are NULL.
    sa.Column("heartbeat_s", sa.Double),
)


def silent_after_s(table: sa.FromClause) -> sa.ColumnElement[float]:
    """Return for how long a row's `seen_at` may be old before who is seen there counts as silent."""
    return SEEN_BEATS * sa.func.coalesce(table.c.heartbeat_s, HEARTBEAT_S)


EDGE3_TABLES = (edge_job, edge_worker, edge_logs)
OWN_TABLES = (claim, fault, log, worker, maintenance, paused_queue, token, gateway)
VERSION_TABLE = "alembic_version_edge_ws"
EDGE3_VERSION_TABLE = "alembic_version_edge3"
EDGE3_HEAD = "d5a2f8b41c07"
"""edge3 5.1.0's migration head: the shape we create and adopt."""
JOB_INDEXES = ("edge_ws_job_owner", "edge_ws_job_queued")
"""Our indexes on `edge_job`, which the migrations make."""
TRIGGERS = {
    "edge_ws_job_queued": "edge_job",
    "edge_ws_job_deleted": "edge_job",
    "edge_ws_worker_wished": "edge_worker",
    "edge_ws_token_changed": "edge_ws_token",
}
"""Our triggers by name, each with its table (PostgreSQL)."""
WAKE_FUNCTION = "edge_ws_wake"
"""What the triggers call."""
