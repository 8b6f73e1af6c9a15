"""Let each gateway keep the figures of its last hour in its row, and note what happens to the fleet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _columns() -> tuple[sa.Column, ...]:
    """Return them without demands: the release before this one goes on writing rows without them."""
    return (
        sa.Column("figures", sa.Text),
        sa.Column("has_metrics", sa.Boolean),
        sa.Column("ended_at", sa.Double),
    )


def upgrade() -> None:
    """Add what is not there yet."""
    connection = op.get_bind()
    there = {one["name"] for one in sa.inspect(connection).get_columns("edge_ws_gateway")}
    for column in _columns():
        if column.name not in there:
            op.add_column("edge_ws_gateway", column)
    if sa.inspect(connection).has_table("edge_ws_event"):
        return
    op.create_table(
        "edge_ws_event",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(30), nullable=False),
        sa.Column("worker", sa.String(64)),
        sa.Column("queue", sa.String(256)),
        sa.Column("who", sa.String(250)),
        sa.Column("words", sa.String(300), nullable=False, server_default=""),
        sa.Column("gateway", sa.String(300)),
        sa.Column("claim", sa.String(36)),
        sa.Column("job", sa.JSON(none_as_null=True)),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Refuse, as the steps before."""
    raise NotImplementedError("edge-ws's migrations only go forward")
