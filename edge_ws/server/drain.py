"""A gateway leaves: its workers are sent away by turns, and what is still here in the end is closed."""

from __future__ import annotations

import logging

import anyio

from edge_ws.protocol.frames import Drain
from edge_ws.protocol.session import Close, CloseCode
from edge_ws.server.hub import Hub, Link
from edge_ws.server.longpoll import PollLink

log = logging.getLogger(__name__)

AWAY_PER_S = 100.0
"""Workers sent away each second; all at once would crowd the gateways that they come to."""
LOOK_S = 0.1
CLOSE_WITHIN_S = 2.0
"""For the last connections, once they are told to close."""
POLLS_AGAIN_S = 1.0
"""A worker that polls is here again within this time, or has left."""


async def send_away(hub: Hub, within_s: float) -> None:
    """Tell each worker when to connect anew; return when all have left, or `within_s` is over."""
    told: set[Link] = set()
    # A worker needs time to open the new connection: the last one's turn comes by half of it.
    per_s = max(AWAY_PER_S, 2.0 * len(hub) / max(within_s, 0.1))
    begun = anyio.current_time()
    log.info("Draining; workers to be sent elsewhere: %d", len(hub))
    with anyio.move_on_after(within_s):
        while True:
            # Anew each time: one may just have been let in.
            for link in [one for one in hub.links() if one not in told]:
                turn_s = len(told) / per_s - (anyio.current_time() - begun)
                link.send(Drain(come_back_s=max(0.0, turn_s)))
                told.add(link)
            if not _connected(hub):
                log.info("Drained in %.1f s", anyio.current_time() - begun)
                return
            await anyio.sleep(LOOK_S)
    left = _connected(hub)
    log.warning("Not drained within %g s; workers whose connections are closed: %d", within_s, len(left))
    for link in left:
        link.close(Close(CloseCode.GOING_AWAY, "the gateway is leaving"))
    with anyio.move_on_after(CLOSE_WITHIN_S):
        while True:
            if not _connected(hub):
                return
            await anyio.sleep(LOOK_S)


def _connected(hub: Hub) -> list[Link]:
    """Return those that have not left yet; a worker that polls just comes no more."""
    now = anyio.current_time()
    return [
        link
        for link in hub.links()
        if not isinstance(link, PollLink) or link.is_waited_on or now - link.heard_at < POLLS_AGAIN_S
    ]
