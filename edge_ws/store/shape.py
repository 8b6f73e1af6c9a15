"""Tells what a database's tables lack against those that are wanted.

Knows nothing of migrations: more tables and more columns than wanted are fine.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine.reflection import Inspector


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
