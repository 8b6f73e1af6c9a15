"""A DAG of a site that runs edge3, and that nobody changes while the site moves."""

import os
import pathlib
import time
from datetime import UTC, datetime

from airflow.sdk import DAG, task

NOTES = pathlib.Path(os.environ.get("SITE_NOTES", "/nowhere"))

with DAG("moving", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):

    @task(queue="factory")
    def first(run_id=None):
        print("by the default executor")
        NOTES.joinpath(f"begun-{run_id}").touch()
        end = time.monotonic() + 90
        while NOTES.joinpath(f"hold-{run_id}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        print("done")

    @task(queue="factory", executor="EdgeExecutor")
    def second():
        print("by the one that it names")

    first() >> second()
