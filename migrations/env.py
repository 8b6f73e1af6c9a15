"""Alembic's entry: runs the chain on the connection that `edge_ws.store.schema` hands over.

Knows neither URL nor Airflow, opens nothing and leaves logging as it is.
"""

from __future__ import annotations

from alembic import context

from edge_ws.errors import UsageError
from edge_ws.store.tables import VERSION_TABLE

connection = context.config.attributes.get("connection")
if connection is None:
    # The steps look at the tables they find: SQL can't be written without a database, either.
    raise UsageError("edge-ws's migrations are run by `airflow db migrate` or `edge-ws db migrate`")

# The caller has begun the transaction (and holds the lock): Alembic commits nothing.
context.configure(connection=connection, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
