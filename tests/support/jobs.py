"""A remote site's Airflow folder with one DAG, and the workloads that a centre would send to it."""

from __future__ import annotations

import json
import os
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import edge_ws

_DAG = """
import gc, json, os, pathlib, signal, subprocess, sys, time
from datetime import datetime, timedelta, timezone
from airflow.sdk import DAG, BaseOperator, task
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator

NOTES = pathlib.Path(os.environ["SITE_NOTES"])

def note(name, text):
    path = NOTES / name
    path.with_suffix(".new").write_text(str(text))
    path.with_suffix(".new").rename(path)

def wait_for(name):
    # The test's leave comes as a file from another process, so there is nothing else to wait on.
    while not (NOTES / name).exists():
        time.sleep(0.02)

class Remote(BaseOperator):
    # It works elsewhere: whoever stops it has to tell that place, once.
    def execute(self, context):
        note("remote", os.getpid())
        wait_for("never")
    def on_kill(self):
        for what in ("begun", "done"):
            with open(NOTES / "killed", "a") as notes:
                notes.write(f"{what} ")
            time.sleep(0.3)

class Asks(Remote):
    # It needs the centre, once it may ask.
    def execute(self, context):
        note("asks", os.getpid())
        wait_for("enough")
        try:
            context["ti"].xcom_push("press", "pressed")
        except Exception as error:
            note("answer", repr(error))
            raise
        note("answer", "pushed")

def say_so(context):
    note("says_so", os.getpid())
    wait_for("enough")

IGNORES = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"

def orphan():
    # Leaves a process whose parent is dead, in a session of its own; it holds the task's output open.
    parent = "import subprocess, sys; one = subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True, stdout=2); print(one.pid)"
    done = subprocess.run([sys.executable, "-c", parent, "import time; time.sleep(600)"], stdout=subprocess.PIPE)
    return int(done.stdout)

def leave(how):
    started = subprocess.Popen([sys.executable, "-c", IGNORES], start_new_session=True, stdout=subprocess.PIPE)
    started.stdout.readline()
    note(f"leaves_{how}", f"{os.getpid()} {started.pid} {orphan()}")
    if how == "failure":
        raise ValueError(how)
    if how == "exit":
        os._exit(3)
    if how != "success":
        os.kill(os.getpid(), getattr(signal, how))

with DAG("jobs", schedule=None, start_date=datetime(2026, 1, 1)):

    @task
    def hello():
        print("hello from the task")
        note("frozen", gc.get_freeze_count())
        note("environment", "\\n".join(f"{k}={v}" for k, v in os.environ.items()))
        note("descriptors", "\\n".join(
            os.readlink(entry) for entry in pathlib.Path("/proc/self/fd").iterdir() if entry.is_symlink()))
        return 42

    @task
    def settings(ti=None):
        from airflow.sdk.bases.sensor import BaseSensorOperator
        from airflow.sdk.configuration import conf
        from edge_ws.provider.task_settings import TASK_SETTINGS
        read = {f"{section}.{option}": conf.get(section, option, fallback="") for section, option in TASK_SETTINGS}
        timeout = BaseSensorOperator(task_id="sensor", dag=DAG("unsaved")).timeout
        note("settings", json.dumps(read | {"log_url": ti.log_url, "timeout": str(timeout)}))

    @task
    def wait():
        note("wait", os.getpid())
        wait_for("enough")

    @task
    def chat():
        note("chat", os.getpid())
        while not (NOTES / "quiet").exists():
            print("so it goes " * 90)
            time.sleep(0.005)  # Its log grows all the time, and still leaves others the processor.
        print("the last word")

    @task
    def stubborn():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
        in_group = subprocess.Popen([sys.executable, "-c", ignore], stdout=subprocess.PIPE)
        apart = subprocess.Popen([sys.executable, "-c", ignore], stdout=subprocess.PIPE, start_new_session=True)
        in_group.stdout.readline(), apart.stdout.readline()
        note("stubborn", f"{os.getpid()} {in_group.pid} {apart.pid} {orphan()}")
        time.sleep(600)

    def _vanish():
        os._exit(7)

    class Ends(BaseOperator):
        # Ends as its name says, once it may.

        def execute(self, context):
            note(self.task_id, os.getpid())
            wait_for("enough")
            later = datetime.now(timezone.utc) + timedelta(hours=1)
            if self.task_id in {"failed", "up_for_retry"}:
                raise RuntimeError("the press is jammed")
            if self.task_id == "skipped":
                raise AirflowSkipException
            if self.task_id == "up_for_reschedule":
                raise AirflowRescheduleException(later)
            if self.task_id == "deferred":
                self.defer(trigger=DateTimeTrigger(moment=later), method_name="execute")
            if self.task_id == "silent":
                os._exit(0)

    def call_back(context):
        note("callback", os.getpid())
        wait_for("enough-called")
        print("called back to the end")

    for kind in ("success", "failed", "up_for_retry", "skipped", "up_for_reschedule", "deferred", "silent"):
        Ends(task_id=kind)
    Ends(task_id="calls_back", on_success_callback=call_back)

    hello(); settings(); wait(); chat(); stubborn()
    PythonOperator(task_id="vanish", python_callable=_vanish)
    BashOperator(task_id="bash", bash_command="echo from bash")
    Remote(task_id="remote")
    Asks(task_id="asks")
    PythonOperator(task_id="says_so", python_callable=lambda: None, on_success_callback=say_so)
    for how in ("success", "failure", "SIGKILL", "SIGABRT", "exit"):
        PythonOperator(task_id=f"leaves_{how}", python_callable=leave, op_args=[how])
    BashOperator(
        task_id="leaves_timeout", execution_timeout=timedelta(seconds=1),
        bash_command="trap '' TERM; echo $$ > $SITE_NOTES/leaves_timeout; for i in $(seq 600); do sleep 1; done",
    )

def linger():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    note("linger", os.getpid())
    time.sleep(600)
"""


@dataclass(frozen=True)
class Site:
    """The folder of a worker."""

    folder: Path

    @property
    def notes(self) -> Path:
        """Where the tasks leave notes."""
        return self.folder / "notes"

    @property
    def logs(self) -> Path:
        """Airflow's log folder."""
        return self.folder / "airflow" / "logs"

    def environment(self, **more: str) -> dict[str, str]:
        """Return an environment in which Airflow finds the site, and no database."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EDGE_WS_"))
        }
        return {
            **kept,
            "PYTHONPATH": str(Path(edge_ws.__file__).parents[1]),
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nonexistent/none.db",
            "SITE_NOTES": str(self.notes),
            **more,
        }


def make_site(folder: Path) -> Site:
    """Lay out a site in that folder."""
    site = Site(folder)
    for part in ("airflow", "dags", "notes"):
        (folder / part).mkdir(parents=True)
    (folder / "dags" / "jobs.py").write_text(_DAG)
    return site


@dataclass(frozen=True)
class TaskWorkload:
    """A workload and its identity."""

    id: str
    log_path: str
    payload: str


def task_workload(task_id: str, *, bundle: str = "dags-folder") -> TaskWorkload:
    """Return a task's workload, its token left blank."""
    number = str(uuid.uuid4())
    log_path = f"dag_id=jobs/run_id=r1/task_id={task_id}/{number}.log"
    payload = {
        "token": "",
        "dag_rel_path": "jobs.py",
        "bundle_info": {"name": bundle, "version": None},
        "log_path": log_path,
        "ti": {
            "id": number,
            "task_id": task_id,
            "dag_id": "jobs",
            "run_id": "r1",
            "try_number": 1,
            "dag_version_id": str(uuid.uuid4()),
            "map_index": -1,
            "hostname": "",
            "context_carrier": {},
            "queue": "default",
            "pool_slots": 1,
            "priority_weight": 1,
        },
        "sentry_integration": "",
        "type": "ExecuteTask",
    }
    return TaskWorkload(id=number, log_path=log_path, payload=json.dumps(payload))


def callback_workload(path: str = "builtins.print") -> TaskWorkload:
    """Return a callback's workload, its token left blank."""
    number = str(uuid.uuid4())
    log_path = f"executor_callbacks/jobs/r1/{number}"
    payload = {
        "token": "",
        "dag_rel_path": "jobs.py",
        "bundle_info": {"name": "dags-folder", "version": None},
        "log_path": log_path,
        "callback": {"id": number, "fetch_method": "import_path", "data": {"path": path, "kwargs": {}}},
        "type": "ExecuteCallback",
    }
    return TaskWorkload(id=number, log_path=log_path, payload=json.dumps(payload))


PYTHON = sys.executable
