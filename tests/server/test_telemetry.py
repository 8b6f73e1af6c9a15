"""What a gateway tells the centre's metrics and traces: each thing once, and never in the way of a job."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Ack, Finished, Held, HostDead, Started, Status, Timers
from edge_ws.protocol.ids import ClaimId, new_id
from edge_ws.protocol.states import Phase
from edge_ws.server import telemetry
from edge_ws.server.config import GatewaySettings
from edge_ws.server.ports import JobTrace, WorkerReading
from edge_ws.server.telemetry import Telemetry
from edge_ws.store.records import ClaimFacts
from edge_ws.store.store import Store
from tests.support.gateway import connected, make_token, run_to_started, serving
from tests.support.rows import enqueue, job_row, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

SETTINGS = GatewaySettings(hostname="test", timers=Timers(heartbeat_s=2.0), backup_scan_s=0.5)


class Told:
    """The centre's metrics and traces, which keep what they are told."""

    def __init__(self) -> None:
        self.readings: list[WorkerReading] = []
        self.gone: list[str] = []
        self.starts: list[str] = []
        self.ends: list[tuple[str, str | None]] = []

    def heard(self, readings: Sequence[WorkerReading]) -> None:
        self.readings += readings

    def silent(self, workers: Sequence[tuple[str, str | None]]) -> None:
        self.gone += [worker for worker, _ in workers]

    def started(self, jobs: Sequence[ClaimFacts]) -> None:
        self.starts += [job.key.task_id for job in jobs]

    def ended(self, jobs: Sequence[ClaimFacts]) -> None:
        self.ends += [(job.key.task_id, job.end_state) for job in jobs]


class Traced:
    def __init__(self) -> None:
        self.jobs: list[JobTrace] = []

    def ended(self, jobs: Sequence[JobTrace]) -> None:
        self.jobs += jobs


class Broken:
    """Raises what no port may raise."""

    def __init__(self) -> None:
        self.calls = 0

    def _fail(self, *_: object) -> None:
        self.calls += 1
        raise RuntimeError("no metrics today")

    heard = silent = started = ended = _fail


def finished(claim: ClaimId, exit_code: int = 0) -> Finished:
    return Finished(claim=claim, exit_code=exit_code, log_end=0, detail="", log_uploaded=True)


async def test_a_repeated_report_counts_once(sqlite_engine: sa.Engine) -> None:
    store, told, traced = Store(sqlite_engine), Told(), Traced()
    enqueue(sqlite_engine, new_job("a"))
    with serving(store, SETTINGS, metrics=told, traces=traced) as gateway:
        async with connected(gateway, make_token(store)) as peer:
            claim = await run_to_started(peer)
            for report in (Started(claim=claim, host=peer.host), finished(claim, 1), finished(claim, 1)):
                await peer.send(report)
                await peer.expect(Ack)
            enqueue(sqlite_engine, new_job("b"))
            await peer.send(finished(await run_to_started(peer)))
            await until(lambda: len(told.ends) > 1)
    assert told.starts == ["a", "b"]
    assert told.ends == [("a", "failed"), ("b", "success")]
    one, other = traced.jobs
    for job in (one, other):
        times = (job.queued_at, job.offered_at, job.accepted_at, job.started_at, job.ended_at)
        assert None not in times
        # By two clocks, the database's and ours, which on one machine differ by what reading them takes.
        assert [t for t in times if t] == pytest.approx(sorted(t for t in times if t), abs=0.05)


async def test_a_worker_that_moves_is_told_of_where_it_is(sqlite_engine: sa.Engine) -> None:
    store, one, other, traced = Store(sqlite_engine), Told(), Told(), Traced()
    token = make_token(store)
    enqueue(sqlite_engine, new_job("a"))
    async with AsyncExitStack() as stack:
        here = stack.enter_context(serving(store, SETTINGS, metrics=one, traces=Traced()))
        there = stack.enter_context(serving(store, SETTINGS, metrics=other, traces=traced))
        async with connected(here, token) as peer:
            claim = await run_to_started(peer)
            await until(lambda: any(reading.jobs_active for reading in one.readings))
            # Its first connection is open still, as it is where a proxy hides that it has broken.
            inventory = {"site": peer.inventory.site, "hosts": (peer.host,)}
            held = Held(claim=claim, phase=Phase.STARTED, host=peer.host, log_end=0)
            async with connected(there, token, **inventory, claims=(held,)) as moved:
                await moved.send(Started(claim=claim, host=peer.host))
                await until(lambda: any(reading.jobs_active for reading in other.readings))
                before = len(one.readings)
                heartbeats = len(other.readings)
                while len(other.readings) < heartbeats + 2:
                    await moved.send(Status(inventory=moved.inventory, sysinfo={}))
                    # Two more of the gateway's heartbeats, in which this worker is not silent.
                    await anyio.sleep(0.1)
                await moved.send(finished(claim))
                await until(lambda: other.ends)
                # The heartbeat at the moment of the move may be both's.
                assert len(one.readings) <= before + 1
    assert (one.starts, other.starts) == (["a"], [])
    assert (one.ends, other.ends) == ([], [("a", "success")])
    (job,) = traced.jobs
    assert (job.accepted_at, job.started_at) == (None, None)
    assert job.queued_at is not None
    assert job.queued_at <= job.offered_at < job.ended_at


async def test_what_dies_with_its_host_has_failed(sqlite_engine: sa.Engine) -> None:
    store, told = Store(sqlite_engine), Told()
    enqueue(sqlite_engine, new_job("a"))
    with serving(store, SETTINGS, metrics=told) as gateway:
        async with connected(gateway, make_token(store)) as peer:
            await run_to_started(peer)
            await peer.send(HostDead(host=peer.host, ended=()))
            await until(lambda: told.ends)
    assert told.ends == [("a", "failed")]


async def test_a_fault_of_the_metrics_costs_no_job(sqlite_engine: sa.Engine) -> None:
    store, broken, traces = Store(sqlite_engine), Broken(), Broken()
    with serving(store, SETTINGS, metrics=broken, traces=traces) as gateway:
        async with connected(gateway, make_token(store)) as peer:
            # More often than a loop may fail before it ends the gateway.
            for number in range(10):
                job = new_job(f"t{number}")
                enqueue(sqlite_engine, job)
                before = broken.calls
                await peer.send(finished(await run_to_started(peer)))
                await peer.expect(Ack)
                await until(lambda before=before: broken.calls > before)
                row = job_row(sqlite_engine, job.key)
                assert row is not None
                assert row.state == "success"


class NoDatabase:
    """Would be asked for the facts, and is not."""


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "WAITING", 3)
    store: Any = NoDatabase()
    one = Telemetry(store, Told(), None)
    for _ in range(5):
        one.ended([ClaimId(new_id())])
    assert one.left_out == 2
