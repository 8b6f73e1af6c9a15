"""Many rows in one statement: arrays on PostgreSQL, prepared repetition elsewhere.

One round trip a row is what limits a busy gateway, and SQLAlchemy's own multi-row VALUES costs five times as
much of Python's time as an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection


def any_of(connection: Connection, column: sa.Column[Any], values: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that the column has one of the values."""
    if connection.dialect.name != "postgresql":
        return column.in_(values)
    return column == sa.any_(_array(column.type, values))


def _array(kind: sa.types.TypeEngine[Any], values: Sequence[Any]) -> sa.Cast[Any]:
    array: sa.types.TypeEngine[Any] = ARRAY(kind)
    return sa.cast(sa.bindparam(None, list(values), type_=array, unique=True), array)


def values_of(
    table: sa.Table, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> sa.TableValuedAlias:
    """Return the rows as a table of PostgreSQL's, with the types of those columns of `table`."""
    arrays = [_array(table.c[name].type, [row[name] for row in rows]) for name in names]
    columns = [sa.column(name, table.c[name].type) for name in names]
    return sa.func.unnest(*arrays).table_valued(*columns).render_derived(name="given")


def insert_many(
    connection: Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    **same: Any,  # noqa: ANN401 - any SQL expression or value
) -> None:
    """Insert the rows, which have the same columns; `same` gives further columns one value in all of them."""
    if not rows:
        return
    names = list(rows[0])
    if connection.dialect.name == "postgresql":
        given = values_of(table, names, rows)
        shared = [
            value if isinstance(value, sa.ColumnElement) else sa.literal(value) for value in same.values()
        ]
        query = sa.select(*(given.c[name] for name in names), *shared)
        connection.execute(table.insert().from_select([*names, *same], query))
        return
    statement = table.insert().values(**{name: sa.bindparam(name) for name in names}, **same)
    connection.execute(statement, [dict(row) for row in rows])


def update_many(
    connection: Connection,
    table: sa.Table,
    key: str | Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    **same: Any,  # noqa: ANN401 - any SQL expression or value
) -> None:
    """Update one row of `table` for each of `rows`.

    Args:
        connection: in a transaction.
        table: the table.
        key: the column (or columns) by which a row is found.
        rows: for each, the key and the columns to set; all with the same columns.
        same: columns that get the same value or expression in all of them.
    """
    if not rows:
        return
    keys = [key] if isinstance(key, str) else list(key)
    names = [name for name in rows[0] if name not in keys]
    if connection.dialect.name == "postgresql":
        given = values_of(table, [*keys, *names], rows)
        found = sa.and_(*(table.c[name] == given.c[name] for name in keys))
        connection.execute(
            table.update().where(found).values(**{name: given.c[name] for name in names}, **same)
        )
        return
    found = sa.and_(*(table.c[name] == sa.bindparam(f"key_{name}") for name in keys))
    statement = table.update().where(found)
    statement = statement.values(**{name: sa.bindparam(f"new_{name}") for name in names}, **same)
    parameters = [
        {**{f"key_{name}": row[name] for name in keys}, **{f"new_{name}": row[name] for name in names}}
        for row in rows
    ]
    connection.execute(statement, parameters)
