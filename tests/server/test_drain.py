"""Workers are sent away by turns."""

from __future__ import annotations

import time

import anyio
import pytest

from edge_ws.protocol.frames import Drain, Timers
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import CloseCode, ServerSession
from edge_ws.server.app import send_away
from edge_ws.server.hub import Hub, Link
from edge_ws.server.longpoll import PollLink
from edge_ws.store.records import Principal
from tests.support.waiting import until


def hub_of(*links: Link) -> Hub:
    hub = Hub(lambda: None, lambda _: None)
    for link in links:
        hub.add(link)
    return hub


def websockets(count: int) -> list[Link]:
    now = time.monotonic()
    return [
        Link(Principal(worker=WorkerName(f"w{number}")), ServerSession(now), "websocket")
        for number in range(count)
    ]


def turns(links: list[Link]) -> list[float]:
    (frames, *_) = ([frame for link in links for frame in link.outgoing],)
    assert all(isinstance(frame, Drain) for frame in frames)
    assert len(frames) == len(links)
    return [frame.come_back_s for frame in frames if isinstance(frame, Drain)]


def test_nobody_to_send_away() -> None:
    begun = time.monotonic()
    anyio.run(send_away, hub_of(), 30.0)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    ("count", "within_s", "last_s"),
    [(200, 30.0, 2.0), (10_000, 30.0, 15.0)],
    ids=["a hundred each second", "the last one's turn comes by half of the time"],
)
def test_each_has_a_turn(count: int, within_s: float, last_s: float) -> None:
    links = websockets(count)
    hub = hub_of(*links)

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_away, hub, within_s)
            await until(lambda: links[-1].outgoing)
            for link in links:
                hub.remove(link)

    anyio.run(scenario)
    told = turns(links)
    assert told[0] == pytest.approx(0, abs=0.01)
    # Counted from the moment at which each is told.
    assert told == pytest.approx([last_s * number / count for number in range(count)], abs=0.5)


def test_one_that_comes_late_is_told_too_and_all_are_waited_for() -> None:
    early, late = websockets(2)
    hub = hub_of(early)

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_away, hub, 30.0)
            await until(lambda: early.outgoing)
            hub.add(late)
            await until(lambda: late.outgoing)
            assert early.closing is None
            assert late.closing is None
            hub.remove(early)
            hub.remove(late)

    anyio.run(scenario)


def test_who_stays_is_closed() -> None:
    (link,) = websockets(1)
    hub = hub_of(link)

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_away, hub, 0.2)
            await until(lambda: link.closing is not None)
            hub.remove(link)

    anyio.run(scenario)
    assert link.closing is not None
    assert link.closing.code is CloseCode.GOING_AWAY


def test_a_worker_that_polls_has_left_when_it_comes_no_more() -> None:
    async def scenario() -> None:
        link = PollLink(Principal(worker=WorkerName("w1")), "secret", Timers())
        hub = hub_of(link)
        held = link.open_poll()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_away, hub, 30.0)
            await held
            assert isinstance(link.outgoing[0], Drain)
            link.close_poll(held)
            left_at = time.monotonic()
        assert 0.5 < time.monotonic() - left_at < 5
        assert link.closing is None

    anyio.run(scenario)
