"""Which tasks are stopped by push, how soon, and what a cancel that comes too late does."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Ack, Cancel, Finished, PhaseIs, Query
from edge_ws.server import reaper
from edge_ws.server.ports import ARCHIVED, RESTARTING
from edge_ws.server.reaper import LOOK_S, SETTLE_S
from edge_ws.store.store import Store
from tests.support.gateway import RunningGateway, connected, make_token, run_to_started
from tests.support.rows import claim_row, enqueue, job_row, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    return sqlite_engine


@pytest.mark.parametrize("state", ["failed", "skipped", "removed"])
async def test_a_running_task_that_somebody_ends_is_stopped_soon(
    engine: sa.Engine, store: Store, gateway: RunningGateway, state: str
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        enqueue(engine, new_job(ti_id="ti-1"))
        claim = await run_to_started(peer)
        begun = time.monotonic()
        gateway.tasks.known["ti-1"] = state
        cancel = await peer.expect(Cancel, within_s=5.0)
        assert cancel == Cancel(claim=claim, reason=f"the task's state is {state}")
        assert time.monotonic() - begun >= SETTLE_S


@pytest.mark.parametrize(
    ("state", "why"), [(RESTARTING, "the task was cleared"), (None, "the task was deleted")]
)
async def test_a_task_that_is_cleared_or_deleted_is_stopped_at_once(
    engine: sa.Engine, store: Store, gateway: RunningGateway, state: str | None, why: str
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        enqueue(engine, new_job(ti_id="ti-1"))
        claim = await run_to_started(peer)
        if state is None:
            gateway.tasks.gone.add("ti-1")
        else:
            gateway.tasks.known["ti-1"] = state
        assert await peer.expect(Cancel, within_s=5.0) == Cancel(claim=claim, reason=why)


@pytest.mark.parametrize("state", ["success", "deferred", ARCHIVED])
async def test_a_task_that_has_told_its_end_itself_may_run_its_callbacks(
    engine: sa.Engine, store: Store, gateway: RunningGateway, state: str
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        enqueue(engine, new_job(ti_id="ti-1"))
        await run_to_started(peer)
        gateway.tasks.known["ti-1"] = state
        with pytest.raises(TimeoutError):
            await peer.expect(Cancel, within_s=2 * LOOK_S + SETTLE_S)


@pytest.mark.parametrize(("known", "row"), [("started", "running"), ("unknown", "removed")])
async def test_a_worker_is_asked_for_a_job_whose_task_has_long_been_over(
    engine: sa.Engine,
    store: Store,
    gateway: RunningGateway,
    monkeypatch: pytest.MonkeyPatch,
    *,
    known: str,
    row: str,
) -> None:
    """A daemon with a copy of its state directory may have had it, and be gone."""
    monkeypatch.setattr(reaper, "DOUBT_S", 0.3)
    async with connected(gateway, make_token(store)) as peer:
        job = new_job(ti_id="ti-1")
        enqueue(engine, job)
        claim = await run_to_started(peer)
        gateway.tasks.known["ti-1"] = "success"
        assert await peer.expect(Query, within_s=3.0) == Query(claim=claim)
        await peer.send(PhaseIs(claim=claim, phase=known, host=peer.host if known == "started" else None))
        if row == "removed":
            await until(lambda: job_row(engine, job.key).state == row)
        # Once, whatever it says.
        with pytest.raises(TimeoutError):
            await peer.expect(Query, within_s=2 * LOOK_S)
        assert job_row(engine, job.key).state == row


async def test_a_task_that_fails_by_itself_is_not_cancelled(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    """Its supervisor reports the state, and a moment later its end."""
    async with connected(gateway, make_token(store)) as peer:
        job = new_job(ti_id="ti-1")
        enqueue(engine, job)
        claim = await run_to_started(peer)
        gateway.tasks.known["ti-1"] = "failed"
        await peer.send(Finished(claim=claim, exit_code=0, log_end=0))
        await until(lambda: job_row(engine, job.key).state == "success")
        with pytest.raises(TimeoutError):
            await peer.expect(Cancel, within_s=LOOK_S + SETTLE_S)


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_a_cancel_that_crosses_the_end_leaves_one_end(
    engine: sa.Engine, store: Store, gateway: RunningGateway, exit_code: int
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        job = new_job(ti_id="ti-1")
        enqueue(engine, job)
        claim = await run_to_started(peer)
        gateway.tasks.gone.add("ti-1")
        await peer.expect(Cancel, within_s=5.0)
        # It had ended before the cancel came: the worker repeats its report until it is acknowledged, and
        # says again how it ended when it is told to stop what is over.
        finished = Finished(claim=claim, exit_code=exit_code, log_end=0)
        for end in (finished, finished, Finished(claim=claim, exit_code=1 - exit_code, log_end=0)):
            await peer.send(end)
            await peer.expect(Ack)
        wanted = "failed" if exit_code else "success"
        row, one = job_row(engine, job.key), claim_row(engine, claim)
        assert row is not None
        assert (row.state, one.result, one.phase) == (wanted, wanted, "ended")
        ended_at = one.ended_at
        with pytest.raises(TimeoutError):
            await peer.expect(Cancel, within_s=LOOK_S + SETTLE_S)
        row, one = job_row(engine, job.key), claim_row(engine, claim)
        assert row is not None
        assert (row.state, one.ended_at) == (wanted, ended_at)
