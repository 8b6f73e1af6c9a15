"""Many rows in one statement: arrays on PostgreSQL, repetition elsewhere.

One round trip a row is what limits a busy gateway. A statement is built once, at import: SQLAlchemy takes as
long to build one as PostgreSQL to change dozens of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

PLACE = "place"
"""Where a row lies (PostgreSQL's ctid): what finds a row that is locked, or is to be, at once."""


class Tid(sa.types.UserDefinedType[str]):
    """PostgreSQL's type of a row's place."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return its name."""
        return "tid"


class _ArrayText(sa.types.TypeDecorator[Sequence[Any]]):
    """A list, sent as the text of an array.

    Drivers that put values into the statement themselves write a list as an expression for each element:
    the server then parses and plans thousands of them.
    """

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """Return PostgreSQL's text of the array."""
        if value is None:
            return None
        # But for its brackets it is JSON, unless something is escaped: PostgreSQL knows no \n.
        text = orjson.dumps(value).decode()
        return "{" + (",".join(map(_element, value)) if "\\" in text else text[1:-1]) + "}"


def _element(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "NULL" if value is None else str(value)


def _array(kind: sa.types.TypeEngine[Any], name: str) -> sa.Cast[Any]:
    # Strings without their length: to hold each to it costs time, and the column does it anyway.
    element = sa.Text() if isinstance(kind, sa.String) else kind
    return sa.cast(sa.bindparam(name, type_=_ArrayText), ARRAY(element))


def one_of(dialect: str, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Return the condition that the column has one of the values of the parameter `name`, a list."""
    if dialect != "postgresql":
        return column.in_(sa.bindparam(name, expanding=True))
    return column == sa.any_(_array(column.type, name))


def rows_of(name: str, column: str) -> sa.TableValuedAlias:
    """Return the parameter `name`, a list of strings, as a table of PostgreSQL's with that one column."""
    return sa.func.unnest(_array(sa.Text(), name)).table_valued(column).render_derived()


def place_of(dialect: str, table: sa.Table) -> sa.ColumnElement[Any]:
    """Return where a row of the table lies; NULL where a database does not tell."""
    kinds: dict[str, tuple[str, sa.types.TypeEngine[Any]]] = {
        "postgresql": ("ctid", Tid()),
        "sqlite": ("rowid", sa.Integer()),
    }
    if dialect not in kinds:
        return sa.null()
    place: sa.ColumnClause[Any] = sa.column(*kinds[dialect])
    place.table = table
    return place


def _values(table: sa.Table, names: Sequence[str]) -> sa.TableValuedAlias:
    """Return the rows given as a table of PostgreSQL's, with the types of those columns of `table`."""
    kinds = {name: Tid() if name == PLACE else table.c[name].type for name in names}
    arrays = [_array(kind, f"{table.name}_{name}") for name, kind in kinds.items()]
    columns = [sa.column(name, kind) for name, kind in kinds.items()]
    return sa.func.unnest(*arrays).table_valued(*columns).render_derived(name="given")


class Write(ABC):
    """A write of many rows, built once: over arrays for PostgreSQL, to be repeated elsewhere."""

    by_arrays: sa.Insert | sa.Update
    """What PostgreSQL is asked."""
    _by_row: sa.Insert | sa.Update

    def __init__(self, table: sa.Table, given: Sequence[str]) -> None:
        self._table, self._given = table, tuple(given)

    @abstractmethod
    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of `_by_row` for a row."""

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the parameters of `by_arrays` for these rows."""
        return {f"{self._table.name}_{name}": [row[name] for row in rows] for name in self._given}

    def run(
        self,
        connection: Connection,
        rows: Sequence[Mapping[str, Any]],
        **parameters: Any,  # noqa: ANN401
    ) -> None:
        """Write the rows; `parameters` are for the expressions that all of them share."""
        if not rows:
            return
        if connection.dialect.name == "postgresql":
            connection.execute(self.by_arrays, {**self.arrays(rows), **parameters})
        else:
            connection.execute(self._by_row, [{**self._row(row), **parameters} for row in rows])


class Both:
    """Two writes to two tables: in one statement where the database can, for each is a round trip."""

    def __init__(self, first: Write, second: Write) -> None:
        self._first, self._second = first, second
        self._together = second.by_arrays.add_cte(first.by_arrays.cte("first"))

    def run(
        self,
        connection: Connection,
        first: Sequence[Mapping[str, Any]],
        second: Sequence[Mapping[str, Any]],
        **parameters: Any,  # noqa: ANN401
    ) -> None:
        """Write the rows of each; `parameters` are for the first's expressions."""
        if first and second and connection.dialect.name == "postgresql":
            values = {**self._first.arrays(first), **self._second.arrays(second), **parameters}
            connection.execute(self._together, values)
        else:
            self._first.run(connection, first, **parameters)
            self._second.run(connection, second)


class InsertMany(Write):
    """Inserts rows with the same columns."""

    def __init__(self, table: sa.Table, names: Sequence[str], **same: Any) -> None:  # noqa: ANN401
        """Build it.

        Args:
            table: where to.
            names: columns that each row gives.
            same: further columns with the value or expression that all rows get.
        """
        super().__init__(table, names)
        given = _values(table, self._given)
        shared = [
            value if isinstance(value, sa.ColumnElement) else sa.literal(value) for value in same.values()
        ]
        query = sa.select(*(given.c[name] for name in self._given), *shared)
        self.by_arrays = table.insert().from_select([*self._given, *same], query)
        self._by_row = table.insert().values(**{name: sa.bindparam(name) for name in self._given}, **same)

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: row[name] for name in self._given}


class UpdateMany(Write):
    """Changes one row of a table for each row given."""

    def __init__(
        self,
        table: sa.Table,
        key: Sequence[str],
        names: Sequence[str],
        *,
        by_place: bool = False,
        **same: Any,  # noqa: ANN401
    ) -> None:
        """Build it.

        Args:
            table: the table.
            key: the columns by which a row is found.
            names: columns that each row gives; they are set to that, but for those in `same`.
            by_place: find rows by PLACE, which each gives too, where the database knows it.
            same: columns with a value or an expression, or a function that makes one of what a row gives.
        """
        super().__init__(table, (*((PLACE,) if by_place else key), *names))
        self._key, self._names = tuple(key), tuple(names)
        given = _values(table, self._given)
        place = place_of("postgresql", table)
        found = given.c[PLACE] == place if by_place else _matches(table, given.c, self._key)
        self.by_arrays = table.update().where(found).values(**_settings(given.c, self._names, same))
        new: dict[str, sa.ColumnElement[Any]] = {
            name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in self._names
        }
        keys = {name: sa.bindparam(f"key_{name}", type_=table.c[name].type) for name in self._key}
        self._by_row = (
            table.update().where(_matches(table, keys, self._key)).values(**_settings(new, self._names, same))
        )

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        keys = {f"key_{name}": row[name] for name in self._key}
        return {**keys, **{f"new_{name}": row[name] for name in self._names}}


_Columns = Mapping[str, sa.ColumnElement[Any]] | sa.ColumnCollection[str, Any]


def _matches(table: sa.Table, given: _Columns, key: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == given[name] for name in key))


def _settings(given: _Columns, names: Sequence[str], same: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: given[name] for name in names if name not in same}
    return {**plain, **{name: value(given) if callable(value) else value for name, value in same.items()}}
