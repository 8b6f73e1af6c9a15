"""edge3's own code deletes, queues anew and patches rows while one of our workers has them."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from edge_ws.protocol.ids import ClaimId, GatewayId
from edge_ws.provider import compat, workload
from edge_ws.provider.executor import EdgeWsExecutor
from edge_ws.store.records import Assignment, JobKey, Verdict
from edge_ws.store.store import Store
from tests.support.centre import SCHEDULER, Centre
from tests.support.reports import SingleReports
from tests.support.rows import FakeWorker


class JobFacts:
    """Both executors, one worker of ours, and a task that one of the executors has queued."""

    def __init__(self, centre: Centre, *, by: str) -> None:
        from airflow.providers.edge3.executors import EdgeExecutor

        self.centre, self.store = centre, Store(centre.engine)
        self.theirs, self.ours = EdgeExecutor(), EdgeWsExecutor()
        self.theirs.job_id = self.ours.job_id = SCHEDULER
        self.by = self.theirs if by == "theirs" else self.ours
        self.worker = FakeWorker(self.store, "factory-7")
        self.store.liveness.announce(GatewayId(self.worker.gateway), "here", 1)
        self.worker.register()
        self.ti = centre.task(queue="q")
        self.key = workload.task_row(self.ti, 1)
        self.queue()

    def queue(self) -> None:
        with create_session(scoped=False) as session:
            self.by.queue_workload(self.centre.workload(self.ti), session=session)

    def claim(self) -> ClaimId:
        (candidate,) = self.store.dispatch.candidates(None, 10)
        assert candidate.key == self.key
        assignment = Assignment(
            key=candidate.key,
            slots=1,
            worker=self.worker.principal.worker,
            site=self.worker.inventory().site,
            concurrency=4,
            place=candidate.place,
        )
        (claimed,) = self.store.dispatch.claim(GatewayId(self.worker.gateway), [assignment], 10.0)
        return claimed.claim

    def start(self) -> ClaimId:
        claim = self.claim()
        self.worker.accept(claim)
        SingleReports(self.store.reports).started(self.worker.principal, claim, self.worker.host)
        return claim

    def patch(self, state: TaskInstanceState) -> None:
        """Report as an edge3 worker does that lost the job long ago."""
        from airflow.providers.edge3.worker_api.routes import jobs

        key: JobKey = self.key
        with create_session(scoped=False) as session:
            names = (key.dag_id, key.task_id, key.run_id, key.try_number, key.map_index)
            jobs.state(*names, state, session, key.task_instance_id or None)

    def row(self) -> Any:
        return self.centre.rows().get(self.key)

    def events(self) -> dict[Any, str]:
        self.ours.sync()
        self.theirs.sync()
        return {key: str(getattr(state, "value", state)) for key, (state, _) in self.by.event_buffer.items()}


@pytest.mark.parametrize("late", [TaskInstanceState.FAILED, TaskInstanceState.SUCCESS])
def test_a_late_report_of_an_edge3_worker_ends_nothing_of_ours(
    centre: Centre, late: TaskInstanceState
) -> None:
    scene = JobFacts(centre, by="ours")
    claim = scene.start()
    scene.centre.set_task(scene.ti, state="running")
    scene.patch(late)
    assert scene.events() == {}
    scene.store.claims.repair()
    assert scene.row().state == "running"
    scene.patch(late)
    assert scene.worker.finish(claim, 1) is Verdict.DONE
    assert scene.row().state == "failed"
    assert scene.events() == {compat.ti_key(scene.ti): "failed"}


@pytest.mark.parametrize("by", ["ours", "theirs"])
def test_a_task_is_revoked_by_edge3(centre: Centre, by: str) -> None:
    scene = JobFacts(centre, by=by)
    claim = scene.claim()
    scene.theirs.revoke_task(ti=scene.ti)
    assert scene.row() is None
    assert scene.worker.accept(claim) is Verdict.STALE
    assert scene.events() == {}


def test_a_new_round_while_the_old_ones_report_is_on_its_way(centre: Centre) -> None:
    """edge3's executor overwrites the row, and leaves our claim in it."""
    scene = JobFacts(centre, by="theirs")
    old = scene.start()
    scene.queue()
    assert scene.row().edge_ws_claim == old
    assert scene.worker.finish(old) is Verdict.STALE
    assert scene.row().state == "queued"
    new = scene.start()
    assert scene.worker.finish(old) is Verdict.STALE
    assert scene.worker.finish(new) is Verdict.DONE
    assert scene.row().state == "success"
    assert scene.events() == {compat.ti_key(scene.ti): "success"}


def test_a_new_round_goes_to_an_edge3_worker(centre: Centre) -> None:
    from airflow.providers.edge3.models.edge_worker import EdgeWorkerModel, EdgeWorkerState
    from airflow.providers.edge3.worker_api.datamodels import WorkerQueuesBody
    from airflow.providers.edge3.worker_api.routes import jobs

    scene = JobFacts(centre, by="theirs")
    old = scene.start()
    scene.queue()
    with create_session(scoped=False) as session:
        session.add(EdgeWorkerModel("old-1", EdgeWorkerState.IDLE, None))
    asks = WorkerQueuesBody(queues=None, free_concurrency=1, supports_task_instance_uuid=True)
    with create_session(scoped=False) as session:
        assert jobs.fetch("old-1", asks, session) is not None
    scene.patch(TaskInstanceState.RUNNING)
    assert scene.worker.finish(old, 1) is Verdict.STALE
    scene.store.claims.repair()
    assert (scene.row().state, scene.row().edge_worker) == ("running", "old-1")
    scene.patch(TaskInstanceState.SUCCESS)
    scene.store.claims.repair()
    assert scene.row().state == "success"
    assert scene.events() == {compat.ti_key(scene.ti): "success"}
