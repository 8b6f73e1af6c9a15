"""Queues that operators pause: nothing of them is offered, everybody is told why, and all goes on at once after it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Accept, Go, Offer
from edge_ws.server.admin import perform
from edge_ws.server.config import GatewaySettings
from edge_ws.server.ports import AuditEntry
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, paused_queue, utc_now
from tests.support.gateway import RunningGateway, connected, make_token, serving
from tests.support.rows import FakeWorker, enqueue, job_row, new_job

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    # No look by the clock is near: what is heard is what tells.
    with serving(store, GatewaySettings(hostname="test", backup_scan_s=600.0)) as gateway:
        yield gateway


def pause(store: Store, queue: str = "q", note: str = "the press is hot") -> dict[str, Any]:
    told: dict[str, Any] = perform(store, "pause-queue", {"queue": queue, "note": note}, user="ann")
    return told


def resume(store: Store, queue: str = "q") -> dict[str, Any]:
    told: dict[str, Any] = perform(store, "resume-queue", {"queue": queue})
    return told


def verdict(store: Store) -> dict[str, Any]:
    shown: dict[str, Any] = perform(store, "show-job", {"dag_id": "dag", "run_id": "run", "task_id": "t"})
    return shown


async def test_nothing_is_offered_until_it_is_resumed(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store), queues=("q", "p")) as peer:
        enqueue(engine, new_job("runs"))
        running = await peer.expect(Offer)
        await peer.send(Accept(claim=running.claim, host=peer.host))
        await peer.expect(Go)
        pause(store)
        waits, goes = new_job("waits", priority=9), new_job("goes", queue="p")
        enqueue(engine, waits)
        enqueue(engine, goes)
        await peer.expect(Offer)
        assert job_row(engine, goes.key).state == "restarting"
        assert job_row(engine, waits.key).state == "queued"
        # What runs goes on.
        assert job_row(engine, new_job("runs").key).state == "restarting"
        resume(store)
        await peer.expect(Offer, within_s=2.0)
        assert job_row(engine, waits.key).state == "restarting"


async def test_what_waits_for_a_worker_of_every_queue(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    pause(store)
    enqueue(engine, new_job("waits"), new_job("goes", queue="p"))
    async with connected(gateway, make_token(store), queues=None) as peer:
        await peer.expect(Offer)
        assert job_row(engine, new_job("waits").key).state == "queued"
        resume(store)
        await peer.expect(Offer, within_s=2.0)


async def test_however_often_and_fast_nothing_is_left_lying(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    jobs = [new_job(f"t{number}") for number in range(30)]
    async with connected(gateway, make_token(store), concurrency=50) as peer:
        for job in jobs:
            pause(store)
            enqueue(engine, job)
            resume(store)
        offered = {(await peer.expect(Offer)).claim for _ in jobs}
        assert len(offered) == len(jobs)


async def test_a_job_that_was_chosen_before_is_not_claimed_after_it(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    one.register()
    job = new_job()
    enqueue(engine, job, new_job("other", queue="p"))
    (found,) = store.dispatch.candidates({"q"}, 10)
    pause(store)
    assert one.claim(job) == []
    assert store.dispatch.candidates({"q"}, 10) == []
    assert [each.queue for each in store.dispatch.candidates(None, 10)] == ["p"]
    assert store.dispatch.queues_of_others(None, {"team"}) == {"p"}
    assert store.dispatch.queues_of_others({"q", "p"}, {"team"}) == {"p"}
    resume(store)
    assert store.dispatch.candidates({"q"}, 10)[0].key == found.key
    assert len(one.claim(job)) == 1


async def test_a_job_that_waits_says_so(engine: sa.Engine, store: Store) -> None:
    FakeWorker(store).register()
    enqueue(engine, new_job("t"))
    pause(store)
    shown = verdict(store)
    assert shown["code"] == "queue_paused"
    assert ": queue q is paused since 20" in shown["verdict"]
    assert shown["verdict"].endswith(" by ann: the press is hot.")
    assert shown["advice"] == "edge-ws resume-queue q"
    # edge3's workers know of no pause.
    with engine.begin() as connection:
        row = {"worker_name": "e3", "state": "idle", "jobs_active": 0, "sysinfo": {"concurrency": 4}}
        connection.execute(edge_worker.insert().values(**row, queues="['q']", last_update=utc_now()))
    assert "edge3's workers know of no pause, and e3 may take it" in verdict(store)["verdict"]
    resume(store)
    assert verdict(store)["code"] != "queue_paused"


async def test_it_is_listed_also_where_nothing_else_names_it(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    FakeWorker(store).register()
    assert pause(store, "q")["told"] == "paused; what runs goes on"
    assert pause(store, "z")["told"] == "paused; what runs goes on; no job and no worker names it yet"
    rows = {row["queue"]: row for row in perform(store, "list-queues", {})}
    assert set(rows) == {"q", "z"}
    row = rows["z"]
    assert (row["paused"], row["paused_by"], row["pause_note"]) == (True, "ann", "the press is hot")
    assert row["paused_since"].startswith("20")
    resume(store, "z")
    assert [row["queue"] for row in perform(store, "list-queues", {})] == ["q"]


async def test_the_last_word_counts_and_each_answer_is_told_apart(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    pause(store, "q")
    again = perform(store, "pause-queue", {"queue": ["q", "p"], "note": "belt"}, operator="bob")
    assert [one["told"].split(";")[0] for one in again] == ["was paused already", "paused"]
    assert store.views.pauses()["q"].by == "bob"
    assert store.views.pauses()["q"].note == "belt"
    resume(store, "q")
    with pytest.raises(UsageError, match="queue q is not paused"):
        resume(store, "q")
    told = perform(store, "resume-queue", {"queue": ["q", "p"]})
    assert [(one["queue"], one["paused"], bool(one["error"])) for one in told] == [
        ("q", None, True),
        ("p", False, False),
    ]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"queue": "q"}, "needs note"),
        ({"queue": "q", "note": "  "}, "note: say why"),
        ({"queue": "a,b", "note": "why"}, "cannot name a queue"),
        ({"queue": [], "note": "why"}, "queue must be a queue's name"),
        ({"queue": "q" * 257, "note": "why"}, "cannot name a queue"),
    ],
)
async def test_what_is_wrong_pauses_nothing(
    sqlite_engine: sa.Engine, given: dict[str, object], why: str
) -> None:
    store = Store(sqlite_engine)
    with pytest.raises(UsageError, match=why):
        perform(store, "pause-queue", given)
    assert store.views.pauses() == {}


async def test_two_who_pause_it_at_once(engine: sa.Engine, store: Store) -> None:
    with ThreadPoolExecutor(4) as operators:
        done = list(operators.map(lambda name: store.queues.pause("q", "why", name), "abcd"))
    assert sorted(done) == [False, True, True, True]
    with engine.connect() as connection:
        assert len(connection.execute(sa.select(paused_queue)).all()) == 1


class Written:
    """An audit log in memory."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def record(self, entries: list[AuditEntry]) -> None:
        self.entries += entries


async def test_each_change_and_refusal_is_in_the_audit_log(sqlite_engine: sa.Engine) -> None:
    store, audit = Store(sqlite_engine), Written()
    perform(store, "pause-queue", {"queue": "q", "note": "why"}, user="ann", audit=audit)
    perform(store, "resume-queue", {"queue": ["q", "p"]}, user="ann", audit=audit)
    assert [(one.event, one.user, dict(one.extra)) for one in audit.entries] == [
        ("pause-queue", "ann", {"queue": "q", "note": "why"}),
        ("resume-queue", "ann", {"queue": "q"}),
        ("resume-queue", "ann", {"queue": "p"}),
        (
            "resume-queue",
            "ann",
            {"queue": "p", "refused": "queue p is not paused; see: edge-ws list-queues"},
        ),
    ]
