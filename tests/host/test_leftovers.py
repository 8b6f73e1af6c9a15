"""Nothing of a job outlives it, however its task's process ends."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.execution_api import ExecutionApi
from tests.support.host_jobs import events_in, go, is_running, job_of, note_of
from tests.support.jobs import Site, task_workload
from tests.support.raw_host import Line, RawHost
from tests.support.waiting import wait_until

LEFT = "The task's process has ended and left others behind, which were ended too: "


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("success", (0, "success")),
        ("failure", (0, "failed")),
        ("SIGKILL", (-9, "failed")),
        ("SIGABRT", (-6, "failed")),
        ("exit", (3, "failed")),
        ("timeout", (0, "failed")),
    ],
)
def test_what_a_task_leaves_behind_ends_with_it(
    line: Line, api: ExecutionApi, site: Site, how: str, end: tuple[int, str]
) -> None:
    """One ignores SIGTERM, in a session of its own; one's parent is dead, and it holds the supervisor's sockets."""
    note = site.notes / f"leaves_{how}"
    note.unlink(missing_ok=True)
    workload = task_workload(f"leaves_{how}")
    claim = go(line, api, workload)
    pids = [int(text) for text in wait_until((lambda: note_of(site, f"leaves_{how}")), 20).split()]
    began = time.monotonic()
    ended = line.hear("ended", claim)
    # The supervisor alone would wait for a minute.
    assert time.monotonic() - began < 10
    assert [pid for pid in pids if is_running(pid)] == []
    assert (ended["exit_code"], api.states_of(workload.id)[-1]) == end
    (said,) = [event for event in events_in(site.logs / workload.log_path) if event.startswith(LEFT)]
    assert f"(pid {pids[-1]})" in said


def test_what_a_dead_supervisor_leaves_is_killed_and_no_other_job(
    line: Line, api: ExecutionApi, site: Site, shared_host: RawHost
) -> None:
    for name in ("stubborn", "wait", "enough"):
        (site.notes / name).unlink(missing_ok=True)
    other = go(line, api, task_workload("wait"))
    waiting = int(wait_until((lambda: note_of(site, "wait")), 20))
    claim = go(line, api, task_workload("stubborn"))
    pids = [int(text) for text in wait_until((lambda: note_of(site, "stubborn")), 20).split()]
    line.hello()
    os.kill(int(str(job_of(shared_host, claim)["pid"])), signal.SIGKILL)
    assert line.hear("ended", claim)["detail"] == "the task's supervisor was killed by SIGKILL"
    wait_until(lambda: not any(is_running(pid) for pid in pids), 5)
    assert is_running(waiting)
    (site.notes / "enough").touch()
    assert line.hear("ended", other)["exit_code"] == 0


def test_no_zombie_is_left_to_the_host(
    line: Line, api: ExecutionApi, site: Site, shared_host: RawHost
) -> None:
    import psutil

    line.hear("ended", go(line, api, task_workload("leaves_success")))
    wait_until(lambda: psutil.Process(shared_host.process.pid).children(recursive=True) == [], 5)
