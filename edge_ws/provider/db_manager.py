"""Lets `airflow db migrate`, `check-migrations` and `reset` do their work on our tables too.

Knows Airflow's manager interface; what is migrated and checked is `store.schema`'s business.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import sqlalchemy as sa
from airflow.utils.db_manager import BaseDBManager
from sqlalchemy.engine import Connection, Engine

from edge_ws.errors import EdgeWsError
from edge_ws.resources import migrations_dir
from edge_ws.store import schema
from edge_ws.store.tables import OWN_TABLES, VERSION_TABLE


def _own_metadata() -> sa.MetaData:
    metadata = sa.MetaData()
    for table in OWN_TABLES:
        table.to_metadata(metadata)
    return metadata


class EdgeWsDBManager(BaseDBManager):
    """Runs our chain whatever Airflow asks for: the base class would make the tables without it.

    Declares only `edge_ws_*`: edge3's tables belong to edge3's manager, wherever it is installed.
    """

    metadata = _own_metadata()
    version_table_name = VERSION_TABLE
    migration_dir = str(migrations_dir())
    # The base class wants a path; Alembic takes a missing file for an empty one.
    alembic_file = str(migrations_dir() / "alembic.ini")
    supports_table_dropping = True
    revision_heads_map: ClassVar[dict[str, str]] = {}

    def initdb(self, use_migration_files: bool = False) -> None:  # noqa: ARG002
        """Bring any database, new or old, to this release's tables."""
        self._migrate()

    def upgradedb(
        self,
        to_revision: str | None = None,
        from_revision: str | None = None,
        show_sql_only: bool = False,
        use_migration_files: bool = False,  # noqa: ARG002
    ) -> None:
        """As `initdb`; nothing but the whole chain, on a live database."""
        if to_revision or from_revision or show_sql_only:
            raise SystemExit(
                "edge-ws's migrations look at the tables they find: no revision can be chosen and no SQL"
                " written in advance; run `airflow db migrate` or `edge-ws db migrate`"
            )
        self._migrate()

    def create_db_from_orm(self) -> None:
        """As `initdb`."""
        self._migrate()

    def downgrade(self, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        """Refuse: an older release works on a newer one's tables."""
        raise SystemExit(
            "edge-ws's migrations only go forward; an older edge-ws works on these tables as they are"
        )

    def check_migration(self) -> bool:
        """Tell whether the tables have what this release needs; Airflow's pods wait until they have."""
        try:
            schema.check(self._engine())
        except EdgeWsError as error:
            self.log.warning("%s", error)
            return False
        return True

    def drop_tables(self, connection: Connection) -> None:
        """Take everything of ours out, as `schema.drop` does; edge3's manager drops its own tables."""
        schema.drop(connection)

    def _migrate(self) -> None:
        # An open transaction of the session would make our DDL wait for its own process.
        self.session.commit()
        try:
            schema.migrate(self._engine())
        except EdgeWsError as error:
            # Airflow's commands have no other way to end without a traceback.
            raise SystemExit(str(error)) from error

    def _engine(self) -> Engine:
        return self.session.get_bind().engine
