"""Let the database tell of what gateways must look at (PostgreSQL), and let them find it by index.

The conditions name as few of edge3's columns as they can: PostgreSQL refuses to change the type of a column,
or to drop it, that a trigger's own condition names. What a function looks at is free.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FUNCTION = """
CREATE OR REPLACE FUNCTION edge_ws_wake() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text := TG_ARGV[0];
    name text;
BEGIN
    IF kind = 'q' THEN
        name := NEW.queue;
    ELSIF kind = 'd' THEN
        name := OLD.edge_ws_claim || ' ' || coalesce(OLD.edge_worker, '');
    ELSIF kind = 't' THEN
        name := OLD.id;
    ELSIF OLD.concurrency IS DISTINCT FROM NEW.concurrency
        OR OLD.queues IS DISTINCT FROM NEW.queues
        OR (OLD.state IS DISTINCT FROM NEW.state
            AND NEW.state IN ('shutdown request', 'maintenance request', 'maintenance exit'))
    THEN
        name := NEW.worker_name;
    ELSE
        RETURN NULL;
    END IF;
    -- More than 7,999 bytes would fail the writer's transaction.
    PERFORM pg_notify('edge_ws', CASE WHEN octet_length(name) > 7900 THEN '*' ELSE kind || ':' || name END);
    RETURN NULL;
END
$$
"""

TRIGGERS = {
    # Also when it was queued before: it may be another job now, for another queue.
    "edge_ws_job_queued": ("INSERT OR UPDATE ON edge_job", "WHEN (NEW.state = 'queued')", "q"),
    # Ended rows are purged; nobody needs to know.
    "edge_ws_job_deleted": (
        "DELETE ON edge_job",
        "WHEN (OLD.edge_ws_claim IS NOT NULL AND OLD.state IN ('restarting', 'running'))",
        "d",
    ),
    "edge_ws_worker_wished": ("UPDATE ON edge_worker", "", "w"),
    "edge_ws_token_changed": ("UPDATE OR DELETE ON edge_ws_token", "", "t"),
}

INDEXES = {
    # A queue's jobs in the order in which they are handed out: other queues' backlogs are not read.
    "edge_ws_job_queued": (["queue", sa.text("priority_weight DESC"), "queued_dttm"], "state = 'queued'"),
}
# edge3's migrations make the table anew on SQLite, and stumble over an order or a column that they drop; and
# its planner takes an index for the number of columns that it knows, not for the rows that are in it.
SQLITE_INDEXES = {**INDEXES, "edge_ws_job_queued": (["queue", "state"], None)}


def upgrade() -> None:
    """Add what is not there yet."""
    connection = op.get_bind()
    there = {index["name"] for index in sa.inspect(connection).get_indexes("edge_job")}
    wanted = SQLITE_INDEXES if connection.dialect.name == "sqlite" else INDEXES
    for name, (columns, condition) in wanted.items():
        if name not in there:
            where = sa.text(condition) if condition else None
            op.create_index(name, "edge_job", columns, sqlite_where=where, postgresql_where=where)
    if connection.dialect.name == "postgresql":
        _add_triggers()


def _add_triggers() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(FUNCTION)
    for name, (event, condition, kind) in TRIGGERS.items():
        table = event.rpartition(" ")[2]
        there = sa.text(
            "SELECT 1 FROM pg_trigger WHERE tgname = :name AND tgrelid = CAST(:table AS regclass)"
        )
        if connection.scalar(there, {"name": name, "table": table}) is None:
            connection.exec_driver_sql(
                f"CREATE TRIGGER {name} AFTER {event} FOR EACH ROW {condition}"
                f" EXECUTE FUNCTION edge_ws_wake('{kind}')"
            )


def downgrade() -> None:
    """Refuse, as the steps before."""
    raise NotImplementedError("edge-ws's migrations only go forward")
