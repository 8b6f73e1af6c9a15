"""What is written into the database by anybody reaches a worker at once: no look by the clock is near."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Accept, Go, Offer, Refused, Stale, Wish
from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from tests.support.gateway import RunningGateway, connected, make_token, serving
from tests.support.rows import enqueue, job_row, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

BY = {"sqlite": "data_version", "postgresql": "listen"}
INSERT = (
    "INSERT INTO edge_job (dag_id, task_id, run_id, map_index, try_number, state, queue, concurrency_slots, command)"
    " VALUES ('d', '{name}', 'r', -1, 1, '{state}', 'q', 1, '{{\"type\": \"ExecuteTask\", \"ti\": {{\"id\": \"i\"}},"
    ' "log_path": "l", "token": ""}}\')'
)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    with serving(store, GatewaySettings(hostname="test", backup_scan_s=600.0)) as gateway:
        yield gateway


def write(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


async def health(gateway: RunningGateway) -> dict[str, object]:
    async with httpx2.AsyncClient() as client:
        return (await client.get(f"{gateway.base_url}/edge-ws/health")).json()


async def until_woken(engine: sa.Engine, gateway: RunningGateway) -> None:
    async def said() -> object:
        return (await health(gateway))["wakeup"]

    while await said() != BY[engine.dialect.name]:
        await until(lambda: True)


async def test_a_row_written_by_hand(engine: sa.Engine, store: Store, gateway: RunningGateway) -> None:
    await until_woken(engine, gateway)
    async with connected(gateway, make_token(store)) as peer:
        write(engine, INSERT.format(name="inserted", state="queued"))
        await peer.expect(Offer)
        write(engine, INSERT.format(name="updated", state="failed"))
        write(engine, "UPDATE edge_job SET state = 'queued' WHERE task_id = 'updated'")
        await peer.expect(Offer)
        # As `edge set-worker-concurrency` of edge3 does it.
        write(engine, "UPDATE edge_worker SET concurrency = 2 WHERE worker_name = 'w1'")
        assert (await peer.expect(Wish)).concurrency == 2


async def test_what_waited_for_a_worker_or_a_slot(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    await until_woken(engine, gateway)
    enqueue(engine, new_job("1"), new_job("2"), new_job("other's", queue="other"))
    token = make_token(store)
    async with connected(gateway, token, concurrency=1) as peer:
        first = await peer.expect(Offer)
        with pytest.raises(TimeoutError):
            await peer.expect(Offer, within_s=0.2)
        async with connected(gateway, token, "w2", queues=("other", "q")) as second:
            assert {(await second.expect(Offer)).claim, (await second.expect(Offer)).claim} != {first.claim}


async def test_a_listener_that_is_cut_off(engine: sa.Engine, store: Store, gateway: RunningGateway) -> None:
    if engine.dialect.name != "postgresql":
        return
    await until_woken(engine, gateway)
    async with connected(gateway, make_token(store), concurrency=50) as peer:
        for number in range(5):
            write(
                engine,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'",
            )
            enqueue(engine, new_job(f"t{number}"))
            await peer.expect(Offer)
        await until_woken(engine, gateway)
        assert str((await health(gateway))["wakeup_since"]).startswith("20")


async def test_a_revoked_token_closes_its_connection_at_once(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    await until_woken(engine, gateway)
    async with connected(gateway, make_token(store)) as peer:
        store.tokens.revoke_token("test")
        assert (await peer.expect(Refused, within_s=2.0)).code.value == "token"


async def test_a_deleted_row_is_told_to_its_worker(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    if engine.dialect.name != "postgresql":
        return
    await until_woken(engine, gateway)
    job, successor = new_job("1"), new_job("2")
    async with connected(gateway, make_token(store), concurrency=1) as peer:
        enqueue(engine, job)
        offer = await peer.expect(Offer)
        await peer.send(Accept(claim=offer.claim, host=peer.host))
        await peer.expect(Go)
        enqueue(engine, successor)
        store.jobs.revoke(job.key)
        assert await peer.expect(Stale) == Stale(claim=offer.claim)
        await peer.expect(Offer)
        assert job_row(engine, successor.key).state == "restarting"
