"""One task that runs until a file is there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from airflow.sdk import DAG, task

with DAG("line", schedule=None):

    @task
    def weld():
        print("the weld begins")
        until = Path(os.environ["SITE_NOTES"]) / "go-on"
        for _ in range(600):
            if until.exists():
                return
            # A task of its own process, which can only look: the test makes the file when it has seen it run.
            time.sleep(0.2)
        raise TimeoutError

    weld()
