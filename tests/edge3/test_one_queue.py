"""A queue that edge3's workers and ours serve together, with two schedulers: each job runs once."""

from __future__ import annotations

import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from edge_ws.provider.executor import EdgeWsExecutor
from edge_ws.store.store import Store
from edge_ws.store.tables import claim, edge_job
from tests.bench.control import Program
from tests.support.centre import SCHEDULER, Centre
from tests.support.gateway import make_token, serving
from tests.support.programs import clean_environment
from tests.support.waiting import wait_until

JOBS = 1000
QUEUE = "q0"
"""The one that the simulated workers of ours serve."""
AT_ONCE = 10


class Edge3Worker:
    """A simulated worker of edge3's at its real routes: fetches a job, says running, says success."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fetched: list[str] = []

    def register(self) -> None:
        from airflow.providers.edge3.models.edge_worker import EdgeWorkerModel, EdgeWorkerState

        with create_session(scoped=False) as session:
            session.add(EdgeWorkerModel(self.name, EdgeWorkerState.IDLE, [QUEUE]))

    def run_one(self) -> bool:
        """Return whether there was a job."""
        from airflow.providers.edge3.worker_api.datamodels import WorkerQueuesBody
        from airflow.providers.edge3.worker_api.routes import jobs

        asked = WorkerQueuesBody(queues=[QUEUE], free_concurrency=1, supports_task_instance_uuid=True)
        with create_session(scoped=False) as session:
            job = jobs.fetch(self.name, asked, session)
        if job is None:
            return False
        self.fetched.append(job.task_id)
        key = (job.dag_id, job.task_id, job.run_id, job.try_number, job.map_index)
        for state in (TaskInstanceState.RUNNING, TaskInstanceState.SUCCESS):
            with create_session(scoped=False) as session:
                jobs.state(*key, state, session, job.task_instance_id)
        return True


class Scheduler:
    """Both executors of one scheduler; queues as many jobs with each."""

    def __init__(self, centre: Centre, job_id: int, ti: Any, count: int) -> None:
        from airflow.providers.edge3.executors import EdgeExecutor

        self.theirs, self.ours = EdgeExecutor(), EdgeWsExecutor()
        self.theirs.job_id = self.ours.job_id = job_id
        self.ours.start()
        base = centre.workload(ti)
        self._work = [
            (executor, base.model_copy(update={"ti": self._task(base.ti, f"{kind}-{job_id}-{number}")}))
            for number in range(count)
            for kind, executor in (("theirs", self.theirs), ("ours", self.ours))
        ]
        centre.copies(ti, {item.ti.id: item.ti.task_id for _, item in self._work})

    @staticmethod
    def _task(ti: Any, name: str) -> Any:
        return ti.model_copy(update={"id": uuid.uuid4(), "task_id": name, "queue": QUEUE})

    def loop(self) -> None:
        """As the scheduler's: queue some in one transaction, let both executors look."""
        while self._work:
            some, self._work = self._work[:AT_ONCE], self._work[AT_ONCE:]
            with create_session(scoped=False) as session:
                for executor, item in some:
                    executor.queue_workload(item, session=session)
            self.theirs.sync()
            self.ours.sync()

    def settle(self) -> bool:
        self.theirs.sync()
        self.ours.sync()
        return not self.theirs.running and not self.ours.running


@contextmanager
def repeating(*acts: Any) -> Iterator[list[Exception]]:
    """Call each again and again, on a thread of its own, until the block ends; give what went wrong."""
    stop, errors = threading.Event(), []

    def repeat(act: Any) -> None:
        try:
            while not stop.is_set():
                act() or stop.wait(0.02)
        except Exception as error:  # noqa: BLE001 - the test's own thread tells it
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("migrated", ["postgresql-18"], indirect=True)
@pytest.mark.timeout(120)
def test_a_thousand_jobs_each_run_once(centre: Centre, tmp_path: Path) -> None:
    ti = centre.task()
    schedulers = [Scheduler(centre, job_id, ti, JOBS // 4) for job_id in (SCHEDULER, SCHEDULER + 1)]
    edge3 = [Edge3Worker(f"edge3-{number}") for number in range(3)]
    for worker in edge3:
        worker.register()
    store = Store(centre.engine)
    with serving(store) as gateway:
        url = f"{gateway.base_url}/edge-ws"
        command = [sys.executable, "-m", "tests.bench.websocket_fleet", url, make_token(store, "*")]
        with Program(command, clean_environment(tmp_path), tmp_path / "fleet.log") as fleet:
            fleet.ask("connect", count=2, queues="one", slots=1, at_once=2, within_s=20)
            with repeating(*(worker.run_one for worker in edge3)) as errors:
                loops = [threading.Thread(target=scheduler.loop) for scheduler in schedulers]
                for loop in loops:
                    loop.start()
                for loop in loops:
                    loop.join()
                wait_until(lambda: errors or ended(centre) == JOBS, 60, every_s=0.1)
            said = fleet.ask("wait_ended", count=0, within_s=0)
    assert errors == []
    for scheduler in schedulers:
        wait_until(scheduler.settle, 10, every_s=0.1)

    by_edge3 = Counter(name for worker in edge3 for name in worker.fetched)
    with centre.engine.connect() as connection:
        rows = connection.execute(
            sa.select(edge_job.c.task_id, edge_job.c.state, edge_job.c.edge_worker)
        ).all()
        finished = sa.select(claim.c.task_id).where(claim.c.result == "success")
        by_ours = Counter(connection.scalars(finished))
        started = connection.scalars(sa.select(claim.c.task_id).where(claim.c.host.is_not(None))).all()
    assert {row.state for row in rows} == {"success"}
    assert len(by_edge3) > JOBS // 20
    assert len(by_ours) > JOBS // 20
    # Who started what: each job once, here or there.
    assert (by_edge3 + Counter(started)).most_common(1)[0][1] == 1
    assert set(started) == set(by_ours)
    assert set(by_edge3) | set(by_ours) == {row.task_id for row in rows}
    assert len(rows) == JOBS
    assert said["stale"] == 0
    for scheduler in schedulers:
        told = Counter(str(state) for state, _ in scheduler.theirs.event_buffer.values())
        assert told == {"success": JOBS // 4}
        assert all(key.task_id.startswith("theirs") for key in scheduler.theirs.event_buffer)
        assert all(key.task_id.startswith("ours") for key in scheduler.ours.event_buffer)


def ended(centre: Centre) -> int:
    with centre.engine.connect() as connection:
        query = sa.select(sa.func.count()).where(edge_job.c.state == "success")
        return int(connection.execute(query).scalar_one())
