"""Airflow's plugin: mounts the gateway in the api-server and puts the operators' page into Airflow's own.

Both only if the configuration says so. Every Airflow process imports this, each task's too: of ours it
imports no more than the errors. Only an api-server asks for `fastapi_apps` and `react_apps` (and `airflow
plugins`, to print them), and only then more is imported.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from edge_ws.errors import EdgeWsError

log = logging.getLogger(__name__)


class EdgeWsPlugin(AirflowPlugin):
    """What Airflow finds under the entry point `airflow.plugins`."""

    name = "edge_ws"

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The gateway's shell, if `[edge_ws] api_enabled` is set; nothing runs before its lifespan does.

        gunicorn asks in the process from which it forks its workers.
        """
        try:
            from edge_ws.provider.mount import mounts  # noqa: PLC0415 - see the module's docstring
        except EdgeWsError as error:
            log.error("edge-ws serves no gateway: %s", error)  # noqa: TRY400 - a sentence, no traceback
            return []
        return mounts()

    @cached_property
    def react_apps(self) -> list[dict[str, Any]]:
        """The operators' page, and the verdict on a task instance's own page."""
        from edge_ws.provider.page import react_apps  # noqa: PLC0415 - see the module's docstring

        return react_apps()
