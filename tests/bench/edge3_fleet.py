"""The generator of edge3's side: many workers in one process that call its own client, `cli/api_client.py`.

Runs in edge3's environment, so it knows nothing of edge-ws. The loop is that of edge3's `cli/worker.py` with
its default intervals; a job takes no time, and its end is noticed at once (there: within 0.1 s).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from airflow import __version__ as airflow_version
from airflow.providers.edge3 import __version__ as edge3_version
from airflow.providers.edge3.cli import api_client
from airflow.providers.edge3.models.edge_worker import EdgeWorkerState
from airflow.utils.state import TaskInstanceState

from tests.bench.control import obey, raise_file_limit, until

POLL_S = 5.0
HEARTBEAT_S = 30.0


class Record:
    """What the fleet has seen since it was last reset."""

    def __init__(self) -> None:
        self.offers: list[tuple[str, int]] = []
        self.applied: list[tuple[str, int, int]] = []
        self.ended = 0
        self.last_end_ns = 0


class Fleet:
    """All workers."""

    def __init__(self) -> None:
        self.record = Record()
        self.errors: Counter[str] = Counter()
        self.workers: list[Worker] = []
        self.ready = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors[type(error).__name__] += 1

    async def connect(self, count: int, *, queues: str, slots: int, at_once: int, within_s: float) -> float:
        """Register more workers, some at a time, and let them poll; return the seconds it took.

        They begin spread over a poll interval, as workers do that were not all started at one instant.
        """
        begun = time.monotonic()
        first = len(self.workers)
        gate = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            queue = f"q{number}" if queues == "each" else "q0"
            worker = Worker(self, f"bench-{number}", queue, slots)
            self.workers.append(worker)
            async with gate:
                await worker.register()
            self.ready += 1
            self.spawn(worker.loop(begun + POLL_S * (number - first) / count))

        async with asyncio.timeout(within_s):
            await asyncio.gather(*(one(number) for number in range(first, first + count)))
        return time.monotonic() - begun

    async def wait_ended(self, count: int, within_s: float) -> dict[str, Any]:
        """Wait until so many jobs have ended since the reset, or the time is up."""
        await until(lambda: self.record.ended >= count, within_s)
        return {"ended": self.record.ended, "last_ns": self.record.last_end_ns, "stale": 0, "said_again": 0}

    async def wait_offers(self, count: int, within_s: float) -> list[tuple[str, int]]:
        """Wait for so many fetched jobs since the reset; return which came when."""
        await until(lambda: len(self.record.offers) >= count, within_s)
        return self.record.offers

    async def wait_applied(
        self, wishes: list[tuple[str, int]], within_s: float
    ) -> list[tuple[str, int, int]]:
        """Wait until each was in force since the reset; return who had which concurrency in force when."""
        wanted = {(name, concurrency) for name, concurrency in wishes}
        await until(lambda: wanted <= {one[:2] for one in self.record.applied}, within_s)
        return self.record.applied

    async def reset(self) -> dict[str, int]:
        """Begin a new record; return the errors so far."""
        self.record = Record()
        return dict(self.errors)


class Worker:
    """One simulated worker."""

    def __init__(self, fleet: Fleet, name: str, queue: str, slots: int) -> None:
        self._fleet = fleet
        self._name = name
        self._queues = [queue]
        self._slots = slots
        self._jobs = 0
        self._started_at = time.time()
        self._job_ended = asyncio.Event()

    def _sysinfo(self) -> dict[str, str | int | float]:
        return {
            "status": 20,
            "airflow_version": airflow_version,
            "edge_provider_version": edge3_version,
            "python_version": "3",
            "worker_start_time": self._started_at,
            "concurrency": self._slots,
            "free_concurrency": self._slots - self._jobs,
        }

    async def register(self) -> None:
        await api_client.worker_register(
            self._name, EdgeWorkerState.STARTING, self._queues, self._sysinfo(), None
        )

    async def loop(self, begin_at: float) -> None:
        """Poll and beat for ever, beginning at that instant."""
        await asyncio.sleep(max(0.0, begin_at - time.monotonic()))
        last_beat, previous_jobs, changed = time.monotonic(), 0, True
        while True:
            if time.monotonic() - last_beat > HEARTBEAT_S or changed or previous_jobs != self._jobs:
                changed = await self._beat()
                last_beat, previous_jobs = time.monotonic(), self._jobs
            if self._jobs < self._slots:
                self._fleet.spawn(self._fetch_and_run())
            self._job_ended = asyncio.Event()
            try:
                async with asyncio.timeout(POLL_S):
                    await self._job_ended.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> bool:
        state = EdgeWorkerState.RUNNING if self._jobs else EdgeWorkerState.IDLE
        said = await api_client.worker_set_state(
            self._name, state, self._jobs, self._queues, self._sysinfo(), None, team_name=None
        )
        if said.concurrency and said.concurrency != self._slots:
            # As its `cli/worker.py` does with the answer to a heartbeat.
            self._slots = said.concurrency
            self._fleet.record.applied.append((self._name, self._slots, time.monotonic_ns()))
        return bool(said.state != state)

    async def _fetch_and_run(self) -> None:
        job = await api_client.jobs_fetch(
            self._name, self._queues, self._slots - self._jobs, None, supports_task_instance_uuid=True
        )
        if job is None:
            return
        self._fleet.record.offers.append((str(job.command.ti.id), time.monotonic_ns()))
        self._jobs += 1
        try:
            await api_client.jobs_set_state(
                job.key, TaskInstanceState.RUNNING, task_instance_id=job.task_instance_id
            )
            if self._jobs < self._slots:
                self._fleet.spawn(self._fetch_and_run())
            await api_client.jobs_set_state(
                job.key, TaskInstanceState.SUCCESS, task_instance_id=job.task_instance_id
            )
        finally:
            self._jobs -= 1
            self._job_ended.set()
        self._fleet.record.ended += 1
        self._fleet.record.last_end_ns = time.monotonic_ns()


async def _main() -> None:
    raise_file_limit()
    fleet = Fleet()
    verbs = ("connect", "wait_ended", "wait_offers", "wait_applied", "reset")
    await obey({name: getattr(fleet, name) for name in verbs})


if __name__ == "__main__":
    asyncio.run(_main())
