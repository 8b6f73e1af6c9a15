"""How Airflow's UI finds the operators' page: entries of its menu and of a task instance's page.

Airflow imports a bundle as a module and takes the component that it leaves under the entry's name. URLs are
relative: they lie below Airflow's base path, whatever that is.
"""

from __future__ import annotations

import logging
from typing import Any

from edge_ws.errors import UsageError
from edge_ws.provider import compat
from edge_ws.provider.config import shows_page

log = logging.getLogger(__name__)

_FILES = "edge-ws/page"


def react_apps() -> list[dict[str, Any]]:
    """Return what Airflow is to show: the page and the verdict on a task instance, or nothing."""
    try:
        if not shows_page(compat.conf):
            return []
    except UsageError as error:
        log.error("edge-ws shows no page: %s", error)  # noqa: TRY400 - a sentence, no traceback
        return []
    icons = {"icon": f"{_FILES}/icon.svg", "icon_dark_mode": f"{_FILES}/icon-dark.svg"}
    return [
        {
            "name": "Edge fleet",
            "bundle_url": f"{_FILES}/main.js",
            "destination": "nav",
            "category": "browse",
            "url_route": "edge-ws",
            **icons,
        },
        {
            "name": "Edge job",
            "bundle_url": f"{_FILES}/verdict.js",
            "destination": "task_instance",
            "url_route": "edge-ws-job",
            **icons,
        },
    ]
