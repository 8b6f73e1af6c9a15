"""Who speaks for a worker: attacks on a name by those whose credential admits it, at a real gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Applied,
    Bye,
    Finished,
    Go,
    HostDead,
    Offer,
    Refused,
    Stale,
    Started,
    Status,
    Wish,
)
from edge_ws.protocol.ids import new_id
from edge_ws.store.records import JobKey
from edge_ws.store.store import Store
from tests.server.test_longpoll import Poller, offered
from tests.support.gateway import Peer, connected, inventory, make_token, serving
from tests.support.rows import enqueue, job_row, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


async def running(engine: sa.Engine, peer: Peer) -> tuple[JobKey, Finished]:
    """Have the worker run a job; return the job's key and the report of its end."""
    job = new_job()
    enqueue(engine, job)
    claim = (await peer.expect(Offer)).claim
    await peer.send(Accept(claim=claim, host=peer.host))
    await peer.expect(Go)
    await peer.send(Started(claim=claim, host=peer.host))
    await peer.expect(Ack)
    return job.key, Finished(claim=claim, exit_code=0, log_end=0)


@pytest.mark.parametrize("marks", [{}, {"edge-ws-connection": new_id()}], ids=["no mark", "a wrong mark"])
async def test_nobody_else_speaks_by_requests_for_a_connected_worker(
    sqlite_engine: sa.Engine, client: httpx2.AsyncClient, marks: dict[str, str]
) -> None:
    store = Store(sqlite_engine)
    token = make_token(store)
    with serving(store) as gateway:
        async with connected(gateway, token) as peer:
            key, end = await running(sqlite_engine, peer)
            copy = Poller(gateway, token, client, marks=marks)
            paused = replace(peer.inventory, concurrency=0, draining=True, dead_hosts=(peer.host,))
            for said, status in (
                (Applied(revision=2**31 - 2, concurrency=0, queues=()), 503),
                (HostDead(host=peer.host), 503),
                (replace(end, exit_code=1), 503),
                (Bye(reason="", maintenance=True), 503),
                (Status(inventory=paused), 400),
            ):
                assert (await copy.post("send", [said])).status_code == status, said
            assert job_row(sqlite_engine, key).state == "running"
            # Its slots and its jobs are as before.
            enqueue(sqlite_engine, new_job("second"))
            await peer.expect(Offer)
            await peer.send(end)
            assert (await peer.expect(Ack)).claim == end.claim
            assert job_row(sqlite_engine, key).state == "success"


async def test_a_machine_that_took_a_name_over_speaks_for_its_own_claims_alone(
    sqlite_engine: sa.Engine,
) -> None:
    store = Store(sqlite_engine)
    token = make_token(store)
    with serving(store) as gateway:
        async with connected(gateway, token) as peer:
            key, end = await running(sqlite_engine, peer)
            host = peer.host
            await peer.send(Bye(reason=""))
            await peer.connection.wait_closed()
        async with connected(gateway, token, dead_hosts=(host,)) as other:
            await other.send(HostDead(host=host))
            await other.send(end)
            assert (await other.expect(Stale)).claim == end.claim
            assert job_row(sqlite_engine, key).state == "running"
            stolen = replace(other.inventory, site=peer.inventory.site, dead_hosts=(host,))
            await other.send(Status(inventory=stolen))
            assert (await other.expect(Refused)).code.value == "protocol"
            assert job_row(sqlite_engine, key).state == "running"


async def test_a_poll_goes_on_for_its_own_site_alone(
    sqlite_engine: sa.Engine, client: httpx2.AsyncClient
) -> None:
    store = Store(sqlite_engine)
    with serving(store) as gateway:
        poller = Poller(gateway, make_token(store), client)
        await poller.poll()
        poller.stated = inventory(poller.host)
        answer = await poller.post("poll", [poller.hello()])
        assert (answer.status_code, answer.headers["edge-ws-error"]) == (400, "protocol")


async def test_what_is_on_its_way_by_a_former_connection_is_taken_by_any_gateway(
    sqlite_engine: sa.Engine, client: httpx2.AsyncClient
) -> None:
    job = new_job()
    with serving(Store(sqlite_engine)) as one, serving(Store(sqlite_engine)) as two:
        poller = Poller(one, make_token(Store(sqlite_engine)), client)
        await poller.poll()
        enqueue(sqlite_engine, job)
        claim = (await offered(poller)).claim
        former = dict(poller.marks)
        poller.to = two
        await poller.poll()
        assert former != poller.marks
        poller.marks = former
        for gateway, said, answer in (
            (one, Accept(claim=claim, host=poller.host), Go),
            (two, Started(claim=claim, host=poller.host), Ack),
            (one, Finished(claim=claim, exit_code=0, log_end=0), Ack),
        ):
            poller.to = gateway
            assert isinstance((await poller.send(said))[0], answer)
        assert job_row(sqlite_engine, job.key).state == "success"


async def test_a_former_connection_of_another_site_speaks_no_more(
    sqlite_engine: sa.Engine, client: httpx2.AsyncClient
) -> None:
    store = Store(sqlite_engine)
    token = make_token(store)
    with serving(store) as gateway:
        former = Poller(gateway, token, client)
        await former.poll()
        async with former.holding():
            await former.send(Bye(reason=""))
        async with connected(gateway, token):
            said = Applied(revision=0, concurrency=0, queues=())
            assert (await former.post("send", [said])).status_code == 503


async def test_a_worker_that_lies_about_its_slots_gets_what_is_wished(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    with serving(store) as gateway, anyio.fail_after(20):
        async with connected(gateway, make_token(store), concurrency=24) as liar:
            revision = store.operators.wish_concurrency("w1", 1).revision
            await liar.expect(Wish)
            lie = Applied(revision=revision, concurrency=24, queues=None)
            await liar.send(lie)
            await liar.send(Status(inventory=replace(liar.inventory, revision=revision, queues=None)))
            await until(lambda: store.operators.applied("w1") == revision)
            enqueue(sqlite_engine, *(new_job(f"t{number}") for number in range(24)))
            enqueue(sqlite_engine, replace(new_job("foreign"), queue="another"))
            first = await liar.expect(Offer)
            await liar.send(Accept(claim=first.claim, host=liar.host))
            await liar.send(lie)
            await liar.expect(Go)
            # Whoever is honest is offered what the liar might have been; then all has been handed out.
            async with connected(
                gateway, make_token(store, "other"), "other", concurrency=25, queues=("q", "another")
            ) as other:
                for _ in range(24):
                    await other.expect(Offer)
            assert not any(isinstance(frame, Offer) for frame in liar.received)
