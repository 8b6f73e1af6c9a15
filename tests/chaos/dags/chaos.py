"""The DAG that every worker of the chaos test runs: a body that leaves a trace of all that matters.

It holds two locks while it runs, which the kernel takes from it when it dies: the task's own (nobody else may
run it now) and one of its worker's slots (there are no more than were offered).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.exceptions import AirflowRescheduleException

NOTES = Path(os.environ.get("SITE_NOTES", "/nonexistent"))


def take(name: str) -> IO[str] | None:
    """Take a lock; None if a living process holds it."""
    file = (NOTES / name).open("a")
    with contextlib.suppress(OSError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    return None


@dag(dag_id="chaos", schedule=None)
def chaos():
    @task
    def work():
        ti = get_current_context()["ti"]
        plan = json.loads((NOTES / f"{ti.run_id}.plan").read_text())
        trace = NOTES / f"{ti.run_id}.trace"
        worker = os.environ["SITE_WORKER"]

        def say(what: str) -> None:
            with trace.open("a") as file:
                file.write(f"{what} {ti.id} {os.getpid()} {worker} {time.time():.3f}\n")

        # In the variables, or they would be let go of.
        own = take(f"{ti.run_id}.lock")
        slots = []
        for number in range(int(os.environ["SITE_SLOTS"])):
            if len(slots) < plan["slots"] and (slot := take(f"{worker}-{number}.slot")):
                slots.append(slot)
        say("begin")
        if own is None:
            say("overlap")
        if len(slots) < plan["slots"]:
            say("overcommit")
        until = time.monotonic() + plan["last_s"]
        lines = 0
        while lines < plan["lines"] or time.monotonic() < until or waits(plan["together"]):
            if lines < plan["lines"]:
                print(f"line {lines} of {ti.run_id} " + "x" * (lines % 200))
                lines += 1
            else:
                # The task's work is to last for its time, or until the others have begun.
                time.sleep(0.05)
        say("end")
        done = sum(line.startswith(f"end {ti.id} ") for line in trace.read_text().splitlines())
        if done < plan["rounds"]:
            raise AirflowRescheduleException(datetime.now(UTC))

    work()


def waits(together: list[str]) -> bool:
    """Tell whether one of those has not begun: together they need every slot there is."""
    return not all((NOTES / f"{name}.trace").exists() for name in together)


chaos()
