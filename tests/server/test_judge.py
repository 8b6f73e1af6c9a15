"""What the reaper decides about a claim, as a table."""

from __future__ import annotations

import pytest

from edge_ws.protocol.ids import ClaimId, SiteId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.server.ports import ARCHIVED, RESTARTING
from edge_ws.server.reaper import DELETED, LEFT_S, SETTLE_S, Action, judge
from edge_ws.store.records import JobKey, OpenClaim

A, S = Phase.ACCEPTED, Phase.STARTED


def claim(phase: Phase, result: str | None, *flags: str) -> OpenClaim:
    return OpenClaim(
        claim=ClaimId("c"),
        key=JobKey("d", "t", "r", -1, 1),
        worker=WorkerName("w"),
        site=SiteId("s"),
        host=None,
        phase=phase,
        slots=1,
        subject="ti",
        is_callback="callback" in flags,
        result=result,
        overdue="overdue" in flags,
        site_left="site left" in flags,
        worker_lost="lost worker" in flags,
    )


@pytest.mark.parametrize(
    ("one", "state", "ended_for_s", "action"),
    [
        # Accepted, and the token may still start it: nobody decides.
        (claim(A, None), "queued", 0, Action.LEAVE),
        (claim(A, None), DELETED, 0, Action.LEAVE),
        # The token is over: the task's state decides.
        (claim(A, None, "overdue"), "queued", 0, Action.REQUEUE),
        (claim(A, None, "overdue"), "running", 0, Action.LEAVE),
        # It ran while no gateway heard of it: its reports and its log come late.
        (claim(A, None, "overdue"), "success", 0, Action.LEAVE),
        (claim(A, None, "overdue"), "failed", SETTLE_S, Action.CANCEL),
        (claim(A, None, "overdue"), DELETED, 0, Action.CANCEL),
        (claim(A, None, "overdue", "lost worker"), "success", 0, Action.REMOVE),
        # It could not start: while its token lives the task may be started by nobody else.
        (claim(A, "not_started"), "queued", 0, Action.LEAVE),
        (claim(A, "not_started", "overdue"), "queued", 0, Action.REQUEUE),
        (claim(A, "not_started"), "running", 0, Action.REMOVE),
        (claim(A, "not_started"), "success", 0, Action.REMOVE),
        # Its host is dead.
        (claim(S, None, "site left"), "failed", LEFT_S - 1, Action.LEAVE),
        (claim(S, None, "site left"), "failed", LEFT_S, Action.REMOVE),
        (claim(S, None, "site left"), DELETED, 0, Action.LEAVE),
        (claim(S, None, "site left"), "running", LEFT_S, Action.LEAVE),
        (claim(A, "lost"), "queued", 0, Action.REQUEUE),
        (claim(A, "lost"), "running", 0, Action.FAIL),
        (claim(A, "lost"), DELETED, 0, Action.REMOVE),
        # Started.
        (claim(S, None), "running", 0, Action.LEAVE),
        (claim(S, None, "lost worker"), "running", 9e9, Action.LEAVE),
        (claim(S, None), DELETED, 0, Action.CANCEL),
        (claim(S, None), RESTARTING, 0, Action.CANCEL),
        # Its own report, and it runs callbacks.
        (claim(S, None), "success", 9e9, Action.LEAVE),
        (claim(S, None), "deferred", 9e9, Action.LEAVE),
        (claim(S, None), "up_for_reschedule", 9e9, Action.LEAVE),
        # A retry that it has reported: the task has another id from then on.
        (claim(S, None), ARCHIVED, 9e9, Action.LEAVE),
        (claim(A, None, "overdue"), ARCHIVED, 9e9, Action.LEAVE),
        (claim(A, "not_started"), ARCHIVED, 0, Action.REMOVE),
        (claim(A, "lost"), ARCHIVED, 0, Action.REMOVE),
        (claim(S, None, "lost worker"), ARCHIVED, 0, Action.REMOVE),
        (claim(S, None, "site left"), ARCHIVED, LEFT_S, Action.REMOVE),
        # Its own report comes when its process has ended, so this is somebody else's doing.
        (claim(S, None), "failed", 0, Action.LEAVE),
        (claim(S, None), "failed", SETTLE_S, Action.CANCEL),
        (claim(S, None), "skipped", SETTLE_S, Action.CANCEL),
        (claim(S, None), "removed", SETTLE_S, Action.CANCEL),
        (claim(S, None, "callback"), "failed", SETTLE_S, Action.LEAVE),
        (claim(S, None, "lost worker"), "failed", 0, Action.REMOVE),
        (claim(S, "not_started"), "running", 0, Action.LEAVE),
        (claim(S, "not_started"), "failed", 0, Action.REMOVE),
        # Callbacks.
        (claim(A, None, "callback", "overdue"), DELETED, 0, Action.LEAVE),
        (claim(A, "not_started", "callback"), DELETED, 0, Action.FAIL),
        (claim(S, None, "callback"), DELETED, 9e9, Action.LEAVE),
    ],
)
def test_judge(one: OpenClaim, state: str, ended_for_s: float, action: Action) -> None:
    assert judge(one, state, ended_for_s) is action
