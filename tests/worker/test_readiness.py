"""Why the worker takes no new jobs, and what the log is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_ws.protocol.frames import Wish
from edge_ws.worker.readiness import NO_JOB_HOST, STARTING, Hindrances, Reason, Told, why_no_jobs
from edge_ws.worker.wishes import Wishes

WISH = Wish(revision=1, concurrency=None, queues=None)


@pytest.mark.parametrize(
    ("wish", "hindrance", "trouble", "code", "sentence"),
    [
        (WISH, None, None, None, ""),
        (WISH, None, "", "not_connected", "not connected yet"),
        (WISH, None, "token refused", "not_connected", "not connected: token refused"),
        (WISH, (NO_JOB_HOST, "Airflow is missing"), "", NO_JOB_HOST, "Airflow is missing"),
        (replace(WISH, concurrency=0), (NO_JOB_HOST, "x"), "", "paused", "paused: the concurrency is 0"),
        (
            replace(WISH, maintenance=True, comment="belt"),
            None,
            None,
            "maintenance",
            "in maintenance: belt",
        ),
        (replace(WISH, maintenance=True, shutdown=True), None, None, "leaving", "shutting down: an oper"),
    ],
)
def test_the_reason(
    wish: Wish, hindrance: tuple[str, str] | None, trouble: str | None, code: str | None, sentence: str
) -> None:
    wishes, hindrances = Wishes(4, None), Hindrances()
    wishes.hear(wish, in_full=True)
    if hindrance is not None:
        hindrances.begin(*hindrance)
    found = why_no_jobs(wishes, hindrances, trouble)
    assert (found.code if found is not None else None) == code
    assert found is None or found.sentence.startswith(sentence)


def test_hindrances_come_and_go() -> None:
    hindrances = Hindrances()
    assert hindrances.told() == {}
    assert hindrances.begin(STARTING, "starting")
    assert hindrances.begin("disk_full", "the disk is full")
    # What says the most counts, then what was noticed first.
    assert hindrances.begin(NO_JOB_HOST, "broken")
    assert hindrances.first == Reason("disk_full", "the disk is full")
    assert not hindrances.begin("disk_full", "the disk is full")
    hindrances.end("disk_full", NO_JOB_HOST, "never begun")
    assert hindrances.told() == {"no_job_host": "starting", "no_jobs_code": STARTING}


def test_the_log_is_told_each_change_once() -> None:
    """While there is no connection nothing is said: neither that jobs are taken nor that none are."""
    told = Told()
    away, starting = Reason("not_connected", "token refused"), Reason(STARTING, "starting")
    paused = Reason("paused", "0 slots")
    heard = [told.news(one) for one in (starting, away, None, None, away, None, paused, paused, away, None)]
    assert [line for line in heard if line] == ["taking jobs", "taking no new jobs: 0 slots", "taking jobs"]
    assert heard[2] == "taking jobs"
