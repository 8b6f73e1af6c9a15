"""Many rows in one statement: arrays on PostgreSQL, repetition elsewhere.

One round trip a row is what limits a busy gateway. A statement is built once, at import: SQLAlchemy takes as
long to build one as PostgreSQL to change dozens of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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


def _arrays(table: sa.Table, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{table.name}_{name}": [row[name] for row in rows] for name in names}


class Write(Protocol):
    """A write of many rows."""

    @property
    def by_arrays(self) -> sa.Insert | sa.Update:
        """The statement for PostgreSQL."""

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return its parameters for these rows."""

    def run(
        self,
        connection: Connection,
        rows: Sequence[Mapping[str, Any]],
        **parameters: Any,  # noqa: ANN401
    ) -> None:
        """Write the rows."""


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


class InsertMany:
    """Inserts rows with the same columns."""

    def __init__(self, table: sa.Table, names: Sequence[str], **same: Any) -> None:  # noqa: ANN401
        """Build it.

        Args:
            table: where to.
            names: columns that each row gives.
            same: further columns with the value or expression that all rows get.
        """
        self._table, self._names = table, tuple(names)
        given = _values(table, self._names)
        shared = [
            value if isinstance(value, sa.ColumnElement) else sa.literal(value) for value in same.values()
        ]
        query = sa.select(*(given.c[name] for name in self._names), *shared)
        self.by_arrays: sa.Insert = table.insert().from_select([*self._names, *same], query)
        self._by_row = table.insert().values(**{name: sa.bindparam(name) for name in self._names}, **same)

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the parameters of `by_arrays` for these rows."""
        return _arrays(self._table, self._names, rows)

    def run(
        self,
        connection: Connection,
        rows: Sequence[Mapping[str, Any]],
        **parameters: Any,  # noqa: ANN401
    ) -> None:
        """Insert the rows; `parameters` are for the expressions in `same`."""
        if not rows:
            return
        if connection.dialect.name == "postgresql":
            connection.execute(self.by_arrays, {**self.arrays(rows), **parameters})
        else:
            own = [{name: row[name] for name in self._names} for row in rows]
            connection.execute(self._by_row, [{**row, **parameters} for row in own])


class UpdateMany:
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
            names: columns to set to what each row gives; a callable in `same` of that name makes an
                expression of it.
            by_place: find rows by PLACE, which each gives too, where the database knows it.
            same: further columns with a value or an expression; as a function it is given the row's values.
        """
        self._table, self._names, self._key = table, tuple(names), tuple(key)
        finders = (PLACE,) if by_place else self._key
        self._given = (*finders, *self._names)
        given = _values(table, self._given)
        place = place_of("postgresql", table)
        found = given.c[PLACE] == place if by_place else _matches(table, given.c, self._key)
        self.by_arrays: sa.Update = (
            table.update().where(found).values(**_settings(given.c, self._names, same))
        )
        new: dict[str, sa.ColumnElement[Any]] = {
            name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in self._names
        }
        keys = {name: sa.bindparam(f"key_{name}", type_=table.c[name].type) for name in self._key}
        self._by_row = (
            table.update().where(_matches(table, keys, self._key)).values(**_settings(new, self._names, same))
        )

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the parameters of `by_arrays` for these rows."""
        return _arrays(self._table, self._given, rows)

    def run(
        self,
        connection: Connection,
        rows: Sequence[Mapping[str, Any]],
        **parameters: Any,  # noqa: ANN401
    ) -> None:
        """Change the rows; `parameters` are for the expressions in `same`."""
        if not rows:
            return
        if connection.dialect.name == "postgresql":
            connection.execute(self.by_arrays, {**self.arrays(rows), **parameters})
            return
        each = [
            {
                **{f"key_{name}": row[name] for name in self._key},
                **{f"new_{name}": row[name] for name in self._names},
                **parameters,
            }
            for row in rows
        ]
        connection.execute(self._by_row, each)


_Columns = Mapping[str, sa.ColumnElement[Any]] | sa.ColumnCollection[str, Any]


def _matches(table: sa.Table, given: _Columns, key: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == given[name] for name in key))


def _settings(given: _Columns, names: Sequence[str], same: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: given[name] for name in names if name not in same}
    return {**plain, **{name: value(given) if callable(value) else value for name, value in same.items()}}
