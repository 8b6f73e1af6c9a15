"""Tasks of both executors, on a queue that edge3's worker serves, one that ours does, and one of both."""

import os
import pathlib
import time
from datetime import UTC, datetime

from airflow.sdk import DAG, task

NOTES = pathlib.Path(os.environ.get("SITE_NOTES", "/nowhere"))


@task
def talks(ti=None, run_id=None):
    print("the first line")
    name = f"{run_id}-{ti.dag_id}-{ti.task_id}"
    NOTES.joinpath(f"begun-{name}").touch()
    end = time.monotonic() + 60
    while not NOTES.joinpath(f"go-on-{run_id}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    print("the last line")


for queue in ("theirs", "ours", "both"):
    with DAG(f"on_{queue}", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        for executor in ("EdgeExecutor", "edge_ws"):
            talks.override(task_id=f"by_{executor}", executor=executor, queue=queue)()
