"""Let a token have two secrets for a while, and note which of them each worker comes by, and from where."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _columns() -> tuple[tuple[str, sa.Column], ...]:
    """Return them without demands: the release before this one goes on writing rows without them."""
    return (
        ("edge_ws_token", sa.Column("old_secret_hash", sa.String(64))),
        ("edge_ws_token", sa.Column("old_expires_at", sa.Double)),
        ("edge_ws_token", sa.Column("max_workers", sa.Integer)),
        ("edge_ws_worker", sa.Column("secret_hash", sa.String(64))),
        ("edge_ws_worker", sa.Column("address", sa.String(64))),
    )


def upgrade() -> None:
    """Add what is not there yet."""
    connection = op.get_bind()
    for table, column in _columns():
        if column.name not in {one["name"] for one in sa.inspect(connection).get_columns(table)}:
            op.add_column(table, column)
    indexes = {one["name"] for one in sa.inspect(connection).get_indexes("edge_ws_token")}
    if "edge_ws_token_old_secret" not in indexes:
        op.create_index("edge_ws_token_old_secret", "edge_ws_token", ["old_secret_hash"])


def downgrade() -> None:
    """Refuse, as the steps before."""
    raise NotImplementedError("edge-ws's migrations only go forward")
