"""The daemon's side of the job hosts, with real hosts, supervisors and tasks."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import psutil
import pytest

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import ClaimId
from edge_ws.worker.host_client import (
    Dropped,
    HostEvent,
    HostFailed,
    HostGone,
    Hosts,
    HostSettings,
    HostUp,
    JobEnded,
    JobNotStarted,
    JobStarted,
    Prepared,
    PrepareRefused,
)
from tests.support.execution_api import ExecutionApi
from tests.support.jobs import PYTHON, Site, TaskWorkload, make_site, task_workload
from tests.support.raw_host import end_tree
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
Event = TypeVar("Event")
PATIENCE_S = 60.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    # Longer than a socket's address may be.
    made = make_site(tmp_path / ("x" * 60) / ("y" * 60))
    yield made
    for journal in made.folder.glob("hosts/*.json"):
        end_tree(json.loads(journal.read_text())["pid"])


class Watched:
    """Hosts, and what they have told."""

    def __init__(self, site: Site, api: ExecutionApi, **changed: object) -> None:
        settings = {
            "directory": site.folder / "hosts",
            "python": PYTHON,
            "environment": site.environment(),
            "fingerprint": "f1",
            "worker_name": "factory-7",
            "restart_s": 0.05,
            **changed,
        }
        self.events: list[HostEvent] = []
        self.hosts = Hosts(HostSettings(**settings), self.events.append)  # type: ignore[arg-type]
        self._url = api.url

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Watched]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.hosts.run)
            yield self
            tasks.cancel_scope.cancel()

    async def hears(self, kind: type[Event], is_it: Callable[[Event], bool] = lambda _: True) -> Event:
        def found() -> list[Event]:
            return [event for event in self.events if isinstance(event, kind) and is_it(event)]

        events: list[Event] = await until(found, PATIENCE_S)
        self.events.remove(events[0])  # type: ignore[arg-type]
        return events[0]

    async def hears_of(self, kind: type[Event], claim: ClaimId) -> Event:
        return await self.hears(kind, lambda event: event.claim == claim)  # type: ignore[attr-defined]

    async def is_up(self) -> HostUp:
        return await self.hears(HostUp, lambda event: event.accepts)

    async def prepare(self, workload: TaskWorkload) -> ClaimId:
        claim = ClaimId(str(uuid.uuid4()))
        self.hosts.prepare(claim, workload.payload, self._url)
        prepared = await self.hears_of(Prepared, claim)
        assert prepared.log_path is not None
        assert prepared.log_path.endswith(workload.log_path)
        return claim

    async def start(self, workload: TaskWorkload) -> ClaimId:
        claim = await self.prepare(workload)
        self.hosts.go(claim, "token", 5.0)
        await self.hears_of(JobStarted, claim)
        return claim


def note(site: Site, name: str) -> str:
    path = site.notes / name
    return path.read_text() if path.exists() else ""


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def host_pid(site: Site, host: str) -> int:
    return int(json.loads((site.folder / "hosts" / f"{host}.json").read_text())["pid"])


async def test_jobs_go_their_way_over_a_restart_of_the_daemon(site: Site, api: ExecutionApi) -> None:
    async with Watched(site, api).running() as first:
        hosts = first.hosts
        assert hosts.current is None
        hosts.prepare(ClaimId("early"), "{}", api.url)
        early = await first.hears_of(PrepareRefused, ClaimId("early"))
        assert (early.reason, early.invalid) == ("no job host is ready on this worker", False)
        up = await first.is_up()
        assert hosts.current == up.host
        assert hosts.alive == (up.host,)
        assert up.versions["airflow"].startswith("3.")
        assert (site.folder / "hosts").stat().st_mode & 0o777 == 0o700

        hosts.prepare(ClaimId("bad"), "{}", api.url)
        assert (await first.hears_of(PrepareRefused, ClaimId("bad"))).invalid

        refused = task_workload("hello")
        api.refuse_run[refused.id] = (409, {"reason": "invalid_state"})
        never = await first.prepare(refused)
        hosts.go(never, "token", 5.0)
        assert "409" in (await first.hears_of(JobNotStarted, never)).reason

        forgotten = await first.start(task_workload("hello"))
        ended = await first.hears_of(JobEnded, forgotten)
        assert (ended.host, ended.exit_code, ended.detail, ended.log_uploaded) == (up.host, 0, "", False)
        hosts.forget(forgotten)
        unforgotten = await first.start(task_workload("hello"))
        await first.hears_of(JobEnded, unforgotten)
        running = await first.start(task_workload("wait"))
        waiting = await first.prepare(task_workload("hello"))
        dropped = await first.prepare(task_workload("hello"))
        hosts.drop(dropped)
        await first.hears_of(Dropped, dropped)

    async with Watched(site, api).running() as second:
        again = await second.is_up()
        assert again.host == up.host
        jobs = {job.claim: job for job in again.jobs}
        assert {claim: job.phase for claim, job in jobs.items()} == {
            never: "not_started",
            unforgotten: "ended",
            running: "started",
            waiting: "prepared",
        }
        assert jobs[unforgotten].exit_code == 0
        assert "409" in jobs[never].detail
        second.hosts.go(waiting, "token", 5.0)
        await second.hears_of(JobEnded, waiting)
        (site.notes / "enough").touch()
        await second.hears_of(JobEnded, running)
        for claim in (never, unforgotten, running, waiting):
            second.hosts.forget(claim)

    # Retired by a daemon whose loop has ended: also that must work.
    with anyio.fail_after(PATIENCE_S):
        await second.hosts.retire()
    assert await second.hears(HostGone) == HostGone(up.host, (), left=True)
    assert list((site.folder / "hosts").iterdir()) == []
    assert second.hosts.alive == ()


async def test_a_cancel(site: Site, api: ExecutionApi) -> None:
    async with Watched(site, api).running() as watched:
        await watched.is_up()
        claim = await watched.start(task_workload("stubborn"))
        pids = [int(pid) for pid in (await until(lambda: note(site, "stubborn"), PATIENCE_S)).split()]
        watched.hosts.cancel(claim, 0.2, "cleared")
        assert (await watched.hears_of(JobEnded, claim)).exit_code == -signal.SIGKILL
        await until(lambda: not any(is_running(pid) for pid in pids))
        watched.hosts.forget(claim)
        await watched.hosts.retire()


async def test_cancels_at_the_moment_of_exit_leave_one_end_each(site: Site, api: ExecutionApi) -> None:
    async with Watched(site, api).running() as watched:
        await watched.is_up()
        workloads = [task_workload("wait") for _ in range(8)]
        started = [(await watched.start(workload), workload) for workload in workloads]
        await until(lambda: note(site, "wait"), PATIENCE_S)
        (site.notes / "enough").touch()
        # From before the first task leaves until after the last has been reported.
        for claim, _ in started:
            watched.hosts.cancel(claim, 0.2, "cleared")
            await anyio.sleep(0.05)
        for claim, workload in started:
            ended = await watched.hears_of(JobEnded, claim)
            states = api.states_of(workload.id)
            if ended.exit_code == 0:
                assert states == ["success"]
            else:
                # Killed after it had told its success, a task's supervisor reports that as well; Airflow refuses it.
                assert ended.exit_code in {-signal.SIGTERM, -signal.SIGKILL}
                assert states in (["failed"], ["success", "failed"])
            watched.hosts.cancel(claim, 0.2, "cleared")
            watched.hosts.forget(claim)
        await watched.hosts.retire()
        assert [type(event) for event in watched.events] == [HostGone]


async def test_a_host_that_dies_or_hangs(site: Site, api: ExecutionApi) -> None:
    quick = {"ping_interval_s": 0.1, "ping_timeout_s": 2.0}
    async with Watched(site, api, **quick).running() as watched:
        first = await watched.is_up()
        ended = await watched.start(task_workload("hello"))
        await watched.hears_of(JobEnded, ended)
        lost = await watched.start(task_workload("stubborn"))
        waiting = await watched.prepare(task_workload("hello"))
        pids = [int(pid) for pid in (await until(lambda: note(site, "stubborn"), PATIENCE_S)).split()]
        pid = host_pid(site, first.host)
        os.kill(pid, signal.SIGSTOP)
        unprepared = ClaimId("unprepared")
        watched.hosts.prepare(unprepared, task_workload("hello").payload, api.url)
        os.kill(pid, signal.SIGKILL)
        gone = await watched.hears(HostGone)
        assert not any(is_running(pid) for pid in pids)
        assert gone.host == first.host
        assert {job.claim: job.phase for job in gone.jobs} == {
            ended: "ended",
            lost: "started",
            waiting: "prepared",
        }
        assert not gone.left
        assert first.host not in watched.hosts.alive
        assert not (await watched.hears_of(PrepareRefused, unprepared)).invalid
        watched.hosts.go(waiting, "token", 5.0)  # to nobody

        second = await watched.is_up()
        assert second.host != first.host
        os.kill(host_pid(site, second.host), signal.SIGSTOP)
        assert (await watched.hears(HostGone)).host == second.host
        assert watched.hosts.current is None
        await watched.hosts.retire()  # the third is still loading
        assert watched.hosts.alive == ()
    assert {path.suffix for path in (site.folder / "hosts").iterdir()} == {".log"}


async def test_a_host_that_died_while_no_daemon_was_there(site: Site, api: ExecutionApi) -> None:
    async with Watched(site, api).running() as watched:
        up = await watched.is_up()
        ended = await watched.start(task_workload("hello"))
        await watched.hears_of(JobEnded, ended)
        lost = await watched.start(task_workload("stubborn"))
        pids = [int(pid) for pid in (await until(lambda: note(site, "stubborn"), PATIENCE_S)).split()]
    os.kill(host_pid(site, up.host), signal.SIGKILL)
    await until(lambda: not is_running(host_pid(site, up.host)))
    assert all(is_running(pid) for pid in pids)
    async with Watched(site, api).running() as next_one:
        gone = await next_one.hears(HostGone)
        assert not any(is_running(pid) for pid in pids)
        assert {job.claim: job.phase for job in gone.jobs} == {ended: "ended", lost: "started"}
        assert (await next_one.is_up()).jobs == ()
        await next_one.hosts.retire()


async def test_a_change_of_configuration_rolls_the_host(site: Site, api: ExecutionApi) -> None:
    async with Watched(site, api).running() as watched:
        old = await watched.is_up()
        running = await watched.start(task_workload("wait"))
    async with Watched(site, api, fingerprint="f2").running() as watched:
        told = await watched.hears(HostUp, lambda event: event.host == old.host)
        assert not told.accepts
        assert [job.claim for job in told.jobs] == [running]
        new = await watched.is_up()
        assert watched.hosts.current == new.host != old.host
        assert set(watched.hosts.alive) == {old.host, new.host}
        other = await watched.start(task_workload("hello"))
        assert (await watched.hears_of(JobEnded, other)).host == new.host
        (site.notes / "enough").touch()
        assert (await watched.hears_of(JobEnded, running)).host == old.host
        watched.hosts.forget(running)
        assert await watched.hears(HostGone) == HostGone(old.host, (), left=True)
        watched.hosts.forget(other)

        # A host that is told to leave by somebody else is replaced at once.
        os.kill(host_pid(site, new.host), signal.SIGTERM)
        assert (await watched.hears(HostGone)).host == new.host
        assert (await watched.is_up()).host != new.host
        await watched.hosts.retire()


async def test_a_host_that_cannot_start(site: Site, api: ExecutionApi, tmp_path: Path) -> None:
    async with Watched(site, api, python="/nowhere/python").running() as watched:
        for _ in range(2):  # it is tried again
            failed = await watched.hears(HostFailed)
            assert failed.reason == "/nowhere/python cannot be started: No such file or directory"
    (tmp_path / "airflow.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'airflow'\", name='airflow')"
    )
    bare = site.environment()
    bare["PYTHONPATH"] += f":{tmp_path}"
    async with Watched(site, api, environment=bare).running() as watched:
        failed = await watched.hears(HostFailed)
        assert failed.reason == "apache-airflow-task-sdk is not installed; run: pip install 'edge-ws[worker]'"
        assert watched.hosts.current is None
        await watched.hosts.retire()
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'No module named edge_ws' >&2\necho >&2\nexit 1\n")
    broken.chmod(0o755)
    async with Watched(site, api, python=str(broken)).running() as watched:
        failed = await watched.hears(HostFailed)
        assert failed.reason == "the job host ended during its start: No module named edge_ws"
        await watched.hosts.retire()


async def test_a_directory_that_cannot_be_made(site: Site, api: ExecutionApi, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    watched = Watched(site, api, directory=tmp_path / "file" / "hosts")
    with pytest.raises(UsageError, match="cannot be made: Not a directory; choose another state directory"):
        await watched.hosts.run()


async def test_nothing_depends_on_where_the_daemon_was_started(
    site: Site, api: ExecutionApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("structlog", "airflow", "edge_ws", "sitecustomize", "secrets"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')\n")
    monkeypatch.chdir(tmp_path)
    async with Watched(site, api).running() as watched:
        await watched.is_up()
        claim = await watched.start(task_workload("hello"))
        assert (await watched.hears_of(JobEnded, claim)).exit_code == 0
    environment = note(site, "environment")
    assert "PYTHONSAFEPATH" not in environment
