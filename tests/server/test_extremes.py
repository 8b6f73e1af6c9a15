"""Whatever the wire permits, the store can hold: each value of each frame of a worker, at both ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import httpx2
import orjson
import pytest
import sqlalchemy as sa
from websockets.asyncio.client import connect

from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Applied,
    Asked,
    Bye,
    Finished,
    Go,
    Hello,
    HostDead,
    Log,
    NotStarted,
    Offer,
    PhaseIs,
    Refuse,
    Refused,
    Stale,
    Started,
    Status,
    Welcome,
)
from edge_ws.protocol.ids import new_id
from edge_ws.server.admin import perform
from edge_ws.store.store import Store
from edge_ws.store.tables import claim, edge_worker, worker
from tests.support.extremes import at_ends
from tests.support.gateway import Peer, RunningGateway, connected, inventory, make_token
from tests.support.rows import enqueue, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


def _plain(frame: Any) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(codec.encode(frame))
    return fields


def _inventory() -> dict[str, Any]:
    """Return one that has each part."""
    host = new_id()
    asked = {"number": 1, "maintenance": True, "comment": "c"}
    held = {"claim": new_id(), "phase": "started", "log_end": 0, "host": host}
    return {**orjson.loads(orjson.dumps(inventory(host))), "claims": [held], "asked": asked}


def _hello(name: str) -> dict[str, Any]:
    own = {
        "protocol": 1,
        "oldest_protocol": 1,
        "worker": name,
        "team": None,
        "concurrency": 4,
        "queues": ["q"],
    }
    return {"type": "hello", **own, "inventory": _inventory()}


async def _greeted(gateway: RunningGateway, token: str, hello: dict[str, Any]) -> Welcome | Refused:
    """Return the answer to a hello; after a welcome say once more what the inventory is, and leave."""
    headers = {"edge-ws-token": token, "edge-ws-worker": hello["worker"]}
    async with connect(gateway.ws_url, additional_headers=headers, compression=None) as connection:
        peer = Peer(connection, inventory(new_id()), new_id())
        await connection.send(orjson.dumps(hello), text=True)
        with anyio.fail_after(60):
            while not isinstance(answer := await peer.receive(), Welcome | Refused):
                continue
            if isinstance(answer, Welcome):
                status = {
                    "type": "status",
                    "inventory": hello["inventory"],
                    "sysinfo": hello.get("sysinfo", {}),
                }
                await connection.send(orjson.dumps(status), text=True)
                await peer.send(Bye(reason="done"))
                await connection.wait_closed()
    return answer


def _operate(store: Store) -> None:
    """Do what operators do with all workers; each verb must deal with each of their rows."""
    names = {row["worker_name"] for row in perform(store, "list-workers", {})}
    assert {row["worker_name"] for row in perform(store, "show-worker", {"worker": "*"})} == names
    perform(store, "list-queues", {})
    everybody = {"worker": "*", "yes": True}
    for verb, more in (
        ("set-worker-concurrency", {"concurrency": 3}),
        ("add-worker-queues", {"queues": ["other"]}),
        ("remote-edge-worker-request-maintenance", {"comment": "c"}),
    ):
        rows = perform(store, verb, {**everybody, **more})
        assert {row["worker_name"] for row in rows} == names
        assert [row["error"] for row in rows if row["error"] and "fault" in row["error"]] == []
    perform(store, "shutdown-all-workers", {"yes": True})


def _sound(text: str) -> bool:
    return "fault of this program" not in text and "Traceback" not in text


async def test_what_a_worker_says_of_itself(
    store: Store, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    token = make_token(store)
    hellos = list(at_ends(Hello, _hello(""), frozenset({"worker"})))
    refused: list[Refused] = []
    for number, hello in enumerate(hellos):
        answer = await _greeted(gateway, token, {**hello, "worker": f"w{number}"})
        if isinstance(answer, Refused):
            refused.append(answer)
    assert {one.code.value for one in refused} <= {"version", "not_admitted"}
    assert len(hellos) - len(refused) > 60
    await until(lambda: all(one.transport is None for one in store.views.workers()), 60)
    await anyio.to_thread.run_sync(_operate, store)
    assert httpx2.get(f"{gateway.base_url}/edge-ws/health").status_code == 200
    assert _sound(caplog.text)


async def test_what_a_worker_says_of_its_jobs(
    engine: sa.Engine, store: Store, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    bases: dict[type, dict[str, Any]] = {
        Accept: {"host": "h"},
        Refuse: {"reason": ""},
        Started: {"host": "h"},
        Finished: {"exit_code": 0, "log_end": 0},
        NotStarted: {"reason": ""},
        PhaseIs: {"phase": "started"},
        Log: {"offset": 0, "data": ""},
    }
    said = [(cls, one) for cls, base in bases.items() for one in at_ends(cls, base, frozenset({"claim"}))]
    said += [(NotStarted, {"reason": "x" * 70_000, "fault": "host"})]
    enqueue(engine, *(new_job(f"t{number}") for number in range(len(said))))
    async with connected(gateway, make_token(store), concurrency=len(said)) as peer:
        claims = [(await peer.expect(Offer, 60)).claim for _ in said]
        for one, (cls, fields) in zip(claims, said, strict=True):
            if cls is not Accept and cls is not Refuse:
                await peer.send(Accept(claim=one, host=peer.host))
            await peer.connection.send(_as_message(cls, {"claim": one, **fields}), text=True)
            await peer.send(Finished(claim=one, exit_code=0, log_end=0))
        ended: set[str] = set()
        while ended != set(claims):
            with anyio.fail_after(60):
                frame = await peer.receive()
            if isinstance(frame, Stale) or (isinstance(frame, Ack) and frame.phase.value == "ended"):
                ended.add(frame.claim)
            assert not isinstance(frame, Refused)
        for fields in (
            *at_ends(HostDead, {"host": "h", "ended": []}),
            *at_ends(Applied, {"revision": 0, "concurrency": 4, "queues": ["q"]}),
            *at_ends(
                Status,
                {"inventory": _inventory() | {"site": peer.inventory.site}, "sysinfo": {}},
                frozenset({"site"}),
            ),
        ):
            cls = HostDead if "host" in fields else Status if "inventory" in fields else Applied
            await peer.connection.send(_as_message(cls, fields), text=True)
        await peer.send(Bye(reason="x" * 70_000))
        with anyio.fail_after(60):
            await peer.connection.wait_closed()
    # Nobody closed it but for the goodbye.
    assert peer.connection.close_code in {1000, 1006}
    await anyio.to_thread.run_sync(_operate, store)
    assert _sound(caplog.text)
    # Their words reach log and tables as one short line.
    with engine.connect() as connection:
        details = connection.scalars(sa.select(claim.c.detail)).all()
    assert len(set(details)) > 3
    for text in (*details, *(record.getMessage() for record in caplog.records)):
        assert text.isprintable()
        assert len(text) < 600


def _as_message(cls: type, fields: dict[str, Any]) -> bytes:
    (name,) = (name for name, one in codec.FRAME_TYPES.items() if one is cls)
    return orjson.dumps({"type": name, **fields})


# A worker must not get further than itself


async def test_two_frames_of_one_worker_end_nothing_for_others(
    engine: sa.Engine, store: Store, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    token = make_token(store)
    async with (
        connected(gateway, token, "w2") as good,
        connected(gateway, token, "w1", revision=2**31 - 2) as bad,
    ):
        asked = Asked(number=1, maintenance=True, comment="c")
        await bad.send(Status(inventory=replace(bad.inventory, asked=asked)))
        await until(lambda: store.views.workers(name="w1")[0].wishes_maintenance, 30)
        for number in range(4):
            enqueue(engine, new_job(f"t{number}"))
            offer = await good.expect(Offer, 30)
            await good.send(Accept(claim=offer.claim, host=good.host))
            await good.expect(Go, 30)
            await good.send(Finished(claim=offer.claim, exit_code=0, log_end=0))
            await good.expect(Ack, 30)
        assert httpx2.get(f"{gateway.base_url}/edge-ws/health").status_code == 200
        await anyio.to_thread.run_sync(_operate, store)
    assert _sound(caplog.text)


async def test_a_row_with_the_greatest_number_is_served(
    engine: sa.Engine, store: Store, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        with engine.begin() as connection:
            connection.execute(worker.update().values(wish_revision=2**31 - 1, applied_revision=2**31 - 1))
            connection.execute(edge_worker.update().values(concurrency=2))
        with anyio.fail_after(30):
            while (wish := await peer.expect(type(peer.welcome.wish), 30)).concurrency != 2:
                continue
        await peer.send(Applied(revision=wish.revision, concurrency=2, queues=("q",)))
        await until(lambda: store.operators.applied("w1") == wish.revision, 30)
        assert wish.revision < 10
    assert _sound(caplog.text)


async def test_a_team_that_is_none_is_refused(
    store: Store, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    for team in ("x" * 65, "", "a\nb"):
        answer = await _greeted(gateway, make_token(store), {**_hello("w1"), "team": team})
        assert isinstance(answer, Refused)
        assert answer.code.value == "not_admitted"
    assert _sound(caplog.text)
