"""Number what is wished of a worker beyond concurrency and queues: maintenance, its comment, shutdown.

And tell gateways of a changed comment too, which the worker shows on its host.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
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
        OR OLD.maintenance_comment IS DISTINCT FROM NEW.maintenance_comment
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


def _columns() -> tuple[sa.Column, ...]:
    """Return them with defaults: the release before this one goes on writing rows without them."""
    return (
        sa.Column("life", sa.String(36)),
        sa.Column("asked_number", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("wish_maintenance", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("wish_comment", sa.String(1024)),
        sa.Column("wish_shutdown", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("wish_asked", sa.Integer, nullable=False, server_default=sa.text("0")),
    )


def upgrade() -> None:
    """Add what is not there yet."""
    connection = op.get_bind()
    there = {column["name"] for column in sa.inspect(connection).get_columns("edge_ws_worker")}
    for column in _columns():
        if column.name not in there:
            op.add_column("edge_ws_worker", column)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(FUNCTION)


def downgrade() -> None:
    """Refuse, as the steps before."""
    raise NotImplementedError("edge-ws's migrations only go forward")
