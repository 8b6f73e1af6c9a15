"""Airflow's audit log: a row of its table `log` for what an operator asks, and for what is refused.

Written as Airflow's own command line and API do it, without Airflow's models, whose import takes seconds.
"""

from __future__ import annotations

import json
import logging
import os
import pwd
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from edge_ws.server.ports import AuditEntry
from edge_ws.store.database import Database

log = logging.getLogger(__name__)

LONGEST_EVENT = 60
LONGEST_OWNER = 500
_log = sa.table(
    "log",
    sa.column("dttm", sa.DateTime(timezone=True)),
    sa.column("event", sa.String),
    sa.column("owner", sa.String),
    sa.column("owner_display_name", sa.String),
    sa.column("extra", sa.Text),
)


class AirflowAudit:
    """The table in one database."""

    def __init__(self, engine: Engine, *, by_command_line: bool = False) -> None:
        """Take the engine; on the command line whoever runs this process is the operator."""
        self._database = Database(engine)
        self._prefix = "cli_" if by_command_line else ""
        self._more = {"host_name": socket.gethostname()} if by_command_line else {}

    def record(self, entries: Sequence[AuditEntry]) -> None:
        """Write them down; see `server.ports.Audit`."""
        now = datetime.now(UTC)
        rows = []
        for entry in entries:
            owner = (entry.user or operating_user())[:LONGEST_OWNER]
            rows.append(
                {
                    "dttm": now,
                    "event": f"{self._prefix}edge_ws_{entry.event.replace('-', '_')}"[:LONGEST_EVENT],
                    "owner": owner,
                    "owner_display_name": owner,
                    "extra": json.dumps({**entry.extra, **self._more}),
                }
            )
        if not rows:
            return
        with self._database.write() as connection:
            if sa.inspect(connection).has_table("log"):
                connection.execute(_log.insert(), rows)
                return
        # Airflow's command line says no more of this: these are no tables that an Airflow uses.
        log.debug("This database has no audit log of Airflow's: what is changed is not written down")


def operating_user() -> str:
    """Return the name of the user who runs this process, of the account and not of a variable."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
