"""Asks over plain HTTP who answers at an address, when a WebSocket was answered by somebody unknown."""

from __future__ import annotations

from enum import Enum

from edge_ws.protocol.http import ERROR_HEADER, JSON
from edge_ws.worker.network import Network, health_url, http_client
from edge_ws.worker.transports.failures import is_temporary

PROBE_WITHIN_S = 10.0


class Answer(Enum):
    """Who is there."""

    GATEWAY = "gateway"
    """Ours: something on the way does not let WebSockets pass."""
    STRANGER = "stranger"
    """A web server that is not ours, or Airflow without our plugin."""
    NOBODY = "nobody"
    """No answer, or one that says to come back."""


async def who_answers(network: Network) -> Answer:
    """Return who answers at a gateway's health address."""
    # Imported here: a worker that gets its WebSocket, as nearly all do, never pays for it.
    import httpx2  # noqa: PLC0415

    try:
        async with http_client(network, timeout=PROBE_WITHIN_S) as client:
            response = await client.get(health_url(network.base_url))
    except (httpx2.HTTPError, OSError):
        return Answer.NOBODY
    if ERROR_HEADER in response.headers or response.headers.get("content-type") == JSON:
        ours = ERROR_HEADER in response.headers or b'"edge_ws"' in response.content
        return Answer.GATEWAY if ours else Answer.STRANGER
    return Answer.NOBODY if is_temporary(response.status_code) else Answer.STRANGER
