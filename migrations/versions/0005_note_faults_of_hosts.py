"""Note which workers could not start a job, so that it goes to others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MYSQL = ("mysql", "mariadb")
# As in the tables whose values these are: only so can they be compared.
ID = sa.String(250).with_variant(mysql.VARCHAR(250, collation="utf8mb3_bin"), *MYSQL)
UUID = sa.String(36).with_variant(mysql.VARCHAR(36, charset="ascii", collation="ascii_bin"), *MYSQL)
TIME = sa.TIMESTAMP(timezone=True).with_variant(mysql.TIMESTAMP(fsp=6), *MYSQL)
metadata = sa.MetaData()

sa.Table(
    "edge_ws_fault",
    metadata,
    sa.Column("dag_id", ID, primary_key=True),
    sa.Column("task_id", ID, primary_key=True),
    sa.Column("run_id", ID, primary_key=True),
    sa.Column("map_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("try_number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("task_instance_id", UUID, primary_key=True),
    sa.Column("worker", sa.String(64), primary_key=True),
    sa.Column("queued_dttm", TIME, nullable=True),
    sa.Column("reason", sa.String(1000), nullable=False),
    sa.Column("noted_at", sa.Double, nullable=False),
)


def upgrade() -> None:
    """Add what is not there yet."""
    connection = op.get_bind()
    for table in metadata.tables.values():
        table.create(connection, checkfirst=True)


def downgrade() -> None:
    """Refuse, as the steps before."""
    raise NotImplementedError("edge-ws's migrations only go forward")
