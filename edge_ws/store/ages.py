"""How long ago a time of edge3's columns was, by the database's clock."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class age_s(FunctionElement[float]):  # noqa: N801 - used as a SQL function
    """Seconds since that time by the database's clock; NULL for none."""

    type = sa.Double()
    inherit_cache = True


@compiles(age_s, "postgresql")
def _age_postgresql(element: age_s, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    return (
        f"CAST(extract(epoch FROM clock_timestamp() - {compiler.process(element.clauses, **kw)}) AS float8)"
    )


@compiles(age_s, "sqlite")
def _age_sqlite(element: age_s, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    return f"((julianday('now') - julianday({compiler.process(element.clauses, **kw)})) * 86400.0)"


@compiles(age_s, "mysql")
def _age_mysql(element: age_s, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    time = compiler.process(element.clauses, **kw)
    return f"(timestampdiff(microsecond, {time}, utc_timestamp(6)) / 1e6)"
