"""What keeps a connected worker's slots from jobs is seen: no job host, and processes under stale claims."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Applied, Offer, Status, Wish
from edge_ws.server.views import list_queues, list_workers, show_job, show_worker
from edge_ws.store.records import Room
from edge_ws.store.store import Store
from tests.support.gateway import Peer, RunningGateway, connected, make_token
from tests.support.rows import enqueue, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
READY = Room()


def room(store: Store) -> Room:
    (found,) = store.views.workers()
    return found.room


@contextmanager
def writes_of_sysinfo(engine: sa.Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE edge_worker") and "sysinfo" in statement:
            seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


async def say(peer: Peer, **changes: object) -> None:
    """Send a heartbeat of a worker that has changed so."""
    peer.inventory = replace(peer.inventory, **changes)
    await peer.send(Status(inventory=peer.inventory))


async def test_a_worker_without_a_job_host_is_not_called_free(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store), draining=True) as peer:
        enqueue(engine, new_job("t"))
        found = show_job(store.views, "dag", "run", "t")
        assert found["code"] == "none_ready"
        assert "w1 is connected, but can start no jobs now" in found["verdict"]
        assert "edge-ws status on the host of w1" in found["advice"]
        (queue,) = list_queues(store.views)
        assert (queue["workers"], queue["free_slots"]) == (0, 0)
        shown = show_worker(store.views, "w1")
        assert (shown["takes_jobs"], shown["free_slots"]) == (False, 0)
        assert list_workers(store.views)[0]["free_concurrency"] == 0
        assert shown["why_no_jobs"] == "is connected, but can start no jobs now"
        assert shown["no_jobs_code"] == "not_ready"
        await say(peer, draining=False)
        await peer.expect(Offer)
        await until(lambda: room(store) == READY)
        shown = show_worker(store.views, "w1")
        assert (shown["takes_jobs"], shown["why_no_jobs"], "not_ready" in shown["sysinfo"]) == (
            True,
            None,
            False,
        )
        await say(peer, draining=True)
        await until(lambda: not room(store).ready)


async def test_the_worker_says_why_it_has_no_job_host(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store), draining=True) as peer:
        assert room(store) == Room(ready=False)
        told = {
            "no_jobs_code": "no_job_host",
            "no_job_host": "Airflow\n\x1b[2J is not\u202e installed: " + "x" * 500,
        }
        await peer.send(Status(inventory=peer.inventory, sysinfo=told))
        await until(lambda: bool(room(store).why))
        why = room(store).why
        assert why.startswith("Airflow [2J is not installed: xxx")
        assert len(why) == 200
        # What it has in force changes nothing of it.
        await peer.send(Applied(revision=0, concurrency=3, queues=("q",)))
        await until(lambda: show_worker(store.views, "w1")["concurrency"] == 3)
        shown = show_worker(store.views, "w1")
        assert shown["why_no_jobs"] == f"is connected, but can start no jobs now: {why}"
        (listed,) = list_workers(store.views)
        for row in (shown, listed):
            assert (row["state"], row["takes_jobs"], row["no_jobs_code"]) == ("idle", False, "no_job_host")
        assert shown["sysinfo"]["no_job_host"] == why
        await say(peer, draining=False)
        await until(lambda: room(store) == READY)
        assert "no_job_host" not in show_worker(store.views, "w1")["sysinfo"]


async def test_what_stale_jobs_take_is_not_free(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store), stale_slots=3) as peer:
        enqueue(engine, new_job("wide", slots=2))
        shown = show_worker(store.views, "w1")
        assert (shown["free_slots"], shown["stale_slots"], shown["slots_taken"]) == (1, 3, 0)
        (queue,) = list_queues(store.views)
        assert (queue["workers"], queue["free_slots"]) == (1, 1)
        assert list_workers(store.views)[0]["free_concurrency"] == 1
        assert show_job(store.views, "dag", "run", "wide")["code"] == "all_full"
        await say(peer, stale_slots=4)
        await until(lambda: room(store).stale_slots == 4)
        found = show_job(store.views, "dag", "run", "wide")
        assert found["code"] == "all_full"
        assert "is full (4 of 4 slots busy, 4 of them with processes of jobs" in found["verdict"]
        await say(peer, stale_slots=0)
        await peer.expect(Offer)
        await until(lambda: room(store) == READY)
        assert "stale_slots" not in show_worker(store.views, "w1")["sysinfo"]


async def test_it_is_written_where_it_changes_alone(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store), stale_slots=1, draining=True) as peer:
        with writes_of_sysinfo(engine) as written:
            for _ in range(5):
                await say(peer)
            await say(peer, stale_slots=2)
            await until(lambda: room(store).stale_slots == 2)
        assert len(written) == 1


async def test_maintenance_has_its_own_reason(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store)) as peer:
        store.operators.request_maintenance("w1", "belt")
        wish = await peer.expect(Wish)
        await say(peer, revision=wish.revision, maintenance=True, draining=True)
        await until(lambda: store.operators.applied("w1") == wish.revision)
        assert room(store) == READY
        # Its job host dies meanwhile, as is seen when the maintenance ends.
        store.operators.exit_maintenance("w1")
        wish = await peer.expect(Wish)
        await say(peer, revision=wish.revision, maintenance=False, draining=True)
        applied = Applied(revision=wish.revision, concurrency=4, queues=("q",))
        await peer.send(applied)
        await until(lambda: not room(store).ready)
