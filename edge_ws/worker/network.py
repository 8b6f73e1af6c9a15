"""Every address the daemon uses, made from the one it is given, and whom it trusts there.

Opens no connection.
"""

from __future__ import annotations

import ssl

PREFIX = "/edge-ws"
"""Where the centre answers, below Airflow's base URL (plugin and standalone alike)."""


def ws_url(base_url: str) -> str:
    """Return the WebSocket endpoint below Airflow's base URL (http or https, any sub-path)."""
    # "http" and "https" differ from "ws" and "wss" in their front only.
    return "ws" + base_url.removeprefix("http").rstrip("/") + f"{PREFIX}/v1/ws"


def health_url(base_url: str) -> str:
    """Return where the gateway says how it is."""
    return base_url.rstrip("/") + f"{PREFIX}/health"


def execution_api_url(base_url: str) -> str:
    """Return where tasks find Airflow's Execution API, unless the centre says otherwise in `welcome`."""
    return base_url.rstrip("/") + "/execution/"


def ssl_context(base_url: str) -> ssl.SSLContext | None:
    """Return the context for all connections to that URL: the system's trust store. None for plain http."""
    return ssl.create_default_context() if base_url.startswith("https:") else None
