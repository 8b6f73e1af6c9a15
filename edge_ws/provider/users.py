"""Airflow's users and their rights, for `v1/admin/`: `server.ports.Users`, implemented.

Which rights count is decided here; how Airflow is asked for them is `compat`'s.
"""

from __future__ import annotations

import logging

from edge_ws.errors import EdgeWsError
from edge_ws.provider import compat
from edge_ws.server.ports import User

log = logging.getLogger(__name__)


class AirflowUsers:
    """Users as Airflow's auth manager, whichever it is, knows them."""

    def user(self, token: str) -> User:
        """Return the user of that token.

        Raises:
            RefusedError: the token is not valid.
            UnreachableError: the database is away.
            EdgeWsError: the auth manager failed.
        """
        try:
            found = compat.airflow_user(token)
            return User(
                name=str(found.get_name()),
                may_read=compat.may_see_jobs(found),
                may_manage=compat.may_edit_pools(found),
                read_right="Airflow's right to see jobs, which the roles Viewer, User, Op and Admin have",
                manage_right="Airflow's right to edit pools, which the roles Op and Admin have",
            )
        except EdgeWsError:
            raise
        except Exception as error:
            # A third party's code and its network, whatever that raises: not to be told to strangers.
            log.exception("Airflow's auth manager failed")
            raise EdgeWsError("Airflow's auth manager failed; the gateway's log says more") from error
