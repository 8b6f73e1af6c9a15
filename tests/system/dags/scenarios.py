"""DAGs for the system tests: each a situation that an executor must get right."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import airflow.sdk
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import (
    BaseOperator,
    DeadlineAlert,
    DeadlineReference,
    SyncCallback,
    dag,
    get_current_context,
    task,
    task_group,
)
from airflow.sdk.exceptions import AirflowFailException

NOTES = Path(os.environ.get("SITE_NOTES", "/nonexistent"))
"""Where tasks leave what a test looks at."""
LONG = "x" * 240


@dag(schedule=None)
def success():
    @task
    def one():
        print("hello from the far side")
        return 20

    @task
    def two(value: int):
        print("got", value)
        return value + 1

    two(one())


@dag(schedule=None)
def failure():
    @task(retries=1, retry_delay=timedelta(seconds=0))
    def fails():
        raise RuntimeError("the press is jammed")

    fails()


@dag(schedule=None)
def callbacks():
    def slowly(context):
        ti = context["ti"]
        print("callback begins", ti.task_id)
        # Longer than it takes a gateway to look, and Airflow's supervisor to send a heartbeat.
        time.sleep(9)
        print("callback ends", ti.task_id)

    class Ends(BaseOperator):
        def __init__(self, *, fails: bool, **options):
            super().__init__(**options)
            self.fails = fails

        def execute(self, context):
            if self.fails:
                raise RuntimeError("the press is jammed")

        def on_kill(self):
            print("killed", self.task_id)

    # The second try begins while the first one's callback runs.
    Ends(task_id="retried", fails=True, retries=1, retry_delay=timedelta(0), on_retry_callback=slowly)
    Ends(task_id="failed", fails=True, on_failure_callback=slowly)
    Ends(task_id="succeeded", fails=False, on_success_callback=slowly)


@dag(schedule=None)
def rounds():
    class Defers(BaseOperator):
        def execute(self, context):
            print("before the deferral")
            moment = datetime.now(UTC) + timedelta(seconds=1)
            self.defer(trigger=DateTimeTrigger(moment=moment), method_name="resume")

        def resume(self, context, event=None):
            print("after the deferral")

    def poke() -> bool:
        ti = get_current_context()["ti"]
        marker = NOTES / f"poked-{ti.run_id}"
        count = int(marker.read_text()) if marker.exists() else 0
        marker.write_text(str(count + 1))
        print("poke", count)
        return count >= 2

    Defers(task_id="defers")
    PythonSensor(task_id="sensor", python_callable=poke, mode="reschedule", poke_interval=1, timeout=120)


@dag(schedule=None, max_active_tasks=64)
def fifty():
    @task(max_active_tis_per_dag=64)
    def note(number: int):
        ti = get_current_context()["ti"]
        folder = NOTES / f"fifty-{ti.run_id}"
        folder.mkdir(exist_ok=True)
        begun = time.time()
        time.sleep(0.2)
        # Appended: a second run of it would show.
        with (folder / str(number)).open("a") as file:
            file.write(f"{begun} {time.time()} ")

    note.expand(number=list(range(50)))


@dag(dag_id="d" + LONG[1:], schedule=None)
def long_names():
    @task(task_id="t" + LONG[1:])
    def named():
        print("a long name")

    named()


@dag(dag_id="e" + LONG[1:], schedule=None)
def long_names_in_a_deep_folder():
    @task(task_id="t" + LONG[1:], queue="deep")
    def never():
        print("nobody sees this")

    never()


@dag(schedule=None)
def cleared():
    @task
    def hangs_once():
        import signal
        import subprocess

        ti = get_current_context()["ti"]
        marker = NOTES / f"cleared-{ti.run_id}"
        if marker.exists():
            print("the second time")
            return
        # Neither it nor its child minds SIGTERM.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
        marker.write_text(f"{os.getpid()} {child.pid}")
        print("hanging")
        time.sleep(600)

    hangs_once()


@dag(schedule=None)
def marked():
    @task
    def goes_on():
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        marker = NOTES / f"marked-{get_current_context()['ti'].run_id}"
        marker.with_suffix(".new").write_text(str(os.getpid()))
        marker.with_suffix(".new").rename(marker)
        time.sleep(600)

    goes_on()


@dag(schedule=None)
def lasting():
    @task(queue="mortal", retries=1, retry_delay=timedelta(seconds=0))
    def lasts():
        ti = get_current_context()["ti"]
        marker = NOTES / f"lasting-{ti.run_id}-{ti.try_number}"
        marker.write_text(str(os.getpid()))
        print("begun")
        release = NOTES / f"release-{ti.run_id}"
        while not release.exists():
            time.sleep(0.1)
        print("released")

    lasts()


@dag(
    schedule=None,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=1),
        # Something that every worker can import, and whose effect a test can see.
        callback=SyncCallback("os.makedirs", kwargs={"name": str(NOTES / "deadline" / "missed")}),
    ),
)
def late():
    @task
    def takes_its_time():
        while not (NOTES / "deadline" / "missed").exists():
            time.sleep(0.1)

    takes_its_time()


@dag(schedule=None)
def strange():
    @task(queue="strange")
    def in_a_bundle_that_the_worker_lacks():
        print("never")

    in_a_bundle_that_the_worker_lacks()


@dag(schedule=None)
def elsewhere():
    @task(queue="unserved")
    def nobody_serves_it():
        print("never")

    nobody_serves_it()


@dag(schedule=None)
def links():
    def tells(context):
        print("callback", context["ti"].log_url)

    @task(on_failure_callback=tells)
    def fails(ti=None):
        print("task", ti.log_url, "mark", ti.mark_success_url)
        raise RuntimeError

    fails()


@dag(schedule=None)
def loops():
    @task_group
    def batch():
        @task
        def choose(*, loop):
            return [10, 20] if loop.index == 0 else [value + 1 for value in loop.previous]

        @task
        def press(value, *, loop):
            print(f"pass {loop.index} presses {value}")
            return value

        press.expand(value=choose())

    batch.loop(max_iterations=2)


if hasattr(airflow.sdk, "LoopDecision"):
    loops()
success()
failure()
links()
callbacks()
rounds()
fifty()
long_names()
long_names_in_a_deep_folder()
cleared()
marked()
lasting()
late()
strange()
elsewhere()


@dag(schedule=None)
def cut():
    def runs(ti):
        # Appended: a second run of the same try would show.
        with (NOTES / f"cut-{ti.task_id}-{ti.try_number}").open("a") as file:
            file.write("ran\n")
        # The line is cut by another process, which leaves a file: there is nothing else to wait on.
        while not (NOTES / "cut-off").exists():
            time.sleep(0.1)

    class Ends(BaseOperator):
        def execute(self, context):
            ti = context["ti"]
            runs(ti)
            if ti.task_id == "retried" and ti.try_number == 1:
                raise RuntimeError("the press is jammed")
            if ti.task_id == "failed":
                raise AirflowFailException("the press is broken")
            if ti.task_id == "deferred":
                self.defer(trigger=DateTimeTrigger(moment=datetime.now(UTC)), method_name="resume")

        def resume(self, context, event=None):
            print("after the deferral")

    for name in ("succeeded", "failed", "retried", "deferred"):
        Ends(task_id=name, queue="cut", retries=1, retry_delay=timedelta(0))


cut()
