"""No exception of one item, and none of a loop, ends a gateway; what cannot go on closes its connections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed

from edge_ws.errors import EdgeWsError
from edge_ws.guard import LEFT_ALONE, FaultGuard, LeftAlone, apart
from edge_ws.protocol.frames import Accept, Ack, Finished, Go, Log, LogAck, Offer, Status, Timers, Wish
from edge_ws.server.config import GatewaySettings
from edge_ws.server.worker_log import LINES, WHILE_S, WorkerLog
from edge_ws.store.dispatch import DispatchStore
from edge_ws.store.records import Claimed
from edge_ws.store.store import Store
from tests.support.gateway import connected, make_token, serving
from tests.support.rows import enqueue, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


def _faulty(engine: sa.Engine, faults: dict[str, list[Exception]]) -> Store:
    """Return the real store, some verbs of which fail before they work."""
    store = Store(engine)

    def failing(verb: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            if faults.get(verb):
                raise faults[verb].pop()
            return real(*given, **named)

        return run

    for role in vars(store).values():
        for verb in VERBS:
            if hasattr(role, verb):
                setattr(role, verb, failing(verb, getattr(role, verb)))
    return store


VERBS = (
    "new_wishes",
    "candidates",
    "claim",
    "take",
    "append_logs",
    "note_applied",
    "beat",
    "expire_offers",
    "unsettled",
    "tokens_by_id",
    "open_ids",
    "repair",
    "mark_silent",
    "purge",
    "forget_workers",
    "logs_to_move",
    "begin_move",
    "logs_to_show",
)
"""Of every loop of a gateway."""
RARE = {"purge", "forget_workers", "open_ids", "note_applied"}
"""Not called twice in so short a time."""


async def test_every_loop_goes_on_after_a_fault(
    sqlite_engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    # What the fault says may come from a worker.
    faults = {verb: [ValueError(f"{verb}\r\n\x1b[2J" + "x" * 1000) for _ in range(2)] for verb in VERBS}
    of_greeting_too = {"tokens_by_id": faults.pop("tokens_by_id")}
    store = _faulty(sqlite_engine, faults)
    settings = GatewaySettings(
        hostname="test",
        timers=Timers(heartbeat_s=1.0, offer_lease_s=0.5),
        backup_scan_s=0.3,
        move_lease_s=0.3,
    )
    with serving(store, settings) as gateway:
        token = make_token(store)
        async with connected(gateway, token) as peer:
            faults.update(of_greeting_too)
            enqueue(sqlite_engine, new_job())
            claim, has_log = None, False
            with anyio.fail_after(60):
                while not gateway.logs.files:
                    with anyio.move_on_after(0.3):
                        while not has_log:
                            frame = await peer.receive()
                            claim = frame.claim if isinstance(frame, Offer) else claim
                            has_log = isinstance(frame, LogAck)
                    # What was dropped is said again, as a worker does.
                    await peer.send(Status(inventory=peer.inventory))
                    if has_log:
                        await peer.send(Finished(claim=claim, exit_code=0, log_end=1))
                        await anyio.sleep(0.3)
                    elif claim is not None:
                        await peer.send(Accept(claim=claim, host=peer.host))
                        await peer.send(Log(claim=claim, offset=0, data=b"x"))
            assert gateway.logs.files == {"t.log": b"x"}
            store.operators.wish_concurrency("w1", 2)
            left = [verb for verb in VERBS if verb not in RARE]
            await until(lambda: [verb for verb in left if faults[verb]] == [], 60)
            assert httpx2.get(f"{gateway.base_url}/edge-ws/health").status_code == 200
    told = [
        record.getMessage() for record in caplog.records if "fault of this program" in record.getMessage()
    ]
    assert all("ValueError: " in line and "\x1b" not in line and "\r" not in line for line in told)
    assert len(told) == len(set(told))
    assert len(told) < 2 * len(VERBS)


class Picky(DispatchStore):
    """The real one, which cannot claim one job."""

    def claim(self, gateway_id: Any, chosen: Any, lease_s: float) -> list[Claimed]:
        if any(one.key.task_id == "bad" for one in chosen):
            raise ValueError("bad")
        return super().claim(gateway_id, chosen, lease_s)


async def test_a_job_that_cannot_be_claimed_is_in_nobodys_way(
    sqlite_engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(sqlite_engine)
    store.dispatch = Picky(store._database)
    with serving(store) as gateway:
        enqueue(sqlite_engine, new_job("bad", priority=9), *(new_job(f"t{number}") for number in range(5)))
        async with connected(gateway, make_token(store), concurrency=1) as peer:
            for _ in range(5):
                offer = await peer.expect(Offer, 30)
                await peer.send(Accept(claim=offer.claim, host=peer.host))
                await peer.expect(Go, 30)
                await peer.send(Finished(claim=offer.claim, exit_code=0, log_end=0))
                await peer.expect(Ack, 30)
    assert caplog.text.count("fault of this program") == 1


async def test_a_gateway_that_cannot_go_on_closes_its_connections(sqlite_engine: sa.Engine) -> None:
    faults: dict[str, list[Exception]] = {}
    store = _faulty(sqlite_engine, faults)
    settings = GatewaySettings(hostname="test", timers=Timers(heartbeat_s=3.0))
    with serving(store, settings) as gateway:
        async with connected(gateway, make_token(store)) as peer:
            # No loop is made for one: it goes through.
            faults["beat"] = [EdgeWsError("not made for this")]
            with anyio.fail_after(30), pytest.raises(ConnectionClosed) as closed:
                await peer.expect(Wish, 30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert httpx2.get(f"{gateway.base_url}/edge-ws/health").status_code == 503


async def test_a_loop_that_always_fails_is_given_up() -> None:
    ends = 0

    async def loop() -> None:
        nonlocal ends
        ends += 1
        raise ValueError("always")

    with anyio.fail_after(30), pytest.raises(EdgeWsError, match="2 times in a row"):
        await FaultGuard(logging.getLogger("test")).keep("a loop", loop, tries=2)
    assert ends == 2


def test_what_fails_among_many_is_found() -> None:
    failed: list[int] = []

    def do(items: list[int]) -> list[int]:
        if {3, 8} & set(items):
            raise ValueError
        return [2 * one for one in items]

    assert apart(do, range(10), lambda one, _: failed.append(one)) == [0, 2, 4, 8, 10, 12, 14, 18]
    assert failed == [3, 8]


def test_what_is_set_aside_stays_so_for_longer_each_time() -> None:
    aside, now, pauses = LeftAlone(), 100.0, []
    for _ in range(3):
        aside.add("one", now)
        begun = now
        while aside.has("one", now):
            now += 0.25
        pauses.append(now - begun)
    assert pauses == [0.5, 1.0, 2.0]
    for number in range(LEFT_ALONE + 1):
        aside.add(number, now)
    assert not aside.has(0, now)
    assert aside.has(1, now)


def test_a_worker_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    told = WorkerLog(logging.getLogger("test"))
    for number in range(1000):
        told.say(logging.WARNING, "w1", "line %d", number)
    told.say(logging.WARNING, "w2", "another's")
    assert len(caplog.records) == LINES + 1
    told.flush(told._flushed_at + 3 * WHILE_S)
    assert f"{1000 - LINES} more lines about worker w1 were left out" in caplog.text
    assert "w2 were" not in caplog.text
