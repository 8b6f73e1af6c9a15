"""The checks as data, in their order, each with what it needs; runs them one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from edge_ws.worker.doctor import centre, here, way
from edge_ws.worker.doctor.context import Context, Found, Look, Status


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    name: str
    look: Look
    needs: str | None = None
    """The check without whose success this one makes no sense."""
    is_slow: bool = False


CHECKS: tuple[Check, ...] = (
    Check("settings", way.settings),
    Check("dns", way.dns, "settings"),
    Check("proxy", way.by_proxy, "dns"),
    Check("tcp", way.tcp, "proxy"),
    Check("tls", way.tls, "tcp"),
    Check("gateway", centre.gateway, "tls"),
    Check("token", centre.token, "gateway"),
    Check("clock", centre.clock, "token"),
    Check("protocol", centre.protocol, "gateway"),
    Check("websocket", centre.websocket, "token"),
    Check("held_poll", centre.held_poll, "token", is_slow=True),
    Check("message_size", centre.message_size, "token"),
    Check("round_trip", centre.round_trip, "gateway"),
    Check("execution_api", centre.execution_api, "gateway"),
    Check("versions", here.versions),
    Check("dag_bundles", here.dag_bundles),
    Check("disk", here.disk),
)


async def examine(context: Context, checks: Sequence[Check] = CHECKS) -> AsyncIterator[tuple[str, Found]]:
    """Yield each check's name and what it found, as soon as it is known."""
    missing: set[str] = set()
    for check in checks:
        if check.needs in missing:
            found = Found(Status.SKIPPED, f"needs {check.needs}")
        elif check.is_slow and context.is_quick:
            found = Found(Status.SKIPPED, "left out by --quick")
        else:
            found = await check.look(context)
        if found.status in {Status.FAILED, Status.SKIPPED}:
            missing.add(check.name)
        yield check.name, found
