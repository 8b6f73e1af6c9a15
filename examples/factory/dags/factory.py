"""One day of a factory: find the machines' sensor files, condense each, report which machine needs a look.

All tasks go to the queue `factory`, so they run on the worker that stands there, beside the files. What
travels between them (by XCom) is a few numbers a machine, not the readings.
"""

from __future__ import annotations

import csv
import logging
import statistics
import time
from pathlib import Path
from typing import TypedDict

from airflow.sdk import Param, dag, get_current_context, task

DATA = Path(__file__).parent / "data"
SENSOR_RANGE_C = (-40.0, 400.0)
"""What the thermometers can measure; anything else is a broken wire."""
CALM_MM_S = 2.8
"""Vibration velocity that a healthy machine of this size stays below (ISO 10816, class I: satisfactory)."""

log = logging.getLogger(__name__)


class Stats(TypedDict):
    """A machine's day."""

    machine: str
    readings: int
    dropped: int
    mean_c: float
    max_c: float
    shaking: int
    """Readings above CALM_MM_S."""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dag(
    schedule=None,
    catchup=False,
    tags=["edge-ws", "example"],
    default_args={"queue": "factory"},
    params={"pace_s": Param(0.0, type="number", minimum=0, maximum=60, title="Seconds that a machine takes")},
    doc_md=__doc__,
)
def factory() -> None:
    """Extract, transform each machine's file, aggregate."""

    @task
    def extract() -> list[str]:
        """Find the machines that have left readings."""
        machines = sorted(path.stem for path in DATA.glob("*.csv"))
        log.info("%d machines have left readings in %s", len(machines), DATA)
        return machines

    @task(map_index_template="{{ task.op_kwargs['machine'] }}")
    def transform(machine: str) -> Stats:
        """Drop what no sensor can have meant, and condense the rest."""
        # So that somebody who watches (the demo) has something to see.
        time.sleep(float(get_current_context()["params"]["pace_s"]))
        low, high = SENSOR_RANGE_C
        with (DATA / f"{machine}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        clean = [
            (degrees, shake)
            for row in rows
            if (degrees := _number(row["temperature_c"])) is not None
            and low <= degrees <= high
            and (shake := _number(row["vibration_mm_s"])) is not None
        ]
        log.info("%s: %d of %d readings are good", machine, len(clean), len(rows))
        return Stats(
            machine=machine,
            readings=len(clean),
            dropped=len(rows) - len(clean),
            mean_c=round(statistics.fmean(degrees for degrees, _ in clean), 1),
            max_c=max(degrees for degrees, _ in clean),
            shaking=sum(shake > CALM_MM_S for _, shake in clean),
        )

    @task
    def aggregate(stats: list[Stats]) -> str:
        """Name the machine that shook the most, with the whole table in the log."""
        ranked = sorted(stats, key=lambda one: one["shaking"], reverse=True)
        for one in ranked:
            log.info(
                "%(machine)-9s %(readings)3d readings, mean %(mean_c)5.1f C, max %(max_c)5.1f C, "
                "above %(limit).1f mm/s: %(shaking)d",
                {**one, "limit": CALM_MM_S},
            )
        worst = ranked[0]
        return f"look at {worst['machine']}: {worst['shaking']} of {worst['readings']} readings are too high"

    aggregate(transform.expand(machine=extract()))


factory()
