"""Slots and queues change under load (F34): at once, never too much afterwards, and no job fails for it."""

from __future__ import annotations

import random
from dataclasses import replace

import anyio
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Applied,
    Finished,
    Go,
    Offer,
    Stale,
    Started,
    Status,
    Welcome,
    Wish,
)
from edge_ws.protocol.ids import CONTROL, ClaimId, LifeId
from edge_ws.protocol.states import Phase
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_job
from tests.support.gateway import Peer, RunningGateway, connected, make_token
from tests.support.rows import enqueue, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
JOBS = 300


class Busy:
    """A worker that runs what it is given, each job for a moment, and counts."""

    def __init__(self, peer: Peer, slots: int, queues: tuple[str, ...]) -> None:
        self.peer, self.slots, self.queues = peer, slots, queues
        self.held: dict[ClaimId, Phase] = {}
        self.starts: list[str] = []
        self.beyond: list[str] = []
        """Offers that the wish in force does not admit."""

    async def run(self, tasks: anyio.abc.TaskGroup) -> None:
        await self.peer.hello(
            capabilities=(CONTROL,), life=LifeId("l"), concurrency=self.slots, queues=self.queues
        )
        while True:
            await self._take(await self.peer.receive(), tasks)

    async def _take(self, frame: object, tasks: anyio.abc.TaskGroup) -> None:
        match frame:
            case Welcome(wish=wish) | (Wish() as wish):
                await self._apply(wish)
            case Offer():
                if len(self.held) + frame.slots > self.slots:
                    self.beyond.append(frame.claim)
                self.held[frame.claim] = Phase.OFFERED
                await self.peer.send(Accept(claim=frame.claim, host=self.peer.host))
            case Go():
                self.starts.append(frame.token)
                self.held[frame.claim] = Phase.STARTED
                await self.peer.send(Started(claim=frame.claim, host=self.peer.host))
                tasks.start_soon(self._finish, frame.claim)
            case Stale() | Ack(phase=Phase.ENDED):
                self.held.pop(frame.claim, None)
            case _:
                return

    async def _finish(self, claim: ClaimId) -> None:
        await anyio.sleep(random.uniform(0.01, 0.08))
        await self.peer.send(Finished(claim=claim, exit_code=0, log_end=0))

    async def _apply(self, wish: Wish) -> None:
        self.slots = 10 if wish.concurrency is None else wish.concurrency
        self.queues = wish.queues or self.queues
        inventory = replace(
            self.peer.inventory, revision=wish.revision, concurrency=self.slots, queues=self.queues
        )
        self.peer.inventory = inventory
        await self.peer.send(Status(inventory=inventory))
        await self.peer.send(Applied(revision=wish.revision, concurrency=self.slots, queues=self.queues))


async def test_slots_and_queues_change_under_load(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    jobs = [
        new_job(f"t{number}", queue="q" if number % 2 else "r", ti_id=f"ti{number}") for number in range(JOBS)
    ]
    async with (
        connected(gateway, token, "w1", greet=False, concurrency=10, queues=("q", "r")) as first,
        connected(gateway, token, "w2", greet=False, concurrency=3, queues=("q", "r")) as second,
        anyio.create_task_group() as tasks,
    ):
        one, two = Busy(first, 10, ("q", "r")), Busy(second, 3, ("q", "r"))
        tasks.start_soon(one.run, tasks)
        tasks.start_soon(two.run, tasks)
        await until(lambda: len(store.views.workers()) == 2)
        enqueue(engine, *jobs)
        await until(lambda: len(one.held) >= 8)
        for slots in (1, 5):
            await _acknowledged(store, store.operators.wish_concurrency("w1", slots).revision)
        await _acknowledged(store, store.operators.remove_queues("w1", ["q"]).revision)
        before = len(one.starts)
        await until(lambda: len(one.starts) > before, 20.0)
        ended = sa.select(sa.func.count()).where(edge_job.c.state == "success")

        def done() -> bool:
            with engine.connect() as connection:
                return connection.scalar(ended) == JOBS

        await until(done, 60.0)
        tasks.cancel_scope.cancel()
    assert one.beyond == []
    assert two.beyond == []
    # No job ran twice, and none failed.
    assert sorted(one.starts + two.starts) == sorted(f"token for ti{number}" for number in range(JOBS))


async def _acknowledged(store: Store, revision: int) -> None:
    await until(lambda: store.operators.applied("w1") >= revision, 10.0)
