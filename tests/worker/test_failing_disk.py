"""Disks that fail in other ways than being full, while tasks run: the same answer, and recovery by itself."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from pathlib import Path

import psutil
import pytest

from edge_ws.store.records import NewJob
from tests.support.execution_api import ExecutionApi
from tests.support.failing_disk import FailingDisk
from tests.support.stand import Stand

ERRORS = [errno.EROFS, errno.EDQUOT, errno.EIO, errno.ENOSPC]
errors = pytest.mark.parametrize("error", ERRORS, ids=[errno.errorcode[one] for one in ERRORS])


@pytest.fixture
def disk(stand: Stand, tmp_path: Path) -> FailingDisk:
    disk = FailingDisk(tmp_path, stand.state_dir, stand.site.logs)
    stand.settings |= disk.environment
    return disk


def ti_of(job: NewJob) -> str:
    return str(json.loads(job.command)["ti"]["id"])


def takes_none(stand: Stand, why: str) -> bool:
    """Tell whether the centre knows that the worker takes no jobs, and why."""
    (worker,) = stand.store.views.workers()
    return worker.room.code == "disk" and why in (worker.room.why or "")


@errors
def test_a_task_outlives_a_disk_that_fails_for_a_while(
    stand: Stand, disk: FailingDisk, api: ExecutionApi, error: int
) -> None:
    with stand.gateway():
        daemon = stand.start()
        job = stand.queue("chat")
        (pid,) = stand.note("chat")
        disk.fail(error)
        stand.until(lambda: takes_none(stand, f"cannot be written: {os.strerror(error)}"))
        told = stand.condition()
        assert (told["takes_jobs"], told["no_jobs_code"]) == (False, "disk")
        second = stand.queue("hello")
        before = api.heartbeats_of(ti_of(job))
        stand.until(lambda: api.heartbeats_of(ti_of(job)) > before)
        assert psutil.pid_exists(pid)
        assert stand.state_of(second) == "queued"
        disk.heal()
        stand.until(lambda: stand.condition()["takes_jobs"])
        stand.until(lambda: stand.state_of(second) == "success")
        (stand.site.notes / "quiet").touch()
        stand.until(lambda: stand.state_of(job) == "success")
        assert api.states_of(ti_of(job)) == ["success"]
        (log,) = stand.site.logs.rglob("task_id=chat/*.log")
        text = log.read_text()
        assert f"are missing here, as they could not be written: {os.strerror(error)}" in text
        assert "the last word" in text
        assert daemon.poll() is None
        assert stand.condition()["faults"]["count"] == 0


@errors
def test_a_task_that_ends_on_a_failing_disk_has_ended_as_it_did(
    stand: Stand, disk: FailingDisk, api: ExecutionApi, error: int
) -> None:
    with stand.gateway():
        daemon = stand.start()
        job = stand.queue("chat")
        stand.note("chat")
        disk.fail(error)
        stand.until(lambda: takes_none(stand, os.strerror(error)))
        (stand.site.notes / "quiet").touch()
        stand.until(lambda: stand.state_of(job) == "success")
        assert api.states_of(ti_of(job)) == ["success"]
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0


@pytest.mark.parametrize("whose", ["daemon", "host"])
def test_without_a_descriptor_left_no_jobs_are_taken_and_what_runs_goes_on(
    stand: Stand, api: ExecutionApi, whose: str
) -> None:
    with stand.gateway():
        daemon = stand.start()
        job = stand.queue("wait")
        stand.note("wait")
        process = psutil.Process(daemon.pid)
        if whose == "host":
            (process,) = (
                one
                for one in process.children()
                if " ".join(one.cmdline()).startswith("edge-ws host")
                or "edge_ws.host.server" in one.cmdline()
            )
        before = process.rlimit(resource.RLIMIT_NOFILE)
        process.rlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        if whose == "host":
            others = [stand.queue("hello") for _ in range(3)]
        stand.until(lambda: "Too many open files" in (stand.store.views.workers()[0].room.why or ""))
        process.rlimit(resource.RLIMIT_NOFILE, before)
        stand.let_go()
        stand.until(lambda: stand.state_of(job) == "success")
        assert api.states_of(ti_of(job)) == ["success"]
        if whose == "daemon":
            others = [stand.queue("hello")]
            stand.until(lambda: all(stand.state_of(one) == "success" for one in others))
        assert daemon.poll() is None
        assert process.is_running()
