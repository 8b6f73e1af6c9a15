"""A real Airflow cannot be reached as tasks end: each comes to the state that it had on the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.forwarder import forwarding
from tests.support.site import Site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system

TASKS = ("succeeded", "failed", "retried", "deferred")
QUICKLY = {
    # How long Airflow's client tries before it gives up.
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "2",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "0.05",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "0.1",
}


def test_what_ends_while_the_line_is_cut_ends_as_it_did_and_runs_once(site: Site) -> None:
    """The whole line: to the gateway and to the Execution API."""
    with forwarding([site.port]) as line:
        url = f"http://127.0.0.1:{line.port}"
        worker = site.worker("cut", "-q", "cut", "--url", url, **QUICKLY)
        site.trigger("cut", "r1")
        notes = [Path(site.notes, f"cut-{name}-1") for name in TASKS]
        wait_until(lambda: all(one.exists() for one in notes), 90)
        line.close_line()
        Path(site.notes, "cut-off").touch()
        for name in TASKS:
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
