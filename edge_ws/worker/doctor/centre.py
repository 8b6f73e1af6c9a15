"""The checks of the centre, over HTTP and a WebSocket: who answers, whom it takes us for, what passes.

Registers no worker: one of the same name that runs meanwhile is not disturbed.
"""

# ruff: noqa: PLC0415 - httpx2 is imported only when called, as in the worker

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from edge_ws.errors import EdgeWsError, RefusedError, UnreachableError
from edge_ws.protocol.http import ERROR_HEADER, JSON, read_refusal
from edge_ws.protocol.ids import OLDEST_PROTOCOL, PROTOCOL
from edge_ws.worker import network
from edge_ws.worker.credential import obtain_token
from edge_ws.worker.doctor.context import Context, Found, failed, failed_by, ok, warning
from edge_ws.worker.network import Network
from edge_ws.worker.transports.base import refused_by
from edge_ws.worker.transports.failures import failure, no_certificate, proxy_refused, redirect_advice
from edge_ws.worker.transports.websocket import WebSocketTransport

ROUND_TRIPS = 5
SLOW_S = 1.0
SKEW_S = 30.0
PONG_WITHIN_S = 5.0
PASSES_WITHIN_S = 5.0
"""For an answer to a message whose size is tried."""
SMALLEST = 512
LARGEST = 128 * 1024
"""Bytes of the largest message that a worker usually sends."""
_Passes = Callable[[Context, int], Awaitable[str | None]]
_NO_GATEWAY = (
    "--url is Airflow's base URL; at the centre [edge_ws] api_enabled must be True (restart the api-server "
    "after a change)"
)


async def gateway(context: Context) -> Found:
    """Ask the gateway how it is."""
    try:
        context.health = await _get(context, network.health_url(context.config.url))
    except EdgeWsError as error:
        return failed_by(error, _NO_GATEWAY)
    if context.health.get("edge_ws") != "gateway":
        return failed(f"{context.config.url} is not edge-ws", _NO_GATEWAY)
    release = context.health.get("versions", {}).get("edge_ws", "of an unknown version")
    return ok(f"edge-ws {release} with {context.health.get('workers', 0)} workers")


async def token(context: Context) -> Found:
    """Ask the gateway whom it takes us for."""
    try:
        context.token = await obtain_token(context.config)
        sent_at = time.time()
        context.whoami = await _get(context, network.whoami_url(context.config.url))
        context.ahead_s = float(context.whoami["time"]) - (sent_at + time.time()) / 2
    except EdgeWsError as error:
        return failed_by(error)
    except (LookupError, TypeError, ValueError):
        return failed("the gateway does not say whom the token is for", "upgrade edge-ws at the centre")
    return _admitted(context)


def _admitted(context: Context) -> Found:
    """Judge as the gateway will judge the worker's greeting."""
    config, told = context.config, context.whoami
    queues, team = told.get("queues"), told.get("team")
    if (
        queues is not None
        and config.queues is not None
        and (foreign := sorted(set(config.queues) - set(queues)))
    ):
        return failed(
            f"it admits queues {', '.join(queues)}, not {', '.join(foreign)}",
            "change --queues, or make a token with them at the centre",
        )
    if team is not None and config.team not in {None, team}:
        return failed(
            f"it is for team {team}, not {config.team}", "change --team-name, or use that team's token"
        )
    served = config.queues or queues
    detail = f"taken for {told['worker']}, queues {', '.join(served) if served else 'all'}"
    return ok(detail if team is None else f"{detail}, team {team}")


async def clock(context: Context) -> Found:
    """Compare the clocks."""
    ahead_s = context.ahead_s
    if abs(ahead_s) > SKEW_S:
        side = "behind" if ahead_s > 0 else "ahead of"
        detail = f"this machine's clock is {abs(ahead_s):.0f} s {side} the centre's"
        return warning(detail, "set it (NTP): times in logs are wrong, and certificates may look out of date")
    return ok(f"{abs(ahead_s):.1f} s from the centre's")


async def protocol(context: Context) -> Found:
    """Compare the protocol's versions."""
    newest, oldest = context.health.get("protocol", 0), context.health.get("oldest_protocol", 0)
    detail = f"here {OLDEST_PROTOCOL} to {PROTOCOL}, centre {oldest} to {newest}"
    if newest < OLDEST_PROTOCOL:
        return failed(detail, "upgrade edge-ws at the centre")
    if oldest > PROTOCOL:
        return failed(detail, "upgrade edge-ws here")
    return ok(detail)


async def websocket(context: Context) -> Found:
    """Open a WebSocket, have its other end answer, and close it again before any greeting."""
    began = time.monotonic()
    try:
        async with WebSocketTransport(context.network).open(context.config.name, context.token) as channel:
            await channel.ping(PONG_WITHIN_S)
    except RefusedError as error:
        return failed_by(error)
    except UnreachableError as error:
        found = failed_by(error)
        if context.config.transport == "websocket":
            return failed(found.detail, found.advice or "use --transport auto")
        return warning(
            found.detail, "nothing: the worker uses long-poll. To be faster, have WebSockets allowed"
        )
    return ok(f"opens and passes frames both ways ({(time.monotonic() - began) * 1000:.0f} ms)")


async def held_poll(context: Context) -> Found:
    """Find out whether something on the way cuts a request that is not answered at once."""
    began = time.monotonic()
    url = f"{network.whoami_url(context.config.url)}?hold_s={context.hold_s:g}"
    try:
        await _get(context, url, answer_within_s=context.hold_s + 15.0)
    except EdgeWsError as error:
        cut_s = time.monotonic() - began
        why = failed_by(error).detail
        detail = f"a request is cut after {cut_s:.1f} s, not held for {context.hold_s:g} s: {why}"
        return warning(detail, "nothing: long-poll learns to ask more often")
    return ok(f"a request can be held for {context.hold_s:g} s")


async def message_size(context: Context) -> Found:
    """Find out how large a body, and a WebSocket's message, may be."""
    told = []
    for what, passes in (("HTTP bodies", _body_passes), ("WebSocket messages", _message_passes)):
        if await passes(context, SMALLEST) is not None:
            # Nothing passes at all: that is another check's.
            continue
        limit, why = await _largest(context, passes)
        if limit < LARGEST:
            told.append(f"{what} of more than about {limit} bytes do not pass: {why}")
    if told:
        return warning(
            "; ".join(told),
            "nothing for the worker, which says less at a time; but tasks' own large results do not pass "
            "either: have the limit raised",
        )
    return ok(f"messages of {LARGEST // 1024} KiB pass")


async def _largest(context: Context, passes: _Passes) -> tuple[int, str]:
    """Return the largest size that passes, to within a fifth, and what became of a larger one."""
    least, most, why = SMALLEST, LARGEST, ""
    size = most
    while True:
        fault = await passes(context, size)
        if fault is None:
            least = size
        else:
            most, why = size, fault
        if least == LARGEST or most - least <= max(SMALLEST, most // 5):
            return least, why
        # Downwards in large steps first: sizes that hang take time.
        size = max(SMALLEST, most // 4) if least == SMALLEST else (least + most) // 2


async def _body_passes(context: Context, size: int) -> str | None:
    """Send statements that say nothing, of that size; return why they did not arrive."""
    import httpx2

    url = network.send_url(context.config.url)
    try:
        async with context.client(answer_within_s=PASSES_WITHIN_S) as client:
            response = await client.post(url, content=_nothing(size), headers={"content-type": JSON})
    except (httpx2.HTTPError, OSError) as error:
        return str(failure(context.network, url, error))
    if response.status_code == 200 or ERROR_HEADER in response.headers:
        return None
    return f"HTTP status {response.status_code}"


async def _message_passes(context: Context, size: int) -> str | None:
    """Send a message that says nothing, of that size; return why it did not arrive."""
    try:
        async with WebSocketTransport(context.network).open(context.config.name, context.token) as channel:
            await channel.probe(_nothing(size), PASSES_WITHIN_S)
    except EdgeWsError as error:
        return str(error)
    return None


def _nothing(size: int) -> bytes:
    """Return an array of no frames, of that size."""
    return b"[" + b" " * (size - 2) + b"]"


async def round_trip(context: Context) -> Found:
    """Take the time of small requests on one connection."""
    taken: list[float] = []
    url = network.health_url(context.config.url)
    import httpx2

    try:
        async with context.client() as client:
            # The first one opens the connection.
            for _ in range(ROUND_TRIPS + 1):
                began = time.monotonic()
                await client.get(url)
                taken.append(time.monotonic() - began)
    except (httpx2.HTTPError, OSError) as error:
        return failed_by(failure(context.network, url, error))
    median_s = statistics.median(taken[1:])
    detail = f"{median_s * 1000:.0f} ms (median of {ROUND_TRIPS})"
    return warning(detail, "jobs start late by that time") if median_s > SLOW_S else ok(detail)


async def execution_api(context: Context) -> Found:
    """Ask Airflow's Execution API how it is; tasks speak to it, not to the gateway."""
    url = context.whoami.get("execution_api_url") or network.execution_api_url(context.config.url)
    advice = "tasks cannot run without it; at the centre see [edge_ws] execution_api_url"
    try:
        way = network.reach(context.config, url, context.environ)
        told = await _get(context, url.rstrip("/") + "/health", way=way)
    except EdgeWsError as error:
        return failed_by(error, advice)
    if told.get("status") != "healthy":
        return failed(f"{url} is not Airflow's Execution API", advice)
    if not (network.is_private(url) or context.config.allow_insecure):
        return warning(f"{url} answers by plain http", "tasks' secrets travel unencrypted; use https there")
    return ok(f"{url} answers{way.via}")


async def _get(
    context: Context, url: str, *, way: Network | None = None, answer_within_s: float = 10.0
) -> Mapping[str, Any]:
    """Return the JSON object at the URL.

    Raises:
        RefusedError: the gateway refused.
        UnreachableError: no answer, or none in JSON.
    """
    import httpx2

    used = way or context.network
    try:
        async with context.client(network=way, answer_within_s=answer_within_s) as client:
            response = await client.get(url)
    except httpx2.ProxyError as error:
        status = str(error).partition(" ")[0]
        if status.isdigit() and used.proxy is not None:
            raise proxy_refused(used, url, int(status)) from error
        raise failure(used, url, error) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        # httpx2 lets a TLS fault after the handshake pass as it is.
        raise failure(used, url, error) from error
    return _object(used, url, response)


def _object(way: Network, url: str, response: Any) -> Mapping[str, Any]:  # noqa: ANN401
    try:
        told = response.json()
    except ValueError:
        told = None
    if (code := response.headers.get(ERROR_HEADER)) is not None:
        told_by = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        raise refused_by(told_by, *read_refusal(code, response.content))
    if response.status_code == 407 and way.proxy is not None:
        raise proxy_refused(way, url, 407, wants=response.headers.get("proxy-authenticate"))
    if (fault := no_certificate(url, response.status_code, response.content)) is not None:
        raise fault
    status = f"{urlsplit(url)._replace(query='').geturl()} answered with HTTP status {response.status_code}"
    if response.is_redirect and (location := response.headers.get("location")) is not None:
        advice = redirect_advice(way.base_url, url, location)
        raise UnreachableError(f"{status}, a redirect to {location}; {advice}")
    if not response.is_success:
        raise UnreachableError(status)
    if not isinstance(told, dict):
        raise UnreachableError(f"{status}, but not with what is expected there")
    return told
