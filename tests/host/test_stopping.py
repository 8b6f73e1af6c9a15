"""Stopping: by Airflow's own supervisor, and by the host where that does not answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.execution_api import ExecutionApi
from tests.support.host_jobs import events_in, go, is_running, job_of, note_of, prepare
from tests.support.jobs import Site, callback_workload, task_workload
from tests.support.raw_host import Line, RawHost, raw_host
from tests.support.waiting import wait_until

GONE = (410, {"reason": "not_found", "message": "the task was cleared"})
FOREIGN = ("Stopping", "out of memory", "abnormally", "Failed to report")
"""In no log of a task that its supervisor has stopped as Airflow told it to."""


def begun(site: Site, name: str) -> list[int]:
    return [int(text) for text in wait_until((lambda: note_of(site, name)), 20).split()]


def forget_notes(site: Site) -> None:
    for path in site.notes.iterdir():
        path.unlink()


@pytest.fixture(autouse=True)
def _new_notes(site: Site) -> None:
    forget_notes(site)


# As Airflow does it


@pytest.mark.parametrize("status", [404, 409, 410])
def test_a_task_that_is_over_for_airflow_is_stopped_at_once_by_its_supervisor(
    line: Line, api: ExecutionApi, site: Site, status: int
) -> None:
    workload = task_workload("remote")
    claim = go(line, api, workload)
    begun(site, "remote")
    wait_until(lambda: api.heartbeats_of(workload.id))  # the next one by itself is 5 s away
    api.refuse_heartbeat[workload.id] = (status, {"reason": "not_running"})
    began = time.monotonic()
    line.say("cancel", claim=claim, grace_s=1.5, reason="the task was cleared or deleted", look=True)
    ended = line.hear("ended", claim)
    assert 1.5 <= time.monotonic() - began < 4.5
    assert ended["detail"].startswith("cancelled (the task was cleared or deleted)")
    assert note_of(site, "killed") == "begun done "
    events = events_in(site.logs / workload.log_path)
    assert "Server indicated the task shouldn't be running anymore. Terminating process" in events
    assert events[-1] == "Task killed!"
    assert not [event for event in events if any(foreign in event for foreign in FOREIGN)]
    assert api.states_of(workload.id) in ([], ["server_terminated"])  # Airflow 3.4 acknowledges


def test_a_task_that_airflow_counts_as_running_is_left_alone(
    line: Line, api: ExecutionApi, site: Site, shared_host: RawHost
) -> None:
    """What the centre saw has changed since, or was a mistake: Airflow decides."""
    workload = task_workload("remote")
    claim = go(line, api, workload)
    (pid,) = begun(site, "remote")
    before = wait_until(lambda: api.heartbeats_of(workload.id))

    def asks_again(times: int) -> bool:
        line.say("cancel", claim=claim, grace_s=0.1, reason="its row is missing", look=True)
        return api.heartbeats_of(workload.id) >= before + times

    for times in (1, 2):
        wait_until(lambda times=times: asks_again(times), 4, every_s=0.1)  # type: ignore[misc]
    assert is_running(pid)
    assert note_of(site, "killed") == ""
    # A worker that must leave stops it all the same.
    line.say("cancel", claim=claim, grace_s=1.0, reason="drain timeout of 1 s")
    assert line.hear("ended", claim)["detail"].startswith("cancelled (drain timeout of 1 s)")
    assert note_of(site, "killed") == "begun done "
    assert api.states_of(workload.id) == ["failed"]


def test_a_task_that_has_reported_its_end_keeps_its_callback(
    line: Line, api: ExecutionApi, site: Site
) -> None:
    workload = task_workload("says_so")
    claim = go(line, api, workload)
    (pid,) = begun(site, "says_so")
    assert api.states_of(workload.id) == ["success"]
    api.refuse_heartbeat[workload.id] = GONE
    line.say("cancel", claim=claim, grace_s=0.1, reason="the task was cleared or deleted", look=True)
    # Five times the grace: a task that was to be stopped would have gone.
    time.sleep(0.5)
    assert is_running(pid)
    (site.notes / "enough").touch()
    ended = line.hear("ended", claim)
    assert "cancelled" not in ended["detail"]
    events = events_in(site.logs / workload.log_path)
    assert not [event for event in events if any(foreign in event for foreign in (*FOREIGN, "killed"))]


def test_the_grace_is_in_force_whoever_finds_that_the_task_is_over(site: Site, api: ExecutionApi) -> None:
    """Airflow's own heartbeat may be sooner than the centre's cancel."""
    environment = site.environment(AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="1")
    with raw_host(site.folder / "early", environment) as host:
        line = host.connect()
        for grace_s in (0.7, 7.0):
            workload = task_workload("remote")
            claim = prepare(line, api, workload)
            line.say("go", claim=claim, token="t", grace_s=grace_s)
            begun(site, "remote")
            api.refuse_heartbeat[workload.id] = GONE
            wait_until((lambda: note_of(site, "killed")), 20)
            began = time.monotonic()
            line.hear("ended", claim)
            assert grace_s - 0.5 < time.monotonic() - began < grace_s + 3
            assert note_of(site, "killed").split()[0] == "begun"
            forget_notes(site)


@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_on_kill_runs_once_at_any_phase_of_the_heartbeat(
    site: Site, api: ExecutionApi, quick: RawHost, delay_s: float
) -> None:
    line, workload = quick.connect(), task_workload("remote")
    claim = go(line, api, workload)
    begun(site, "remote")
    beats = api.heartbeats_of(workload.id)
    wait_until(lambda: api.heartbeats_of(workload.id) > beats, 10)
    api.refuse_heartbeat[workload.id] = GONE
    time.sleep(delay_s)  # The phase of the heartbeat at which the cancel comes.
    line.say("cancel", claim=claim, grace_s=1.0, reason="cleared", look=True)
    line.hear("ended", claim)
    assert note_of(site, "killed") == "begun done "
    events = events_in(site.logs / workload.log_path)
    assert events.count("Task killed!") == 1
    assert not [event for event in events if any(foreign in event for foreign in FOREIGN)]


@pytest.fixture(scope="module")
def quick(site: Site) -> Iterator[RawHost]:
    """A host whose supervisors beat every second."""
    environment = site.environment(AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="1")
    with raw_host(site.folder / "quick", environment) as host:
        yield host


# Where Airflow cannot be asked


def test_without_an_answer_the_supervisor_stops_the_task_after_the_grace(
    line: Line, api: ExecutionApi, site: Site
) -> None:
    workload = task_workload("remote")
    claim = go(line, api, workload)
    begun(site, "remote")
    wait_until(lambda: api.heartbeats_of(workload.id))
    api.refuse_heartbeat[workload.id] = (503, "maintenance")
    began = time.monotonic()
    line.say("cancel", claim=claim, grace_s=1.0, reason="cleared", look=True)
    line.hear("ended", claim)
    # Once for the answer, once between the signals; repeated requests would take longer.
    assert 2.0 <= time.monotonic() - began < 6
    assert note_of(site, "killed") == "begun done "
    stopping = [event for event in events_in(site.logs / workload.log_path) if "Stopping" in event]
    assert stopping == [
        "Stopping the task (cleared; the Execution API has not answered for 1 s): SIGTERM to its process group",
        (
            "Stopping the task (cleared; the Execution API has not answered for 1 s): "
            "SIGKILL to its process group, as it did not stop within 1 s of SIGTERM"
        ),
    ]


@pytest.mark.parametrize("look", [True, False])
def test_a_supervisor_that_wakes_up_late_does_not_signal_again(
    site: Site, api: ExecutionApi, *, look: bool
) -> None:
    with raw_host(site.folder / f"late-{look}", site.environment(), "--supervisor-s", "1") as host:
        line, workload = host.connect(), task_workload("remote")
        claim = go(line, api, workload)
        begun(site, "remote")
        api.refuse_heartbeat[workload.id] = GONE
        line.hello()
        supervisor = int(str(job_of(host, claim)["pid"]))
        os.kill(supervisor, signal.SIGSTOP)
        line.say("cancel", claim=claim, grace_s=1.0, reason="cleared", look=look)
        wait_until((lambda: note_of(site, "killed")), 10)
        os.kill(supervisor, signal.SIGCONT)
        ended = line.hear("ended", claim)
        assert ended["detail"].startswith("cancelled (cleared)")
        assert note_of(site, "killed") == "begun done "
        events = events_in(site.logs / workload.log_path)
        silent = "SIGTERM to its process group, as its supervisor has not answered for 2 s"
        assert f"Stopping the task (cleared): {silent}" in events
        assert not [event for event in events if "out of memory" in event]


# Whatever Airflow says


def test_a_task_that_ignores_sigterm_is_gone_within_the_grace(
    line: Line, api: ExecutionApi, site: Site
) -> None:
    (site.notes / "stubborn").unlink(missing_ok=True)
    workload = task_workload("stubborn")
    claim = go(line, api, workload)
    line.hear("started", claim)
    pids = [int(text) for text in wait_until((lambda: note_of(site, "stubborn")), 20).split()]
    began = time.monotonic()
    line.say("cancel", claim=claim, grace_s=0.5, reason="cleared by an operator")
    ended = line.hear("ended", claim)
    assert 0.5 <= time.monotonic() - began < 5
    assert ended["exit_code"] == -signal.SIGKILL
    assert ended["detail"] == "cancelled (cleared by an operator): the task's process was killed by SIGKILL"
    wait_until(lambda: not any(is_running(pid) for pid in pids))
    assert [event for event in events_in(site.logs / workload.log_path) if event.startswith("Stopping")] == [
        "Stopping the task (cleared by an operator): SIGTERM to its process group",
        "Stopping the task (cleared by an operator): SIGKILL to its process group, as it did not stop within 0.5 s of SIGTERM",
    ]


def test_a_cancel_before_the_task_is_there(line: Line, api: ExecutionApi, site: Site) -> None:
    """The start is held at the Execution API: the task's process exists, but nothing of the task runs."""
    workload = task_workload("stubborn")
    released = api.hold_run[workload.id] = threading.Event()
    claim = go(line, api, workload)
    line.say("cancel", claim=claim, grace_s=5, reason="early")  # likely before the fork is known, too
    wait_until(lambda: api.calls_of(workload.id))
    released.set()
    assert line.hear("ended", claim)["detail"].startswith("cancelled (early)")


def test_a_callback_is_cancelled_as_a_task_is(
    line: Line, api: ExecutionApi, site: Site, shared_host: RawHost
) -> None:
    claim = go(line, api, callback_workload("jobs.linger"))
    line.hear("started", claim)
    pid = int(wait_until((lambda: note_of(site, "linger")), 20))
    line.say("cancel", claim=claim, grace_s=0.2, reason="not wanted")
    assert line.hear("ended", claim)["exit_code"] != 0
    wait_until(lambda: not is_running(pid))
    assert line.hello()["ready"]


def test_a_cancel_of_what_only_waits_drops_it(line: Line, api: ExecutionApi) -> None:
    claim = prepare(line, api, task_workload("hello"))
    line.say("cancel", claim=claim, grace_s=5, reason="early")
    line.hear("dropped", claim)


def test_a_cancel_that_comes_when_the_task_has_failed_by_itself_stops_nothing(
    line: Line, api: ExecutionApi, site: Site
) -> None:
    """Airflow has the task's own report while its supervisor still waits for the answer, or uploads the log."""
    workload = task_workload("vanish")
    released = api.hold_state[workload.id] = threading.Event()
    claim = go(line, api, workload)
    wait_until((lambda: api.states_of(workload.id) == ["failed"]), 20)
    line.say("cancel", claim=claim, grace_s=0.05, reason="the task's state is failed")
    # Twice as long as the grace, in which a task that was there would have been killed.
    time.sleep(0.1)
    line.hello()
    released.set()
    ended = line.hear("ended", claim)
    assert (ended["exit_code"], ended["detail"]) == (7, "the task's process exited with code 7")
    assert not [event for event in events_in(site.logs / workload.log_path) if "Stopping" in event]
    line.say("cancel", claim=claim, grace_s=0.05, reason="again")
    line.say("forget", claim=claim)
    assert line.hello()["ready"]


def test_a_supervisor_that_never_ends_its_last_steps_is_killed(site: Site, api: ExecutionApi) -> None:
    with raw_host(site.folder / "uploads", site.environment(), "--supervisor-s", "0.01") as host:
        line = host.connect()
        workload = task_workload("vanish")
        released = api.hold_state[workload.id] = threading.Event()
        claim = go(line, api, workload)
        wait_until((lambda: api.states_of(workload.id) == ["failed"]), 20)
        line.say("cancel", claim=claim, grace_s=0.0, reason="too long")
        ended = line.hear("ended", claim)
        released.set()
        assert ended["detail"] == "the task's supervisor was killed by SIGKILL"
        assert "it did not end 0.6 s after its task" in events_in(site.logs / workload.log_path)[-2]


def test_a_supervisor_that_dies_takes_its_task_along(
    line: Line, api: ExecutionApi, site: Site, shared_host: RawHost
) -> None:
    (site.notes / "stubborn").unlink(missing_ok=True)
    workload = task_workload("stubborn")
    claim = go(line, api, workload)
    line.hear("started", claim)
    wait_until((lambda: note_of(site, "stubborn")), 20)
    task = int(note_of(site, "stubborn").split()[0])
    apart = int(note_of(site, "stubborn").split()[2])
    line.hello()
    os.kill(int(str(job_of(shared_host, claim)["pid"])), signal.SIGKILL)
    ended = line.hear("ended", claim)
    assert (ended["exit_code"], ended["detail"]) == (-9, "the task's supervisor was killed by SIGKILL")
    wait_until(lambda: not is_running(task) and not is_running(apart))
    assert events_in(site.logs / workload.log_path)[-1].startswith(
        "The task's supervisor was killed by SIGKILL"
    )


def test_a_supervisor_that_hangs_is_killed_last(site: Site, api: ExecutionApi) -> None:
    with raw_host(site.folder / "hangs", site.environment(), "--supervisor-s", "0.5") as host:
        line = host.connect()
        workload = task_workload("stubborn")
        claim = go(line, api, workload)
        line.hear("started", claim)
        line.hello()
        os.kill(int(str(job_of(host, claim)["pid"])), signal.SIGSTOP)
        began = time.monotonic()
        line.say("cancel", claim=claim, grace_s=0.1, reason="cleared")
        ended = line.hear("ended", claim)
        assert 0.6 < time.monotonic() - began < 5
        assert ended["detail"] == "cancelled (cleared): the task's supervisor was killed by SIGKILL"
        assert "it did not end 0.5 s after its task" in events_in(site.logs / workload.log_path)[-2]
