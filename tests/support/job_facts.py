"""One job and its surroundings, made up for tests of the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.server.diagnosis import JobFacts
from edge_ws.store.records import GatewayRecord, JobKey
from edge_ws.store.view_records import ClaimView, JobView, TokenView, WorkerView

GATEWAY = GatewayRecord(id=GatewayId("g"), hostname="api-1", pid=7, seen_s=3.0)
NOW = 1_800_000_000.0


def a_job(**changes: Any) -> JobView:
    """Return a job of one slot that has waited for queue `gpu` for three minutes."""
    job = JobView(
        key=JobKey("dag", "t", "run", -1, 1),
        state="queued",
        queue="gpu",
        slots=1,
        priority=1,
        team=None,
        owner=7,
        reported=False,
        worker=None,
        queued_at=None,
        waited_s=180.0,
        updated_s=180.0,
        claim=None,
    )
    return replace(job, **changes)


def a_worker(name: str = "w1", **changes: Any) -> WorkerView:
    """Return a connected worker of ours with four free slots for queue `gpu`."""
    worker = WorkerView(
        name=WorkerName(name),
        is_ours=True,
        state="idle",
        comment=None,
        team=None,
        queues=("gpu",),
        wished_queues=None,
        local_queues=("gpu",),
        concurrency=4,
        wished_concurrency=None,
        local_concurrency=4,
        taken=0,
        jobs=0,
        seen_s=2.0,
        first_online=None,
        gateway=GatewayId("g"),
        transport="websocket",
    )
    return replace(worker, **changes)


def an_edge3_worker(name: str = "e1", **changes: Any) -> WorkerView:
    """Return a worker of edge3 with four free slots for queue `gpu`."""
    worker = a_worker(name, is_ours=False, gateway=None, transport=None, silent_after_s=150.0)
    return replace(worker, **changes)


def a_token(**changes: Any) -> TokenView:
    """Return a token that admits everything."""
    return replace(TokenView(name="plant", queues=None, team=None, is_good=True, expires_at=None), **changes)


def a_claim(phase: Phase, **changes: Any) -> ClaimView:
    """Return a claim of worker `w1`, offered three seconds ago, with seven left."""
    claim = ClaimView(
        id=ClaimId("c"),
        worker=WorkerName("w1"),
        phase=phase,
        result=None,
        detail="",
        offered_s=3.0,
        ended_s=None,
        lease_s=7.0,
    )
    return replace(claim, **changes)


def a_scene(job: JobView, *workers: WorkerView, **changes: Any) -> JobFacts:
    """Return the job among these workers, with one gateway that is alive."""
    facts = JobFacts(job=job, history=(), ahead=0, workers=workers, gateways=(GATEWAY,), now=NOW)
    return replace(facts, **changes)
