"""Let queues be paused, maintenance end by itself, and a shutdown have a deadline."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

metadata = sa.MetaData()

sa.Table(
    "edge_ws_maintenance",
    metadata,
    sa.Column("worker_name", sa.String(64), primary_key=True),
    sa.Column("comment", sa.String(1024), nullable=False),
    sa.Column("wished_by", sa.String(250)),
    sa.Column("wished_at", sa.Double, nullable=False),
    sa.Column("ends_at", sa.Double),
)
sa.Table(
    "edge_ws_queue",
    metadata,
    sa.Column("queue", sa.String(256), primary_key=True),
    sa.Column("paused_at", sa.Double, nullable=False),
    sa.Column("paused_by", sa.String(250)),
    sa.Column("note", sa.String(1024), nullable=False),
)


def upgrade() -> None:
    """Add what is not there yet."""
    connection = op.get_bind()
    for table in metadata.tables.values():
        table.create(connection, checkfirst=True)
    # Without demands: the release before this one goes on writing rows without it.
    if "wish_deadline" not in {one["name"] for one in sa.inspect(connection).get_columns("edge_ws_worker")}:
        op.add_column("edge_ws_worker", sa.Column("wish_deadline", sa.Double))


def downgrade() -> None:
    """Refuse, as the steps before."""
    raise NotImplementedError("edge-ws's migrations only go forward")
