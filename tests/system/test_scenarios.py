"""A real Airflow pushes real DAGs to a real worker."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.airflow_release import from_3_4_on
from tests.support.forwarder import forwarding
from tests.support.site import Site, seconds_until
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system
of_the_worker = pytest.mark.one_database
"""For what happens on the worker's own machine: tests/chaos has that on PostgreSQL, at worse moments."""

CUT_OFF = ("succeeded", "failed", "retried", "deferred")
QUICKLY = {
    # How long Airflow's client tries before it gives up.
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "2",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "0.05",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "0.1",
}


def test_a_dag_succeeds_and_its_log_is_readable(site: Site) -> None:
    site.trigger("success", "r1")
    assert site.wait_run("success", "r1") == "success"
    tasks = site.tasks("success", "r1")
    assert {one["hostname"] for one in tasks.values()} == {"factory-7"}
    site.wait_log("hello from the far side", "success", "r1", "one")
    site.wait_log("got 20", "success", "r1", "two")


def test_a_failing_task_is_retried_and_ends_failed_with_its_traceback(site: Site) -> None:
    site.trigger("failure", "r1")
    assert site.wait_run("failure", "r1") == "failed"
    (task,) = site.tasks("failure", "r1").values()
    assert task["try_number"] == 2
    for attempt in (1, 2):
        log = site.wait_log("the press is jammed", "failure", "r1", "fails", attempt)
        # It ended by itself: nobody stopped it, and its log does not say so.
        assert "Stopping the task" not in log


def test_the_callbacks_of_a_task_that_has_told_its_end_run_to_theirs(site: Site) -> None:
    site.trigger("callbacks", "r1")
    assert site.wait_run("callbacks", "r1") == "failed"
    for task in ("retried", "failed", "succeeded"):
        log = site.wait_log(f"callback ends {task}", "callbacks", "r1", task, 1)
        assert f"callback begins {task}" in log
        for never in ("killed", "Stopping the task", "Likely out of memory", "shouldn't be running"):
            assert never not in log
    assert site.tasks("callbacks", "r1")["retried", -1]["try_number"] == 2


def test_links_in_logs_and_callbacks_lead_to_the_centre(site: Site) -> None:
    """The worker's own site has no `[api] base_url`."""
    site.trigger("links", "r1")
    assert site.wait_run("links", "r1") == "failed"
    log = site.wait_log("callback ", "links", "r1", "fails")
    link = f"{site.url}/dags/links/runs/r1/tasks/fails"
    for words in ("task", "mark", "callback"):
        assert f"{words} {link}" in log
    assert "localhost:8080" not in log


def test_deferral_and_reschedule_go_through_all_their_rounds(site: Site) -> None:
    site.trigger("rounds", "r1")
    assert site.wait_run("rounds", "r1") == "success"
    assert {one["try_number"] for one in site.tasks("rounds", "r1").values()} == {1}
    log = site.wait_log("after the deferral", "rounds", "r1", "defers")
    assert "before the deferral" in log
    log = site.wait_log("poke 2", "rounds", "r1", "sensor")
    assert "poke 0" in log


def test_fifty_mapped_tasks_never_more_than_eight_at_once(site: Site) -> None:
    site.trigger("fifty", "r1")
    assert site.wait_run("fifty", "r1", 150) == "success"
    spans = [tuple(map(float, note.read_text().split())) for note in Path(site.notes, "fifty-r1").iterdir()]
    assert len(spans) == 50
    moments = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    running, most = 0, 0
    for _, change in moments:
        running += change
        most = max(most, running)
    assert 2 <= most <= 8


@from_3_4_on
def test_each_pass_of_a_loop_has_jobs_of_its_own(site: Site) -> None:
    site.trigger("loops", "r1")
    assert site.wait_run("loops", "r1") == "success"
    listed = site.told("list-jobs", dag_id="loops")
    assert {one["state"] for one in listed} == {"success"}
    passes = sorted((one["task_id"], one["map_index"]) for one in listed if "gate" not in one["task_id"])
    # One for each pass; mapped within it, one for each pass and value.
    mapped = [("batch.press", index) for index in (0, 0, 1, 1)]
    assert passes == [("batch.choose", 0), ("batch.choose", 1), *mapped]


def test_names_of_240_characters(site: Site) -> None:
    long = "x" * 239
    dag, run = "d" + long, "r" + long
    site.trigger(dag, run)
    assert site.wait_run(dag, run) == "success"
    site.wait_log("a long name", dag, run, "t" + long)


def test_a_cleared_task_is_cancelled_and_runs_again(site: Site) -> None:
    site.trigger("cleared", "r1")
    marker = Path(site.notes, "cleared-r1")
    wait_until(lambda: marker.exists() and len(marker.read_text().split()) == 2, 30)
    pid, child = map(int, marker.read_text().split())
    site.wait_log("hanging", "cleared", "r1", "hangs_once")
    site.api(
        "POST",
        "dags/cleared/clearTaskInstances",
        {"dry_run": False, "dag_run_id": "r1", "only_failed": False, "task_ids": ["hangs_once"]},
    )
    worker = site.processes["worker-factory-7"]
    # 2 s to the cancel, then SIGTERM, a grace of 5 s, SIGKILL.
    took = seconds_until(lambda: not psutil.pid_exists(pid) and not psutil.pid_exists(child), 9)
    assert took < 9, worker.tail()
    assert site.wait_run("cleared", "r1") == "success"
    site.wait_log("the second time", "cleared", "r1", "hangs_once", 2)


def test_a_running_task_that_a_user_fails_is_stopped_by_push(site: Site) -> None:
    site.trigger("marked", "r1")
    marker = Path(site.notes, "marked-r1")
    wait_until(lambda: marker.exists() and marker.read_text(), 30)
    pid = int(marker.read_text())
    site.api("PATCH", "dags/marked/dagRuns/r1/taskInstances/goes_on", {"new_state": "failed"})
    worker = site.processes["worker-factory-7"]
    # 2 s at the most; the third is a busy machine's. It obeys SIGTERM, so there is no grace to wait for.
    took_s = seconds_until(lambda: not psutil.pid_exists(pid), 9)
    assert took_s < 3, worker.tail()
    assert site.wait_run("marked", "r1") == "failed"
    log = site.wait_log("Task killed!", "marked", "r1", "goes_on")
    # Airflow's own supervisor stops it, and nobody else.
    assert "Server indicated the task shouldn't be running anymore" in log
    assert not any(foreign in log for foreign in ("Stopping the task", "out of memory", "abnormally"))
    (task,) = site.tasks("marked", "r1").values()
    assert (task["state"], task["try_number"]) == ("failed", 1)


def _begun(site: Site, run: str, attempt: int) -> int:
    """Wait for that attempt of `lasts` to run; return its process id."""
    marker = Path(site.notes, f"lasting-{run}-{attempt}")
    wait_until(lambda: marker.exists() and marker.read_text(), 60)
    return int(marker.read_text())


@of_the_worker
def test_a_job_outlives_its_daemon(site: Site) -> None:
    daemon = site.worker("dies", "-q", "mortal")
    site.trigger("lasting", "daemon")
    pid = _begun(site, "daemon", 1)
    site.wait_log("begun", "lasting", "daemon", "lasts")
    daemon.stop(signal.SIGKILL)
    assert psutil.pid_exists(pid)
    Path(site.notes, "release-daemon").touch()
    again = site.worker("dies", "-q", "mortal")
    assert site.wait_run("lasting", "daemon") == "success"
    log = site.wait_log("released", "lasting", "daemon", "lasts")
    assert log.count("begun") == 1
    (task,) = site.tasks("lasting", "daemon").values()
    assert task["try_number"] == 1
    assert again.stop() == 0


@of_the_worker
def test_a_dead_job_host_is_reported_at_once_and_the_task_retried(site: Site) -> None:
    worker = site.worker("dies", "-q", "mortal")
    site.trigger("lasting", "host")
    pid = _begun(site, "host", 1)
    (journal,) = Path(site.home, "remote-dies", "state", "hosts").glob("*.json")
    psutil.Process(json.loads(journal.read_text())["pid"]).kill()
    took_s = seconds_until(lambda: not psutil.pid_exists(pid), 10)
    assert took_s < 10
    again = _begun(site, "host", 2)
    assert again != pid
    Path(site.notes, "release-host").touch()
    assert site.wait_run("lasting", "host") == "success"
    assert worker.stop() == 0


def test_a_missed_deadline_is_called_back_on_a_worker(site: Site) -> None:
    site.trigger("late", "r1")
    assert site.wait_run("late", "r1") == "success"
    assert Path(site.notes, "deadline", "missed").is_dir()


@of_the_worker
def test_a_bundle_that_the_worker_lacks_is_said_in_the_tasks_log(site: Site) -> None:
    other = [
        {"name": "other", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}}
    ]
    worker = site.worker(
        "bare", "-q", "strange", AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps(other)
    )
    site.trigger("strange", "r1")
    assert site.wait_run("strange", "r1") == "failed"
    log = site.wait_log(
        "is not configured on worker bare", "strange", "r1", "in_a_bundle_that_the_worker_lacks"
    )
    assert "dag_bundle_config_list" in log
    assert "Traceback" not in log
    assert worker.stop() == 0


@of_the_worker
def test_a_log_path_that_is_too_long_for_the_worker_is_said_in_the_tasks_log(site: Site) -> None:
    """Its folder and the ids make more than the 4,096 bytes that a path may have; the centre's is shorter."""
    folder = site.home.joinpath(*["deep" * 50] * 18)
    worker = site.worker("deep", "-q", "deep", AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(folder))
    dag, task, run = "e" + "x" * 239, "t" + "x" * 239, "r" + "x" * 239
    site.trigger(dag, run)
    assert site.wait_run(dag, run) == "failed"
    log = site.wait_log("File name too long", dag, run, task)
    assert "Worker deep could not start the task" in log
    assert "Traceback" not in log
    row = site.told("show-job", dag_id=dag, run_id=run, task_id=task)
    assert row["code"] == "failed"
    assert "File name too long" in row["verdict"]
    assert worker.stop() == 0


def test_a_task_that_nobody_serves_waits(site: Site) -> None:
    site.trigger("elsewhere", "r1")
    wait_until(
        lambda: next(iter(site.tasks("elsewhere", "r1").values()))["state"] == "queued", 30, every_s=0.3
    )
    site.api("PATCH", "dags/elsewhere/dagRuns/r1", {"state": "failed"})


def test_queued_tasks_that_end_by_a_users_hand_leave_their_queue(site: Site) -> None:
    """Marked, marked with their run, deleted: their jobs go, and give back the executor's slots."""
    runs, task = ("by-run", "by-task", "deleted"), ("nobody_serves_it", -1)
    for run in runs:
        site.trigger("elsewhere", run)
    for run in runs:
        wait_until(lambda run=run: site.tasks("elsewhere", run)[task]["state"] == "queued", 30, every_s=0.3)

    def states() -> set[str]:
        return {one["state"] for one in site.told("list-jobs", dag_id="elsewhere") if one["run_id"] in runs}

    assert states() == {"queued"}
    site.api("PATCH", "dags/elsewhere/dagRuns/by-run", {"state": "failed"})
    path = "dags/elsewhere/dagRuns/by-task/taskInstances/nobody_serves_it"
    site.api("PATCH", path, {"new_state": "success"})
    site.api("PATCH", "dags/elsewhere/dagRuns/deleted", {"state": "failed"})
    site.api("DELETE", "dags/elsewhere/dagRuns/deleted")
    wait_until(lambda: states() == {"removed"}, 30, every_s=0.3)
    for run in runs:
        of = {"dag_id": "elsewhere", "run_id": run, "task_id": "nobody_serves_it"}
        assert site.told("show-job", **of)["code"] == "left_queue"


@of_the_worker
def test_what_ends_while_the_line_is_cut_ends_as_it_did_and_runs_once(site: Site) -> None:
    """The whole line: to the gateway and to the Execution API."""
    with forwarding([site.port]) as line:
        url = f"http://127.0.0.1:{line.port}"
        worker = site.worker("cut", "-q", "cut", "--url", url, **QUICKLY)
        site.trigger("cut", "r1")
        notes = [Path(site.notes, f"cut-{name}-1") for name in CUT_OFF]
        wait_until(lambda: all(one.exists() for one in notes), 90)
        line.close_line()
        Path(site.notes, "cut-off").touch()
        for name in CUT_OFF:
            worker.wait_for(f"kept: cut r1 {name} try 1: Airflow has not taken its outcome ", 90)
        assert {task["state"] for task in site.tasks("cut", "r1").values()} == {"running"}
        line.open_line()
        assert site.wait_run("cut", "r1") == "failed"
        tasks = {
            name: (task["state"], task["try_number"]) for (name, _), task in site.tasks("cut", "r1").items()
        }
        assert tasks == {
            "succeeded": ("success", 1),
            "failed": ("failed", 1),
            "retried": ("success", 2),
            "deferred": ("success", 1),
        }
        found = {one.name: one.read_text() for one in Path(site.notes).glob("cut-*-*")}
        assert found == dict.fromkeys([*(one.name for one in notes), "cut-retried-2"], "ran\n")
        assert worker.stop() == 0
