"""A job's start, stop and end in the worker's log: a line each, whatever is said twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from edge_ws.protocol.frames import Offer
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.worker.job_log import JobLog
from edge_ws.worker.jobs import Action, Forget, Jobs, Keep, Stop
from edge_ws.worker.outcomes import Call, Fate
from edge_ws.worker.slots import Slots
from tests.support.jobs import task_workload

C, HOST = ClaimId("c"), HostId("h")
OFFER = Offer(claim=C, slots=1, payload=task_workload("hello").payload)
NAME = "jobs r1 hello try 1"
OWED = Call(method="PATCH", path="task-instances/ti/state", headers={}, body="{}")


class Worker:
    """A table of claims whose actions are told to a job_log, as the daemon tells them; each twice."""

    def __init__(self) -> None:
        self.now = 100.0
        self.job_log = JobLog(lambda: self.now)
        self.jobs = Jobs(Slots(2))
        self.jobs.accepting = True

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Keep():
                    self.job_log.kept(action.record)
                case Stop():
                    job = self.jobs.get(action.claim)
                    assert job is not None
                    self.job_log.stopping(job, action.reason)
                case Forget():
                    self.job_log.forgotten(action.claim)

    def accept(self) -> None:
        self.do(self.jobs.offered(OFFER, HOST))
        self.do(self.jobs.prepared(C, HOST, None, 0))
        self.do(self.jobs.go(C, "token"))

    def start(self) -> None:
        self.accept()
        for _ in range(2):
            self.do(self.jobs.started(C, HOST))
        self.now += 12

    def cancel(self) -> None:
        for _ in range(2):
            self.do(self.jobs.cancel(C, "an operator's wish"))

    def end(self, code: int, detail: str = "") -> None:
        for _ in range(2):
            self.do(self.jobs.ended(C, code, detail, log_uploaded=False))
        self.do(self.jobs.acked(C, Phase.ENDED))


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "edge_ws.worker"):
        yield caplog


def test_a_start_and_an_end_are_a_line_each(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.accept()
    assert told.messages == []
    worker.start()
    worker.end(0)
    assert told.messages == [f"started: {NAME}", f"ended: {NAME}, exit code 0 after 12.0 s"]


def test_so_is_a_cancel(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.start()
    worker.cancel()
    worker.end(1, "cancelled")
    assert told.messages == [
        f"started: {NAME}",
        f"stopping: {NAME}: an operator's wish",
        f"ended: {NAME}, exit code 1 after 12.0 s: cancelled",
    ]


def test_what_never_ran(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.accept()
    worker.do(worker.jobs.did_not_start(C, "Airflow did not take its start"))
    assert told.messages == [f"not started: {NAME}: Airflow did not take its start"]


def test_what_began_in_an_earlier_life(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.start()
    record = worker.jobs.all()[0].record()
    told.clear()
    later = Worker()
    later.do(later.jobs.restore([record]))
    later.cancel()
    later.end(0)
    assert told.messages == [f"stopping: {NAME}: an operator's wish", f"ended: {NAME}, exit code 0"]


def test_the_outcome_is_named(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.start()
    for _ in range(2):
        worker.do(worker.jobs.ended(C, 7, "its process broke", log_uploaded=False, outcome="failed"))
    assert told.messages[1:] == [f"ended: {NAME}, failed, exit code 7 after 12.0 s: its process broke"]


def test_an_outcome_that_waits_is_told_and_its_delivery(
    worker: Worker, told: pytest.LogCaptureFixture
) -> None:
    worker.start()
    for _ in range(2):
        worker.do(worker.jobs.owes(C, "deferred", OWED))
        worker.do(worker.jobs.ended(C, 0, "", log_uploaded=False, outcome="deferred", owed=OWED))
    worker.do(worker.jobs.delivered(C, Fate.TAKEN, ""))
    worker.do(worker.jobs.acked(C, Phase.ENDED))
    assert told.messages[1:] == [
        f"kept: {NAME}: Airflow has not taken its outcome deferred yet",
        f"delivered: {NAME}: deferred",
        f"ended: {NAME}, deferred after 12.0 s",
    ]


def test_one_that_is_delivered_while_callbacks_run(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.start()
    worker.do(worker.jobs.owes(C, "success", OWED))
    worker.do(worker.jobs.delivered(C, Fate.TAKEN, ""))
    worker.do(worker.jobs.ended(C, 0, "", log_uploaded=False, outcome="success"))
    assert [one.partition(":")[0] for one in told.messages] == ["started", "kept", "delivered", "ended"]


def test_one_that_nobody_wants_any_more(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.start()
    worker.do(worker.jobs.ended(C, 0, "", log_uploaded=False, outcome="success", owed=OWED))
    worker.do(worker.jobs.stale(C))
    assert told.messages[2:] == [
        f"dropped: {NAME}: its outcome was not delivered: the centre no longer tracks this attempt"
    ]


def test_a_stale_job_ends_without_a_report(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.start()
    worker.do(worker.jobs.stale(C))
    worker.now += 1
    worker.end(0)
    assert told.messages == [
        f"started: {NAME}",
        f"stale: {NAME}: the centre no longer tracks this attempt; it runs to its end",
        f"gone: {NAME} after 13.0 s, without a report",
    ]


def test_so_does_one_whose_host_died(worker: Worker, told: pytest.LogCaptureFixture) -> None:
    worker.start()
    worker.do(worker.jobs.host_dead(HOST))
    assert told.messages[1:] == [f"gone: {NAME} after 12.0 s, without a report"]
