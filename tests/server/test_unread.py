"""A worker that has said more than can be written for now: it is not read, and is not cut for that."""

from __future__ import annotations

import anyio
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Accept, Go, Log, LogAck, Offer, Started, Timers
from edge_ws.server.config import GatewaySettings
from edge_ws.server.reports import CHUNKS
from edge_ws.store.store import Store
from tests.support.gateway import connected, make_token, serving
from tests.support.rows import enqueue, new_job

pytestmark = pytest.mark.anyio

BEAT_S = 0.5


async def test_chunks_beyond_the_window_are_taken_later_and_their_worker_is_not_silent(
    sqlite_engine: sa.Engine,
) -> None:
    store = Store(sqlite_engine)
    timers = Timers(heartbeat_s=BEAT_S)
    with serving(store, GatewaySettings(hostname="test", timers=timers)) as gateway:
        async with connected(gateway, make_token(store)) as peer:
            enqueue(sqlite_engine, new_job())
            claim = (await peer.expect(Offer)).claim
            await peer.send(Accept(claim=claim, host=peer.host))
            await peer.expect(Go)
            await peer.send(Started(claim=claim, host=peer.host))
            with sqlite_engine.connect() as writer:
                # Nobody else can write.
                writer.exec_driver_sql("BEGIN IMMEDIATE")
                for number in range(CHUNKS + 2):
                    await peer.send(Log(claim=claim, offset=10 * number, data=b"0123456789"))
                # Longer than a silent worker is kept.
                await anyio.sleep(5 * BEAT_S)
                writer.rollback()
            ends = [(await peer.expect(LogAck, 30)).log_end for _ in range(CHUNKS + 2)]
            assert ends == [10 * number for number in range(1, CHUNKS + 3)]
