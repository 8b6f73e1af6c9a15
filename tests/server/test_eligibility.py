"""What a length of time and a list of queues look like, and who counts as being here."""

from __future__ import annotations

import pytest

from edge_ws.server.eligibility import Reason, fit, is_here, lasted, queues_told, takes_jobs
from edge_ws.store.records import Room
from edge_ws.store.view_records import WorkerView
from tests.support.job_facts import a_job, a_worker, an_edge3_worker


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (119.0, "119 s"), (150, "2 min"), (7300, "2 h 1 min"), (200_000, "2 days"), (-1, "0 s")],
)
def test_a_length_of_time(seconds: float, text: str) -> None:
    assert lasted(seconds) == text


def test_queues() -> None:
    assert queues_told(()) == "no queue"
    assert queues_told(["b", "a"]) == "only queues a, b"
    assert queues_told([f"q{number:02}" for number in range(12)]).endswith("q09 and 2 more")


@pytest.mark.parametrize(
    ("worker", "here", "takes"),
    [
        (a_worker(), True, True),
        (a_worker(seen_s=46.0), False, False),
        (a_worker(gateway=None), False, False),
        (a_worker(state="offline"), False, False),
        (a_worker(state="maintenance pending"), True, False),
        (a_worker(state="maintenance exit"), True, False),
        (a_worker(state="terminating"), True, False),
        (a_worker(concurrency=0), True, False),
        (a_worker(room=Room(ready=False)), True, False),
        (a_worker(room=Room(stale_slots=4)), True, True),
        (an_edge3_worker(seen_s=149.0), True, True),
        (an_edge3_worker(seen_s=151.0), False, False),
        (an_edge3_worker(seen_s=151.0, silent_after_s=600.0), True, True),
        (an_edge3_worker(seen_s=None), False, False),
    ],
)
def test_who_is_here(worker: WorkerView, *, here: bool, takes: bool) -> None:
    assert is_here(worker) is here
    assert takes_jobs(worker) is takes


def test_an_edge3_worker_of_unknown_slots_may_have_one_free() -> None:
    found = fit(a_job(slots=9), an_edge3_worker(concurrency=None, local_concurrency=None))
    assert found.reason is Reason.POLLS
    assert found.why.startswith("has a free slot")


def test_offline_in_maintenance_says_both() -> None:
    found = fit(a_job(), a_worker(state="offline maintenance", comment="belt", gateway=None, seen_s=60.0))
    assert found.reason is Reason.OFFLINE
    assert found.why == "is offline and in maintenance (belt) (last seen 60 s ago)"


def test_a_worker_that_could_not_start_the_job_is_not_free_for_it() -> None:
    job = a_job(faults={a_worker().name: "no log folder"})
    found = fit(job, a_worker())
    assert (found.reason, found.why) == (Reason.COULD_NOT_START, "could not start it (no log folder)")
    assert fit(a_job(), a_worker()).reason is Reason.FREE
