"""A real gateway over real WebSockets: jobs go out, reports come in, faults stay small."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import anyio
import httpx2
import pytest
import sqlalchemy as sa
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Applied,
    Bye,
    Cancel,
    Finished,
    Go,
    Held,
    HostDead,
    Log,
    LogAck,
    NotStarted,
    Offer,
    PhaseIs,
    Query,
    Refuse,
    Refused,
    Stale,
    Started,
    Status,
    Welcome,
    Wish,
)
from edge_ws.protocol.ids import ClaimId, new_id
from edge_ws.protocol.states import Phase
from edge_ws.server.workers import GREETED_AT_ONCE
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker
from tests.support.gateway import RunningGateway, connected, is_connected, make_token, run_to_started
from tests.support.rows import change_job, end_leases, enqueue, job_row, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_job_from_row_to_end(engine: sa.Engine, store: Store, gateway: RunningGateway) -> None:
    job = new_job(ti_id="ti-1")
    async with connected(gateway, make_token(store)) as peer:
        enqueue(engine, job)
        offer = await peer.expect(Offer)
        assert '"token":""' in offer.payload
        await peer.send(Accept(claim=offer.claim, host=peer.host))
        assert (await peer.expect(Go)).token == "token for ti-1"
        await peer.send(Started(claim=offer.claim, host=peer.host))
        assert await peer.expect(Ack) == Ack(claim=offer.claim, phase=Phase.STARTED)
        await peer.send(Log(claim=offer.claim, offset=0, data=b"hello\n"))
        assert (await peer.expect(LogAck)).log_end == 6
        await peer.send(Finished(claim=offer.claim, exit_code=0, log_end=6))
        assert await peer.expect(Ack) == Ack(claim=offer.claim, phase=Phase.ENDED)
        assert job_row(engine, job.key).state == "success"
        await until(lambda: gateway.logs.files == {"t.log": b"hello\n"})
        await until(lambda: gateway.logs.uploaded == ["t.log"])


async def test_a_backlog_fills_free_slots_only(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    jobs = [new_job(f"t{number}") for number in range(6)]
    enqueue(engine, *jobs, new_job("elsewhere", queue="other"))
    async with connected(gateway, make_token(store)) as peer:
        offers = [await peer.expect(Offer) for _ in range(4)]
        with pytest.raises(TimeoutError):
            await peer.expect(Offer, within_s=0.3)
        await peer.send(Refuse(claim=offers[0].claim, reason="no"))
        claim = offers[1].claim
        await peer.send(Accept(claim=claim, host=peer.host))
        await peer.expect(Go)
        await peer.send(Finished(claim=claim, exit_code=0, log_end=0))
        assert (await peer.expect(Offer)).claim not in {offer.claim for offer in offers}


async def test_a_job_of_another_team_is_not_forgotten(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    a, b = (make_token(store, f"{team}*", team=team) for team in "ab")
    async with (
        connected(gateway, b, name="b1", concurrency=1) as full,
        connected(gateway, a, name="a1") as other,
    ):
        enqueue(engine, new_job("first", team="b"))
        claim = await run_to_started(full)
        enqueue(engine, new_job("second", team="b"), new_job("of a", team="a"))
        mine = await run_to_started(other)
        await other.send(Finished(claim=mine, exit_code=0, log_end=0))
        await other.expect(Ack)
        await full.send(Finished(claim=claim, exit_code=0, log_end=0))
        await full.expect(Offer)


async def test_a_job_too_wide_for_all_is_not_forgotten(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    async with connected(gateway, token) as narrow:
        enqueue(engine, new_job("wide", slots=5))
        with pytest.raises(TimeoutError):
            await narrow.expect(Offer, within_s=0.3)
        async with connected(gateway, token, name="w2", concurrency=5) as wide:
            assert (await wide.expect(Offer)).slots == 5


async def test_a_wish_travels_and_is_acknowledged(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        assert peer.welcome.wish == Wish(revision=0, concurrency=None, queues=None)
        revision = store.operators.wish_concurrency("w1", 1).revision
        wish = await peer.expect(Wish)
        assert (wish.revision, wish.concurrency) == (revision, 1)
        await peer.send(Applied(revision=revision, concurrency=1, queues=("q",)))
        await until(lambda: store.operators.applied("w1") == revision)
        enqueue(engine, new_job("1"), new_job("2"))
        await peer.expect(Offer)
        with pytest.raises(TimeoutError):
            await peer.expect(Offer, within_s=0.3)


async def test_edge3s_cli_reaches_a_worker_too(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        with engine.begin() as connection:
            connection.execute(edge_worker.update().values(concurrency=2, queues="['q', 'r']"))
        wish = await peer.expect(Wish)
        assert (wish.concurrency, wish.queues) == (2, ("q", "r"))


async def test_a_draining_worker_gets_nothing(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store), draining=True) as peer:
        enqueue(engine, new_job())
        with pytest.raises(TimeoutError):
            await peer.expect(Offer, within_s=0.3)
        from dataclasses import replace

        await peer.send(Status(inventory=replace(peer.inventory, draining=False)))
        await peer.expect(Offer)


async def test_a_lost_connection_frees_its_offers(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    job = new_job()
    async with connected(gateway, token) as peer:
        enqueue(engine, job)
        await peer.expect(Offer)
    async with connected(gateway, token, "w2") as other:
        await other.expect(Offer)
        assert job_row(engine, job.key).edge_worker == "w2"


async def test_an_unanswered_offer_goes_elsewhere(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    async with connected(gateway, token) as silent:
        enqueue(engine, new_job())
        offer = await silent.expect(Offer)
        end_leases(engine)
        again = await silent.expect(Offer)
        assert again.claim != offer.claim
        await silent.send(Accept(claim=offer.claim, host=silent.host))
        assert (await silent.expect(Stale)).claim == offer.claim


async def test_a_reconnect_says_what_is_stale_and_asks_for_the_rest(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    async with connected(gateway, token) as peer:
        enqueue(engine, new_job())
        claim = await run_to_started(peer)
        site = peer.inventory.site
    foreign = ClaimId(new_id())
    held = Held(claim=foreign, phase=Phase.STARTED, log_end=0)
    async with connected(gateway, token, site=site, claims=(held,)) as peer:
        told = {type(frame): frame.claim for frame in [await peer.receive(), await peer.receive()]}
        assert told == {Stale: foreign, Query: claim}
        await peer.send(PhaseIs(claim=claim, phase=Phase.UNKNOWN))
        await until(lambda: any(one.result == "not_started" for one in store.claims.unsettled()))


async def test_another_site_of_the_name_is_not_asked(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    """It would say `unknown` of a job that its predecessor may be running."""
    token = make_token(store)
    async with connected(gateway, token) as peer:
        enqueue(engine, new_job())
        await run_to_started(peer)
    await until(lambda: not is_connected(store))
    async with connected(gateway, token) as other:
        assert other.inventory.site != peer.inventory.site
        with pytest.raises(TimeoutError):
            await other.expect(Query, within_s=0.3)


async def test_a_started_that_was_lost_is_learnt_from_the_inventory(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    job = new_job()
    async with connected(gateway, token) as peer:
        enqueue(engine, job)
        offer = await peer.expect(Offer)
        await peer.send(Accept(claim=offer.claim, host=peer.host))
        await peer.expect(Go)
        inventory = peer.inventory
    held = Held(claim=offer.claim, phase=Phase.STARTED, log_end=0, host=peer.host)
    async with connected(gateway, token, site=inventory.site, claims=(held,)):
        await until(lambda: job_row(engine, job.key).state == "running")


async def test_a_deleted_task_is_cancelled_at_once(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        enqueue(engine, new_job(ti_id="ti-1"))
        claim = await run_to_started(peer)
        gateway.tasks.gone.add("ti-1")
        cancel = await peer.expect(Cancel, within_s=2.0)
        assert (cancel.claim, cancel.reason) == (claim, "the task was deleted")


async def test_a_job_that_could_not_start_is_offered_again_when_its_token_is_over(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        enqueue(engine, new_job(ti_id="ti-1"))
        gateway.tasks.known["ti-1"] = "queued"
        offer = await peer.expect(Offer)
        await peer.send(Accept(claim=offer.claim, host=peer.host))
        await peer.expect(Go)
        await peer.send(NotStarted(claim=offer.claim, reason="/run answered 409"))
        await peer.expect(Ack)
        with pytest.raises(TimeoutError):
            await peer.expect(Offer, within_s=1.2)
        end_leases(engine)
        assert (await peer.expect(Offer)).claim != offer.claim


async def test_a_dead_host_fails_its_jobs_at_once(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    job = new_job()
    async with connected(gateway, make_token(store)) as peer:
        enqueue(engine, job)
        claim = await run_to_started(peer)
        await peer.send(HostDead(host=peer.host))
        assert await peer.expect(Ack) == Ack(claim=claim, phase=Phase.ENDED)
        assert job_row(engine, job.key).state == "failed"


async def test_a_report_after_a_new_round_is_stale(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    job = new_job()
    async with connected(gateway, make_token(store)) as peer:
        enqueue(engine, job)
        claim = await run_to_started(peer)
        change_job(engine, job.key, queue="other")
        enqueue(engine, new_job(queue="other"))
        await peer.send(Finished(claim=claim, exit_code=1, log_end=0))
        assert (await peer.expect(Stale)).claim == claim
        assert job_row(engine, job.key).state == "queued"


async def test_a_newer_connection_replaces_the_older(store: Store, gateway: RunningGateway) -> None:
    token = make_token(store)
    async with connected(gateway, token) as first, connected(gateway, token, site=first.inventory.site):
        with pytest.raises(ConnectionClosed) as closed:
            await first.expect(Welcome)
        assert closed.value.rcvd.code == 4001
        # Its end must not have marked the newer one as gone before it ended itself.
    (record,) = store.views.workers()
    await until(lambda: store.views.workers()[0].transport is None)
    assert record.name == "w1"


async def test_a_live_name_is_refused(store: Store, gateway: RunningGateway) -> None:
    token = make_token(store)
    async with connected(gateway, token), connected(gateway, token, greet=False) as second:
        await second.hello()
        refused = await second.expect(Refused)
        assert (refused.code.value, "in use" in refused.sentence) == ("name_in_use", True)
        with pytest.raises(ConnectionClosed) as closed:
            await second.receive()
        assert closed.value.rcvd.code == 4500


async def test_a_goodbye_is_shown(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store)) as peer:
        await peer.send(Bye(reason="drained"))
        await until(lambda: store.views.workers()[0].state == "offline")


@pytest.mark.parametrize(
    ("token", "name", "sentence"),
    [
        ("", "w1", "none was sent"),
        ("edgews_wrong", "w1", "unknown"),
        ("good", "other", "admits workers named w*"),
        ("good", "w 1", "names no worker"),
        ("expired", "w1", "expired 20"),
        ("revoked", "w1", "revoked 20"),
    ],
)
async def test_bad_tokens_are_refused_before_the_upgrade(
    store: Store,
    gateway: RunningGateway,
    caplog: pytest.LogCaptureFixture,
    *,
    token: str,
    name: str,
    sentence: str,
) -> None:
    secrets = {"good": make_token(store), "expired": make_token(store, expires_in_s=-5.0), "revoked": ""}
    secrets["revoked"] = store.tokens.create_token(
        "revoked", worker_pattern="w*", queues=None, team=None, expires_in_s=None
    )
    store.tokens.revoke_token("revoked")
    headers = {"edge-ws-token": secrets.get(token, token), "edge-ws-worker": name}
    for _ in range(2):
        with pytest.raises(InvalidStatus) as refused:
            await connect(gateway.ws_url, additional_headers=headers)
        response = refused.value.response
        assert (response.status_code, response.headers["edge-ws-error"]) == (401, "token")
        assert sentence in response.body.decode()
    # Once each, and of no stranger.
    told = [one.getMessage() for one in caplog.records if "is refused: its token" in one.getMessage()]
    known = token in {"expired", "revoked"} or name == "other"
    assert len(told) == (1 if known else 0)
    assert all(f"Worker {name} is refused: its token " in one and sentence in one for one in told)


async def test_queues_and_teams_beyond_the_token_are_refused(store: Store, gateway: RunningGateway) -> None:
    token = make_token(store, queues=["q"], team="a")
    for asked in ({"queues": ("q", "r")}, {"team": "b"}):
        async with connected(gateway, token, greet=False) as peer:
            await peer.hello(**asked)
            assert (await peer.expect(Refused)).code.value == "not_admitted"
    async with connected(gateway, token, greet=False) as peer:
        await peer.hello(queues=None)
        await peer.expect(Welcome)
        assert store.views.workers()[0].team == "a"


async def test_a_revoked_token_closes_its_connection(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store)) as peer:
        store.tokens.revoke_token("test")
        assert (await peer.expect(Refused, within_s=3.0)).code.value == "token"


async def test_no_protocol_in_common(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store), greet=False) as peer:
        await peer.hello(protocol=9, oldest_protocol=8)
        refused = await peer.expect(Refused)
        assert (refused.code.value, "upgrade" in refused.sentence) == ("version", True)


@pytest.mark.parametrize(
    "data",
    ["{", "[1]", '{"type":"nonsense"}', '{"type":"welcome"}', '{"type":"accept","claim":1}', "[" * 5000],
)
async def test_garbage_closes_its_own_connection_only(
    engine: sa.Engine, store: Store, gateway: RunningGateway, data: str
) -> None:
    token = make_token(store)
    async with connected(gateway, token) as good, connected(gateway, token, "w2") as bad:
        await bad.connection.send(data)
        with pytest.raises(ConnectionClosed) as closed:
            await bad.expect(Welcome)
        assert closed.value.rcvd.code == 4400
        enqueue(engine, new_job())
        await good.expect(Offer)


async def test_no_hello_in_time_closes(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store), greet=False) as peer:
        with pytest.raises(ConnectionClosed) as closed:
            await peer.receive()
        assert closed.value.rcvd.code == 4008


async def test_health_and_a_get_on_the_websocket_path(gateway: RunningGateway) -> None:
    async with httpx2.AsyncClient() as client:
        health = await client.get(f"{gateway.base_url}/edge-ws/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
        plain = await client.get(f"{gateway.base_url}/edge-ws/v1/ws")
        assert (plain.status_code, plain.headers["edge-ws-error"]) == (426, "upgrade_required")


async def test_a_death_that_was_not_heard_is_learnt_from_the_inventory(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    job = new_job()
    async with connected(gateway, token) as peer:
        enqueue(engine, job)
        await run_to_started(peer)
        site, dead = peer.inventory.site, (peer.host,)
    async with connected(gateway, token, site=site, dead_hosts=dead):
        await until(lambda: job_row(engine, job.key).state == "failed")


async def test_many_who_come_at_once_are_let_in_by_turns(store: Store, gateway: RunningGateway) -> None:
    token = make_token(store)
    told: list[dict[str, object]] = []

    async def come(name: str) -> None:
        for _ in range(20):
            try:
                async with connected(gateway, token, name):
                    return
            except InvalidStatus as error:
                told.append(json.loads(error.response.body))
                # What a worker does; that it then gets in is what the test is about.
                await anyio.sleep(told[-1]["retry_after_s"])
        raise AssertionError(f"{name} never got in")

    async with AsyncExitStack() as stack:
        # Silent ones hold their places until they are given up.
        silent = [
            await stack.enter_async_context(
                connect(
                    gateway.ws_url,
                    additional_headers={"edge-ws-token": token, "edge-ws-worker": f"w-silent-{number}"},
                    compression=None,
                )
            )
            for number in range(GREETED_AT_ONCE)
        ]
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(come, f"w{number + 2}")
            await until(lambda: len(told) >= 5)
            assert {one["error"] for one in told} == {"unavailable"}
            assert len({one["retry_after_s"] for one in told[:5]}) > 1
            for one in silent:
                await one.close()
