from __future__ import annotations

from typing import Any

import pytest

from edge_ws.provider import verdict, workload
from edge_ws.provider.verdict import Outcome
from edge_ws.store.records import EndedJob, JobKey

KEY = JobKey("factory", "press", "run-1", -1, 1)


def outcome(
    row: str, *, same: str | None = "absent", other: str | None = "absent", key: JobKey = KEY
) -> Outcome:
    """What is told of a row, when its id has the task state `same`, or its try has `other` under a new id."""
    return verdict.outcome(
        EndedJob(key=key, state=row, subject="id", detail=""),
        by_id={} if same == "absent" else {"id": same},
        by_try={} if other == "absent" else {verdict.attempt(key): other},
    )


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_failure_is_told_while_the_same_task_waits_or_runs(state: str | None) -> None:
    assert outcome("failed", same=state) is Outcome.FAILED


def test_a_success_is_told_only_while_the_same_task_runs() -> None:
    assert outcome("success", same="running") is Outcome.SUCCESS
    assert outcome("success", same="queued") is Outcome.NOTHING


@pytest.mark.parametrize("row", ["success", "failed", "not_started", "removed"])
@pytest.mark.parametrize(
    "state",
    [
        None,
        "scheduled",
        "success",
        "failed",
        "skipped",
        "up_for_retry",
        "up_for_reschedule",
        "deferred",
        "removed",
    ],
)
def test_a_task_that_has_settled_hears_nothing(row: str, state: str | None) -> None:
    assert outcome(row, same=state) is Outcome.NOTHING


def test_a_cleared_task_does_not_hear_of_a_claim_that_never_ran() -> None:
    """Another process ran it, which may be running still."""
    assert outcome("not_started", other="restarting") is Outcome.NOTHING


@pytest.mark.parametrize("row", ["success", "failed", "removed"])
def test_a_cleared_task_hears_that_its_old_process_is_gone(row: str) -> None:
    assert outcome(row, other="restarting") is Outcome.SUCCESS
    assert outcome(row, same="restarting") is Outcome.SUCCESS  # Airflow 3.4 keeps the id until then


@pytest.mark.parametrize("row", ["success", "failed"])
@pytest.mark.parametrize("state", ["absent", None, "queued", "running", "scheduled", "failed"])
def test_a_task_under_another_id_is_another_task(row: str, state: str | None) -> None:
    assert outcome(row, other=state) is Outcome.NOTHING


def test_a_removed_row_is_a_failure() -> None:
    assert outcome("removed", same="queued") is Outcome.FAILED
    assert outcome("removed", same="running") is Outcome.FAILED


def test_a_row_that_could_not_start_says_nothing_of_the_process_that_runs() -> None:
    assert outcome("not_started", same="running") is Outcome.NOTHING
    assert outcome("not_started", same="queued") is Outcome.FAILED


@pytest.mark.parametrize(
    ("row", "wanted"), [("success", Outcome.SUCCESS), ("failed", Outcome.FAILED), ("removed", Outcome.FAILED)]
)
def test_a_callbacks_end_is_always_told(row: str, wanted: Any) -> None:
    assert outcome(row, key=workload.callback_row("an-id")) is wanted
