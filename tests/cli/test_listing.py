"""What a list shows of its rows."""

from __future__ import annotations

from argparse import Namespace

import pytest

from edge_ws.cli.output import (
    Wanted,
    arrange,
    fit,
    job_summary,
    queue_summary,
    usual,
    wanted,
    worker_summary,
)
from edge_ws.errors import UsageError

ROWS = [
    {"name": "b", "slots": 2, "queues": ["x"]},
    {"name": "a", "slots": None, "queues": None},
    {"name": "c", "slots": 10, "queues": []},
]


def names(asked: Wanted) -> list[object]:
    return [row["name"] for row in arrange(ROWS, asked)]


def test_order_and_number() -> None:
    assert names(Wanted()) == ["b", "a", "c"]
    assert names(Wanted(reverse=True)) == ["c", "a", "b"]
    assert names(Wanted(sort="name")) == ["a", "b", "c"]
    # Numbers as numbers; what is not known comes last, either way round.
    assert names(Wanted(sort="slots")) == ["b", "c", "a"]
    assert names(Wanted(sort="slots", reverse=True)) == ["c", "b", "a"]
    assert names(Wanted(sort="queues")) == ["c", "b", "a"]
    assert names(Wanted(sort="name", limit=2)) == ["a", "b"]


def test_columns() -> None:
    assert arrange(ROWS, Wanted(columns=("slots", "name"), limit=1)) == [{"slots": 2, "name": "b"}]
    # One may order by what is not shown.
    shown = arrange(ROWS, Wanted(columns=("name",), sort="slots"))
    assert shown == [{"name": "b"}, {"name": "c"}, {"name": "a"}]
    assert usual(ROWS[:1], ["slots", "unknown"]) == [{"slots": 2}]
    assert arrange([], Wanted(columns=("unknown",))) == []
    for asked, flag in ((Wanted(columns=("name", "nmae")), "--columns"), (Wanted(sort="nmae"), "--sort")):
        with pytest.raises(UsageError, match=f"{flag}: there is no column nmae; there are name, slots, que"):
            arrange(ROWS, asked)


def test_arguments() -> None:
    given = Namespace(columns="a, b", sort=None, reverse=False)
    assert wanted(given, limit=3) == Wanted(columns=("a", "b"), limit=3)
    with pytest.raises(UsageError, match="--limit: 0 is less than 1"):
        wanted(given, limit=0)
    with pytest.raises(UsageError, match="--columns: 'a,,b' has an empty name"):
        wanted(Namespace(columns="a,,b", sort=None, reverse=False), limit=None)


@pytest.mark.parametrize(("width", "count"), [(1, 1), (9, 1), (10, 1), (11, 2), (16, 3), (200, 3)])
def test_as_many_columns_as_fit(width: int, count: int) -> None:
    """The first column is shown however narrow the terminal is."""
    assert fit([["abcd", "ef", "g"], ["a", "efgh", "gh"]], width, 3) == count


def worker(state: str, *, connected: bool = True, code: str | None = None) -> dict[str, object]:
    return {"state": state, "connected": connected, "takes_jobs": code is None, "no_jobs_code": code}


def test_workers_are_counted_once_each() -> None:
    fleet = [
        *[worker("idle")] * 3,
        worker("running"),
        worker("idle", code="no_job_host"),
        worker("maintenance mode", code="maintenance"),
        worker("maintenance pending", code="maintenance"),
        worker("offline", connected=False, code="offline"),
        worker("offline maintenance", connected=False, code="offline"),
        worker("unknown", connected=False, code="not_connected"),
    ]
    assert worker_summary(fleet, 3) == (
        "10 workers: 5 connected (1 of them takes no jobs: no_job_host), 2 offline, 1 not heard of,"
        " 2 in maintenance; 3 queues wait"
    )
    assert worker_summary([worker("idle")], 0) == "1 worker: 1 connected; no queue waits"
    assert worker_summary([worker("idle")] * 2, 1) == "2 workers: 2 connected; 1 queue waits"
    assert worker_summary([worker("idle")], None) == "1 worker: 1 connected"


def test_queues_and_jobs() -> None:
    queues = [{"queued": 0, "workers": 1}, {"queued": 2, "workers": 0}, {"queued": 1, "workers": 1}]
    told = "3 queues: 2 with jobs that wait, 1 of them without a worker that takes jobs"
    assert queue_summary(queues) == told
    assert queue_summary(queues[:1]) == "1 queue: 0 with jobs that wait"
    jobs = [{"state": "running"}, {"state": "queued"}, {"state": "running"}]
    assert job_summary(jobs) == "3 jobs: 2 running, 1 queued"
