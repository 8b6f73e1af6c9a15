"""Events: what happens to a real gateway's workers is noted, in order, and no worker can flood them."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.errors import UnreachableError
from edge_ws.protocol.frames import Bye, NotStarted, Offer, Refuse
from edge_ws.protocol.ids import HOST, SiteId, new_id
from edge_ws.server.admin import OPERATIONS, perform
from edge_ws.server.chronicle import Chronicle
from edge_ws.server.events import OF_ONE, Events
from edge_ws.server.happenings import _OF_OPERATIONS, KINDS, doings
from edge_ws.store.events import KEPT, EventRecord, NewEvent
from edge_ws.store.store import Store
from tests.support.gateway import RunningGateway, connected, make_token
from tests.support.rows import enqueue, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


def all_of(store: Store, kind: str | None = None) -> list[EventRecord]:
    return store.events.since(None, KEPT, kind=kind)


async def found(store: Store, kind: str, count: int = 1) -> list[EventRecord]:
    await until(lambda: len(all_of(store, kind)) >= count)
    return all_of(store, kind)


async def test_a_worker_comes_and_goes(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store)) as peer:
        await peer.send(Bye(reason="drained"))
        await peer.connection.wait_closed()
    (gone,) = await found(store, "disconnected")
    (came,) = await found(store, "connected")
    assert (came.worker, came.words) == ("w1", "by websocket")
    assert (gone.worker, gone.words) == ("w1", "it left")
    assert came.id < gone.id
    assert all_of(store)[0].kind == "gateway_started"


async def test_a_newer_connection_ends_the_older_one_once(store: Store, gateway: RunningGateway) -> None:
    token, site = make_token(store), SiteId(new_id())
    async with connected(gateway, token, site=site) as older, connected(gateway, token, site=site):
        await older.connection.wait_closed()
        await found(store, "connected", 2)
    await found(store, "disconnected", 2)
    told = [(one.kind, one.words) for one in all_of(store) if one.worker == "w1"]
    assert told == [
        ("connected", "by websocket"),
        ("disconnected", "a newer connection took over"),
        ("connected", "by websocket"),
        ("disconnected", "its connection broke"),
    ]


async def test_what_a_worker_does_with_a_job(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    job = new_job(queue="q")
    enqueue(engine, job)
    async with connected(gateway, make_token(store)) as peer:
        offer = await peer.expect(Offer)
        await peer.send(Refuse(claim=offer.claim, reason="no\x1b[31m room"))
        (refused,) = await found(store, "offer_refused")
        again = await peer.expect(Offer)
        await peer.send(NotStarted(claim=again.claim, reason="no such bundle", fault=HOST))
        (not_started,) = await found(store, "not_started")
    assert (refused.words, refused.claim) == ("no [31m room", offer.claim)
    assert refused.job is not None
    assert refused.job["task_id"] == job.key.task_id
    assert (not_started.words, not_started.claim) == ("no such bundle", again.claim)


async def test_who_is_refused_is_told_of(store: Store, gateway: RunningGateway) -> None:
    headers = {"edge-ws-token": "made up", "edge-ws-worker": "w7", "content-type": "application/json"}
    async with httpx2.AsyncClient() as client:
        await client.post(f"{gateway.base_url}/edge-ws/v1/poll", content=b"{}", headers=headers)
    (refused,) = await found(store, "refused")
    assert (refused.worker, refused.words) == ("w7", "token: it is unknown here")


def test_strangers_fill_nothing_whatever_they_call_themselves(store: Store) -> None:
    events = Events(store.events, "here/1")
    chronicle = Chronicle(events=events)
    for number in range(1000):
        chronicle.refused("token", "it is unknown here", worker=f"w{number}", address="192.0.2.1")
    chronicle.refused("token", "it is unknown here", worker="w1", address="192.0.2.2")
    chronicle.refused("unavailable", "too many", worker="w1", address="192.0.2.2")
    events.flush()
    assert len(all_of(store)) == OF_ONE + 1
    assert chronicle.figures.counts["refusals:token"] == 1001


async def test_an_operators_change_is_an_event(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store)):
        await until(lambda: bool(store.views.workers()))
        perform(
            store,
            "remote-edge-worker-request-maintenance",
            {"worker": "w1", "comment": "new disk"},
            user="ann",
        )
    (one,) = all_of(store, "maintenance")
    assert (one.worker, one.who) == ("w1", "ann")
    assert "new disk" in one.words


def test_every_operation_that_changes_something_is_noted() -> None:
    changing = {name for name, one in OPERATIONS.items() if one.changes}
    assert changing <= set(_OF_OPERATIONS)
    assert set(_OF_OPERATIONS.values()) <= set(KINDS)


def test_what_operators_do_in_words() -> None:
    row = {"worker_name": "w1", "told": "the concurrency shall be 3", "error": None}
    (one,) = doings("set-worker-concurrency", {"worker": "w1", "concurrency": 3}, row, "ann")
    assert (one.kind, one.worker, one.who, one.words) == ("wished", "w1", "ann", "the concurrency shall be 3")
    refused = {**row, "error": "no"}
    assert doings("set-worker-concurrency", {}, [refused, row], None)[0].worker == "w1"
    assert len(doings("set-worker-concurrency", {}, [row] * 1000, None)) == 1
    assert doings("list-workers", {}, [row], None) == []


def test_no_secret_becomes_an_event() -> None:
    made = {
        "id": "1",
        "name": "press",
        "secret": "ews_secret",
        "told": "token 'press' admits workers named p*",
    }
    (one,) = doings("token-create", {"name": "press"}, made, "ann")
    assert one.kind == "token_created"
    assert "secret" not in repr(one)
    assert "press" in one.words
    (gone,) = doings("token-revoke", {"token": "press"}, {"revoked": 1, "told": "revoked 1 token"}, None)
    assert (gone.kind, gone.worker, gone.words) == ("token_revoked", None, "token press: revoked 1 token")


def test_a_worker_cannot_flood(store: Store) -> None:
    left_out: list[int] = []
    events = Events(store.events, "here/1", lambda: left_out.append(1))
    for _ in range(1000):
        events.note("connected", worker="loud")
    events.note("connected", worker="quiet")
    events.flush()
    told = all_of(store)
    assert [one.worker for one in told].count("loud") == OF_ONE
    assert told[-1].worker == "quiet"
    assert len(left_out) == 1000 - OF_ONE
    events._tell_left_out(time.monotonic() + 100.0)
    events.flush()
    (count,) = all_of(store, "left_out")
    assert (count.worker, count.words) == ("loud", f"{1000 - OF_ONE} more events about worker loud")


def test_the_newest_are_kept_while_the_database_is_away(store: Store) -> None:
    events = Events(store.events, "here/1")
    add, store.events.add = store.events.add, away  # type: ignore[method-assign]
    for number in range(KEPT):
        events.note("connected", worker=f"w{number}")
    with pytest.raises(UnreachableError):
        events.flush()
    for number in range(10):
        events.note("silent", worker=f"v{number}")
    store.events.add = add  # type: ignore[method-assign]
    events.flush()
    told = all_of(store)
    assert len(told) == KEPT
    assert (told[0].worker, told[-1].worker) == ("w10", "v9")


def away(*_: Any) -> None:
    raise UnreachableError("away")


def test_only_the_newest_are_kept_and_ids_only_grow(store: Store) -> None:
    for start in range(0, 3 * KEPT, 100):
        store.events.add([NewEvent(kind="connected", worker=f"w{start + n}") for n in range(100)])
    told = all_of(store)
    assert [one.worker for one in told] == [f"w{n}" for n in range(2 * KEPT, 3 * KEPT)]
    assert [one.id for one in told] == sorted({one.id for one in told})
    last = store.events.last_id()
    assert last == told[-1].id
    with store._database.write() as connection:
        connection.execute(sa.text("DELETE FROM edge_ws_event"))
    store.events.add([NewEvent(kind="silent")])
    assert store.events.last_id() > last


def test_what_is_asked_for(store: Store) -> None:
    store.events.add([NewEvent(kind="connected", worker="a1"), NewEvent(kind="silent", worker="b1")])
    store.events.add([NewEvent(kind="connected", worker="a2", age_s=500.0)])
    rows: Any = perform(store, "events", {})
    first = rows[0]["id"]
    assert [row["worker"] for row in rows] == ["a1", "b1", "a2"]
    for given, told in (
        ({"since": first}, ["b1", "a2"]),
        ({"since": first, "limit": 1}, ["b1"]),
        ({"limit": 1}, ["a2"]),
        ({"worker": "a*"}, ["a1", "a2"]),
        ({"kind": "silent"}, ["b1"]),
        ({"within_s": 60}, ["a1", "b1"]),
    ):
        assert [row["worker"] for row in perform(store, "events", given)] == told, given  # type: ignore[attr-defined]


def test_words_of_any_kind_are_stored(store: Store) -> None:
    store.events.add(
        [NewEvent(kind="refused", worker="x" * 500, who="\0", words="\ud800\0\n" + "é" * 999)], "host/1"
    )
    (one,) = all_of(store)
    assert one.worker == "x" * 64
    assert one.words == "   " + "é" * 297
