"""Note how often each gateway and worker is seen, and which lives and connections take a worker's place."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _columns() -> tuple[tuple[str, sa.Column], ...]:
    """Return them with defaults: the release before this one goes on writing rows without them."""
    return (
        ("edge_ws_gateway", sa.Column("heartbeat_s", sa.Double)),
        ("edge_ws_worker", sa.Column("heartbeat_s", sa.Double)),
        ("edge_ws_worker", sa.Column("former_lives", sa.JSON(none_as_null=True))),
        ("edge_ws_worker", sa.Column("former_connections", sa.JSON(none_as_null=True))),
        ("edge_ws_worker", sa.Column("returns", sa.Integer, nullable=False, server_default=sa.text("0"))),
    )


def upgrade() -> None:
    """Add what is not there yet."""
    connection = op.get_bind()
    for table, column in _columns():
        if column.name not in {one["name"] for one in sa.inspect(connection).get_columns(table)}:
            op.add_column(table, column)


def downgrade() -> None:
    """Refuse, as the steps before."""
    raise NotImplementedError("edge-ws's migrations only go forward")
