"""Tells what a database's tables lack against those that are wanted.

Knows nothing of migrations: more tables and more columns than wanted are fine.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.engine.reflection import Inspector

from edge_ws.store.tables import JOB_INDEXES, TRIGGERS, edge_job


def differences(inspector: Inspector, tables: Iterable[sa.Table]) -> list[str]:
    """Return what keeps statements made for `tables` from working; empty: nothing.

    Each entry is a phrase such as "edge_job lacks the column edge_ws_claim".
    """
    wanted = {table.name: table for table in tables}
    columns = inspector.get_multi_columns(filter_names=list(wanted))
    keys = inspector.get_multi_pk_constraint(filter_names=list(wanted))
    found: list[str] = []
    for name, table in wanted.items():
        if (None, name) not in columns:
            found.append(f"there is no table {name}")
            continue
        there = {column["name"]: column for column in columns[None, name]}
        found += [
            f"{name} lacks the column {column.name}" for column in table.columns if column.name not in there
        ]
        found += [
            f"{name} wants a value for the unknown column {column['name']}"
            for column in there.values()
            if column["name"] not in table.columns and not column["nullable"] and column["default"] is None
        ]
        if set(keys[None, name]["constrained_columns"]) != set(table.primary_key.columns.keys()):
            found.append(f"{name} has another primary key")
    return found


def lost_aids(connection: Connection) -> list[str]:
    """Return which of our indexes and triggers edge3's tables lack, as phrases.

    A column that edge3 drops and adds again takes them with it.
    """
    inspector = sa.inspect(connection)
    if not inspector.has_table(edge_job.name):
        return []
    there = {index["name"] for index in inspector.get_indexes(edge_job.name)}
    found = [f"{edge_job.name} lacks the index {name}" for name in JOB_INDEXES if name not in there]
    if connection.dialect.name == "postgresql":
        named = sa.text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
        fired = set(connection.scalars(named))
        found += [
            f"{table} lacks the trigger {name}" for name, table in TRIGGERS.items() if name not in fired
        ]
    return found
