"""Maintenance, draining and leaving: the real daemon with real tasks, on a real gateway, by every way to ask."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from edge_ws.store.tables import worker
from tests.support.gateway import RunningGateway
from tests.support.stand import PATIENCE_S, Stand

NAME = "jobs r1 wait try 1"


@pytest.fixture
def gateway(stand: Stand) -> Iterator[RunningGateway]:
    with stand.gateway() as running:
        yield running


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# Leaving


@pytest.mark.parametrize("how", ["SIGTERM", "stop", "shutdown"])
@pytest.mark.usefixtures("gateway")
def test_a_drain_that_lasts_too_long_stops_a_stubborn_task(stand: Stand, how: str) -> None:
    daemon = stand.start("--drain-timeout-sec", "1", "--drain-kill-grace-sec", "1")
    job = stand.queue("stubborn")
    processes = stand.note("stubborn")
    if how == "SIGTERM":
        daemon.send_signal(signal.SIGTERM)
    elif how == "stop":
        assert stand.cli("stop").returncode == 0
    else:
        stand.store.operators.request_shutdown("w1")
    # An operator's request stays to be seen until it is fulfilled.
    shown = "shutdown request" if how == "shutdown" else "terminating"
    stand.until(lambda: stand.worker_state() == shown)
    assert daemon.wait(PATIENCE_S) == 0
    assert not [pid for pid in processes if lives(pid)]
    log = stand.task_log()
    assert "Stopping the task (drain timeout of 1 s): SIGTERM to its process group" in log
    assert "SIGKILL to its process group, as it did not stop within 1 s of SIGTERM" in log
    assert stand.state_of(job) == "failed"
    # The gateway may still be writing the goodbye down when the worker's process has gone.
    stand.until(lambda: stand.worker_state() == "offline")
    assert not list((stand.state_dir / "outbox").glob("*.json"))
    assert {path.suffix for path in (stand.state_dir / "hosts").iterdir()} <= {".log"}


@pytest.mark.usefixtures("gateway")
def test_an_operators_deadline_stops_what_still_runs(stand: Stand) -> None:
    daemon = stand.start("--drain-kill-grace-sec", "1")
    job = stand.queue("stubborn")
    processes = stand.note("stubborn")
    stand.store.operators.request_shutdown("w1", 2.0)
    assert daemon.wait(PATIENCE_S) == 0
    assert not [pid for pid in processes if lives(pid)]
    told = "Stopping the task (the deadline of an operator's shutdown is over): SIGTERM to its process group"
    assert told in stand.task_log()
    assert stand.state_of(job) == "failed"
    stand.until(lambda: stand.worker_state() == "offline")


@pytest.mark.usefixtures("gateway")
def test_stop_waits_for_what_runs_and_takes_nothing_new(stand: Stand) -> None:
    daemon = stand.start()
    running = stand.queue("wait")
    stand.note("wait")
    stopping = stand.in_background("stop", "-w")
    stand.until(lambda: stand.condition()["leaving"] == {"in_force": True, "why": "edge-ws stop"})
    late = stand.cli("stop", "-w", "--wait-timeout", "0.2")
    sentence = f"not within 0.2 s: w1 still runs tasks: {NAME}; it leaves when they have ended"
    assert (late.returncode, sentence in late.stderr) == (1, True), late.stderr
    waiting = stand.queue("hello")
    # One signal more is no haste: a service manager may send it.
    daemon.send_signal(signal.SIGTERM)
    assert stand.condition()["jobs"]
    assert stopping.poll() is None
    stand.let_go()
    told, _ = stopping.communicate(timeout=PATIENCE_S)
    assert (stopping.returncode, "w1 has left after" in told) == (0, True)
    assert daemon.wait(10) == 0
    assert (stand.state_of(running), stand.state_of(waiting)) == ("success", "queued")


@pytest.mark.usefixtures("gateway")
def test_stop_now_stops_what_runs(stand: Stand) -> None:
    daemon = stand.start("--drain-kill-grace-sec", "1")
    job = stand.queue("wait")
    stand.note("wait")
    done = stand.cli("stop", "--now", "-w", "-o", "json")
    assert (done.returncode, json.loads(done.stdout)["left"]) == (0, True)
    assert daemon.wait(10) == 0
    assert "Stopping the task (edge-ws stop --now): SIGTERM" in stand.task_log()
    assert stand.state_of(job) == "failed"


def test_reports_that_nobody_takes_wait_for_the_next_start(stand: Stand) -> None:
    with stand.gateway():
        daemon = stand.start("--drain-kill-grace-sec", "1")
        job = stand.queue("wait")
        stand.note("wait")
        stand.until(lambda: stand.state_of(job) == "running")
    stand.until(lambda: not stand.condition()["connection"]["connected"])
    assert stand.cli("stop", "--now", "-w").returncode == 0
    assert daemon.wait(10) == 0
    assert len(list((stand.state_dir / "outbox").glob("*.json"))) == 1
    assert not list((stand.state_dir / "hosts").glob("*.sock"))
    assert stand.state_of(job) == "running"
    with stand.gateway():
        stand.start()
        stand.until(lambda: stand.state_of(job) == "failed")
        stand.until(lambda: not stand.condition()["jobs"])


@pytest.mark.usefixtures("gateway")
def test_stop_now_reaches_tasks_of_an_earlier_life(stand: Stand) -> None:
    daemon = stand.start()
    job = stand.queue("wait")
    (process,) = stand.note("wait")
    stand.until(lambda: stand.state_of(job) == "running")
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait(10)
    daemon = stand.start("--drain-kill-grace-sec", "1")
    # Perhaps before it has found the job host again.
    assert stand.cli("stop", "--now", "-w").returncode == 0
    assert daemon.wait(10) == 0
    assert not lives(process)
    assert stand.state_of(job) == "failed"


@pytest.mark.usefixtures("gateway")
def test_the_second_signal_is_heeded_while_a_job_host_is_waited_for(stand: Stand) -> None:
    daemon = stand.start()
    stand.until(lambda: "taking jobs" in stand.told)
    (host,) = (
        one for one in psutil.Process(daemon.pid).children() if "edge-ws host" in " ".join(one.cmdline())
    )
    host.suspend()
    try:
        daemon.send_signal(signal.SIGTERM)
        # It has said goodbye, and waits for its host alone.
        stand.until(lambda: stand.worker_state() == "offline")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE_S) == 0
        assert lives(host.pid)
    finally:
        host.kill()


@pytest.mark.usefixtures("gateway")
def test_the_second_signal_leaves_tasks_running(stand: Stand) -> None:
    daemon = stand.start()
    job = stand.queue("wait")
    (process,) = stand.note("wait")
    stand.until(lambda: stand.state_of(job) == "running")
    daemon.send_signal(signal.SIGTERM)
    stand.until(lambda: "SIGTERM: draining, 1 jobs to finish" in stand.told)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(10) == 0
    assert lives(process)
    stand.start()
    # The next life knows what it is.
    assert f"jobs         1: {NAME} started\n" in stand.cli("status").stdout
    (told,) = json.loads(stand.cli("status", "-o", "json").stdout)["jobs"]
    names = {"dag_id": "jobs", "run_id": "r1", "task_id": "wait", "map_index": -1, "try_number": 1}
    assert told.items() >= names.items()
    stand.let_go()
    stand.until(lambda: stand.state_of(job) == "success")
    assert stand.told.count(f"INFO started: {NAME}\n") == 1
    assert stand.told.count(f"INFO ended: {NAME}, success") == 1


@pytest.mark.usefixtures("gateway")
def test_a_wish_to_leave_is_for_one_life(stand: Stand) -> None:
    daemon = stand.start()
    stand.until(lambda: stand.worker_state() == "idle")
    stand.store.operators.request_shutdown("w1")
    assert daemon.wait(PATIENCE_S) == 0
    assert "an operator's wish: draining, 0 jobs to finish" in stand.told
    stand.until(lambda: stand.worker_state() == "offline")
    stand.start()
    job = stand.queue("hello")
    stand.until(lambda: stand.state_of(job) == "success")


# Maintenance


def test_maintenance_from_the_host(stand: Stand) -> None:
    with stand.gateway():
        daemon = stand.start()
        running = stand.queue("wait")
        stand.note("wait")
        late = stand.cli("maintenance", "on", "-c", "new disk", "-w", "--wait-timeout", "0")
        sentence = f"w1 still runs tasks: {NAME}; it stays in maintenance"
        assert (late.returncode, sentence in late.stderr) == (1, True), late.stderr
        stand.until(lambda: stand.worker_state() == "maintenance pending")
        assert stand.store.views.workers()[0].comment == "new disk"
        waiting = stand.queue("hello")
        until_empty = stand.in_background("maintenance", "on", "-c", "new disk", "-w")
        stand.let_go()
        told, _ = until_empty.communicate(timeout=PATIENCE_S)
        assert (until_empty.returncode, "w1: maintenance mode" in told) == (0, True), told
        assert "on, asked for on this host: new disk" in told
        stand.until(lambda: stand.worker_state() == "maintenance mode")
        assert stand.state_of(running) == "success"
        # The second request, which changed nothing, has been answered, too.
        stand.until(stand.is_settled)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE_S) == 0
        stand.until(lambda: stand.worker_state() == "offline maintenance")
    # In the next life it is the centre's to say, which may have ended it.
    daemon = stand.start()
    stand.until(lambda: stand.condition()["connection"]["reason"])
    told = json.loads(stand.cli("status", "-o", "json").stdout)
    assert (told["state"], told["maintenance"]["in_force"]) == ("starting", False)
    assert "cannot be reached" in told["connection"]["reason"]
    with stand.gateway():
        daemon.send_signal(signal.SIGHUP)
        stand.until(lambda: stand.condition()["connection"]["connected"])
        stand.until(lambda: stand.worker_state() == "maintenance mode")
        told = stand.condition()["maintenance"]
        assert told == {"in_force": True, "comment": "new disk", "asked_by": "host"}
        assert stand.state_of(waiting) == "queued"
        assert stand.cli("maintenance", "off", "-w").returncode == 0
        stand.until(lambda: stand.state_of(waiting) == "success")
        assert stand.store.views.workers()[0].comment is None


@pytest.mark.usefixtures("gateway")
def test_maintenance_of_the_centre_is_ended_on_the_host(stand: Stand) -> None:
    stand.start()
    stand.until(lambda: stand.worker_state() == "idle")
    stand.store.operators.request_maintenance("w1", "audit")
    stand.until(lambda: stand.worker_state() == "maintenance mode")
    told = stand.condition()["maintenance"]
    assert told == {"in_force": True, "comment": "audit", "asked_by": "centre"}
    assert stand.cli("maintenance", "off").returncode == 0
    stand.until(lambda: stand.worker_state() == "idle")
    # And the other way round.
    assert stand.cli("maintenance", "on", "-c", "new disk").returncode == 0
    stand.until(lambda: stand.worker_state() == "maintenance mode")
    stand.store.operators.exit_maintenance("w1")
    stand.until(lambda: stand.worker_state() == "idle")
    assert not stand.condition()["maintenance"]["in_force"]


def test_a_request_that_was_made_without_a_connection_counts_later(stand: Stand) -> None:
    with stand.gateway():
        daemon = stand.start()
        stand.until(lambda: stand.worker_state() == "idle")
    assert stand.cli("maintenance", "on", "-c", "new disk").returncode == 0
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait(10)
    with stand.gateway():
        daemon = stand.start()
        stand.until(lambda: stand.worker_state() == "maintenance mode")
        assert stand.store.views.workers()[0].comment == "new disk"
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait(10)
    # Ended before the next life has heard that it stands at the centre.
    stand.start()
    assert stand.cli("maintenance", "off").returncode == 0
    with stand.gateway():
        stand.until(lambda: stand.worker_state() == "idle")
        assert not stand.condition()["maintenance"]["in_force"]


def test_what_was_taken_in_is_not_asked_for_again(stand: Stand) -> None:
    with stand.gateway():
        daemon = stand.start()
        assert stand.cli("maintenance", "on", "-c", "new disk").returncode == 0
        # The centre shows it before its answer, that the request is taken in, has reached the host.
        stand.until(stand.is_settled)
        stand.until(lambda: stand.worker_state() == "maintenance mode")
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait(10)
    # The centre ends it, and forgets how it numbered this host's requests.
    stand.store.operators.exit_maintenance("w1")
    with stand.engine.begin() as connection:
        connection.execute(worker.update().values(asked_number=0))
    with stand.gateway():
        stand.start()
        stand.until(lambda: stand.worker_state() == "idle")
        assert not stand.condition()["maintenance"]["in_force"]


def test_a_report_that_waits_for_the_centre_is_no_running_task(stand: Stand) -> None:
    with stand.gateway():
        daemon = stand.start()
        stand.until(lambda: stand.worker_state() == "idle")
        stand.store.operators.wish_concurrency("w1", 0)
        stand.until(lambda: "takes jobs   no: paused: the concurrency is 0" in stand.cli("status").stdout)
        stand.store.operators.wish_concurrency("w1", 1)
        stand.until(lambda: "takes jobs   yes" in stand.cli("status").stdout)
        job = stand.queue("wait")
        stand.note("wait")
        stand.until(lambda: stand.state_of(job) == "running")
    stand.until(lambda: not stand.condition()["connection"]["connected"])
    stand.let_go()
    stand.until(lambda: [one["phase"] for one in stand.condition()["jobs"]] == ["ended"])
    done = stand.cli("maintenance", "on", "-c", "x", "-w", "--wait-timeout", "5")
    assert (done.returncode, "w1: maintenance mode" in done.stdout) == (0, True), done.stderr
    late = stand.cli("stop", "-w", "--wait-timeout", "0.2")
    assert late.returncode == 1
    assert "w1 runs no task any more, and 1 of its reports wait for the centre; it leaves" in late.stderr
    assert stand.cli("stop", "--now", "-w").returncode == 0
    assert daemon.wait(10) == 0
