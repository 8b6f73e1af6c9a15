"""The worker's table of claims: what each frame and each event of a host makes it do."""

from __future__ import annotations

import pytest

from edge_ws.protocol.frames import (
    Accept,
    Finished,
    HostDead,
    NotStarted,
    Offer,
    PhaseIs,
    Refuse,
    Started,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.worker.host_events import HostJob
from edge_ws.worker.host_news import ends
from edge_ws.worker.jobs import (
    Action,
    Deliver,
    Drop,
    FlushLog,
    Forget,
    Jobs,
    Keep,
    KeepDead,
    Prepare,
    Send,
    Start,
    Stop,
    StopLog,
    TailLog,
)
from edge_ws.worker.outcomes import Call, Fate
from edge_ws.worker.slots import Slots

C = ClaimId("c")
HOST, OTHER = HostId("h"), HostId("other")


@pytest.fixture
def jobs() -> Jobs:
    jobs = Jobs(Slots(2))
    jobs.accepting = True
    return jobs


def offer(claim: ClaimId = C, slots: int = 1) -> Offer:
    return Offer(claim=claim, slots=slots, payload="{}")


def sent(actions: list[Action]) -> list[WorkerFrame]:
    return [action.frame for action in actions if isinstance(action, Send)]


def accepted(jobs: Jobs, claim: ClaimId = C) -> None:
    jobs.offered(offer(claim), HOST)
    jobs.prepared(claim, HOST, "/log", 0)


def going(jobs: Jobs, claim: ClaimId = C) -> None:
    accepted(jobs, claim)
    jobs.go(claim, "token")


def started(jobs: Jobs, claim: ClaimId = C) -> None:
    going(jobs, claim)
    jobs.started(claim, HOST)


def test_a_job_from_offer_to_ack(jobs: Jobs) -> None:
    assert jobs.offered(offer(), HOST) == [Prepare(C, "{}")]
    assert jobs.slots.free == 1
    keep, tail, send = jobs.prepared(C, HOST, "/log", 7)
    assert isinstance(keep, Keep)
    assert (tail, send) == (TailLog(C, "/log", 7), Send(Accept(claim=C, host=HOST)))
    assert jobs.go(C, "token") == [Start(C, "token")]
    assert sent(jobs.started(C, HOST)) == [Started(claim=C, host=HOST)]
    keep, flush = jobs.ended(C, 0, "", log_uploaded=False)
    assert isinstance(keep, Keep)
    assert flush == FlushLog(C)
    assert jobs.slots.free == 2
    assert sent(jobs.log_flushed(C, 99)) == [Finished(claim=C, exit_code=0, log_end=99)]
    assert jobs.acked(C, Phase.ENDED) == [Forget(C)]
    assert len(jobs) == 0


def test_no_token_no_start_and_no_second_start(jobs: Jobs) -> None:
    assert sent(jobs.go(C, "token")) == [PhaseIs(claim=C, phase=Phase.UNKNOWN)]
    assert isinstance(sent(jobs.offered(offer(), HOST))[0], Refuse)
    other = ClaimId("d")
    going(jobs, other)
    assert jobs.go(other, "token") == []
    jobs.started(other, HOST)
    assert jobs.go(other, "token") == []


@pytest.mark.parametrize("reason", ["full", "no host", "not accepting"])
def test_offers_are_refused_with_a_reason(jobs: Jobs, reason: str) -> None:
    if reason == "not accepting":
        jobs.accepting = False
    slots, host = (3 if reason == "full" else 1), (None if reason == "no host" else HOST)
    (refused,) = sent(jobs.offered(offer(slots=slots), host))
    assert isinstance(refused, Refuse)
    assert (len(jobs), jobs.slots.free) == (0, 2)


def test_a_repeated_offer_repeats_the_answer(jobs: Jobs) -> None:
    jobs.offered(offer(), HOST)
    assert jobs.offered(offer(), HOST) == []
    jobs.prepared(C, HOST, None, 0)
    assert sent(jobs.offered(offer(), HOST)) == [Accept(claim=C, host=HOST)]
    assert jobs.slots.taken == 1


def test_unconfirmed_reports_are_said_again(jobs: Jobs) -> None:
    accepted(jobs)
    assert jobs.reports() == [Accept(claim=C, host=HOST)]
    jobs.go(C, "token")
    assert jobs.reports() == []
    jobs.started(C, HOST)
    assert jobs.reports() == [Started(claim=C, host=HOST)]
    jobs.acked(C, Phase.STARTED)
    assert jobs.reports() == []
    jobs.ended(C, 3, "why", log_uploaded=True)
    assert jobs.reports() == []
    jobs.log_flushed(C, 5)
    (report,) = jobs.reports()
    assert report == Finished(claim=C, exit_code=3, detail="why", log_end=5, log_uploaded=True)


def test_a_job_that_cannot_start_frees_its_slot_and_is_said_until_confirmed(jobs: Jobs) -> None:
    going(jobs)
    assert sent(jobs.did_not_start(C, "409")) == [NotStarted(claim=C, reason="409")]
    assert jobs.slots.free == 2
    assert jobs.reports() == [NotStarted(claim=C, reason="409")]
    assert jobs.acked(C, Phase.STARTED) == []
    assert jobs.acked(C, Phase.ENDED) == [Forget(C)]


def test_a_payload_that_can_run_nowhere_fails_once_it_is_ours(jobs: Jobs) -> None:
    jobs.offered(offer(), HOST)
    assert sent(jobs.cannot_run(C, HOST, "no bundle", None)) == [Accept(claim=C, host=HOST)]
    keep, flush = jobs.go(C, "token")
    assert isinstance(keep, Keep)
    assert flush == FlushLog(C, "no bundle")
    (report,) = sent(jobs.log_flushed(C, 9))
    assert isinstance(report, Finished)
    assert (report.exit_code, report.detail) == (1, "no bundle")


def test_a_host_that_cannot_take_it_gives_the_offer_back(jobs: Jobs) -> None:
    jobs.offered(offer(), HOST)
    assert sent(jobs.no_host(C, "gone")) == [Refuse(claim=C, reason="gone")]
    assert jobs.slots.free == 2
    assert jobs.offered(offer(), HOST) == [Prepare(C, "{}")]


def test_stale_drops_what_waits(jobs: Jobs) -> None:
    accepted(jobs)
    assert jobs.stale(C) == [Drop(C), Forget(C)]
    assert (len(jobs), jobs.slots.free) == (0, 2)
    assert jobs.prepared(C, HOST, None, 0) == [Drop(C), Forget(C)]


def test_stale_lets_what_runs_end_by_itself_holding_its_slot(jobs: Jobs) -> None:
    started(jobs)
    keep, stop = jobs.stale(C)
    assert isinstance(keep, Keep)
    assert (keep.record.stale, stop) == (True, StopLog(C))
    assert (jobs.stale_slots, jobs.slots.free, jobs.held(), jobs.reports()) == (1, 1, (), [])
    assert jobs.ended(C, 0, "", log_uploaded=False) == [Forget(C)]
    assert jobs.slots.free == 2


def test_stale_ends_an_unconfirmed_report(jobs: Jobs) -> None:
    started(jobs)
    jobs.ended(C, 0, "", log_uploaded=False)
    jobs.log_flushed(C, 1)
    assert jobs.stale(C) == [Forget(C)]
    assert jobs.stale(C) == []


def test_cancel(jobs: Jobs) -> None:
    other = ClaimId("other")
    assert jobs.cancel(other, "why") == [Send(PhaseIs(claim=other, phase=Phase.UNKNOWN))]
    accepted(jobs)
    drop, keep, send = jobs.cancel(C, "why")
    assert (drop, send) == (Drop(C), Send(NotStarted(claim=C, reason="cancelled: why")))
    assert isinstance(keep, Keep)
    assert jobs.cancel(C, "why") == []
    other = ClaimId("d")
    going(jobs, other)
    assert jobs.cancel(other, "why") == [Stop(other, "why")]
    jobs.started(other, HOST)
    assert jobs.cancel(other, "why") == [Stop(other, "why")]
    jobs.ended(other, -9, "", log_uploaded=False)
    assert jobs.cancel(other, "why") == []


def test_query(jobs: Jobs) -> None:
    started(jobs)
    assert sent(jobs.query(C)) == [PhaseIs(claim=C, phase=Phase.STARTED, host=HOST)]
    unknown = ClaimId("d")
    assert sent(jobs.query(unknown)) == [PhaseIs(claim=unknown, phase=Phase.UNKNOWN)]
    (refused,) = sent(jobs.offered(offer(unknown), HOST))
    assert isinstance(refused, Refuse)


def test_a_dead_host_takes_its_jobs_with_it(jobs: Jobs) -> None:
    started(jobs)
    waiting = ClaimId("waiting")
    jobs.offered(offer(waiting), HOST)
    actions = jobs.host_dead(HOST)
    assert actions[0] == KeepDead((HOST,))
    assert sent(actions)[-1] == HostDead(host=HOST)
    assert Forget(C) in actions
    assert Send(Refuse(claim=waiting, reason="the job host died")) in actions
    assert (len(jobs), jobs.slots.free, jobs.dead_hosts) == (0, 2, (HOST,))
    assert jobs.reports() == []


def test_a_restart_still_knows_the_dead_hosts(jobs: Jobs) -> None:
    jobs.restore([], [OTHER, HOST])
    assert jobs.dead_hosts == (OTHER, HOST)
    jobs.host_dead(OTHER)
    assert jobs.dead_hosts == (HOST, OTHER)


def test_a_dead_host_leaves_ended_jobs_and_other_hosts_alone(jobs: Jobs) -> None:
    started(jobs)
    jobs.ended(C, 0, "", log_uploaded=False)
    other = ClaimId("d")
    started(jobs, other)
    assert sent(jobs.host_dead(OTHER)) == [HostDead(host=OTHER)]
    assert len(jobs) == 2


def test_a_restart_takes_up_where_it_was(jobs: Jobs) -> None:
    started(jobs)
    ended = ClaimId("ended")
    started(jobs, ended)
    jobs.ended(ended, 4, "bad", log_uploaded=False)
    records = [job.record() for job in (jobs.get(C), jobs.get(ended)) if job]
    again = Jobs(Slots(2))
    actions = again.restore(records)
    assert FlushLog(ended) in actions
    assert TailLog(C, "/log", 0) in actions
    assert again.slots.taken == 1
    assert sent(again.on_host(HOST, C, waiting=False)) == [Started(claim=C, host=HOST)]
    assert again.only_on([HOST], [C]) == []
    assert sent(again.log_flushed(ended, 3)) == [Finished(claim=ended, exit_code=4, detail="bad", log_end=3)]


def test_a_restart_before_go_accepts_again(jobs: Jobs) -> None:
    accepted(jobs)
    job = jobs.get(C)
    assert job is not None
    again = Jobs(Slots(2))
    again.restore([job.record()])
    assert again.reports() == []
    assert sent(again.on_host(HOST, C, waiting=True)) == [Accept(claim=C, host=HOST)]
    assert again.go(C, "token") == [Start(C, "token")]


def test_a_restart_before_go_drops_what_is_stale_meanwhile(jobs: Jobs) -> None:
    accepted(jobs)
    job = jobs.get(C)
    assert job is not None
    again = Jobs(Slots(2))
    again.restore([job.record()])
    again.stale(C)  # the connection is there before the host is
    assert again.stale_slots == 1
    assert again.on_host(HOST, C, waiting=True) == [Drop(C), Forget(C)]
    assert (again.stale_slots, again.slots.free) == (0, 2)


def test_what_no_host_has_is_unknown_after_a_restart(jobs: Jobs) -> None:
    started(jobs)
    job = jobs.get(C)
    assert job is not None
    again = Jobs(Slots(2))
    again.restore([job.record()])
    assert again.only_on([OTHER], []) == []
    assert again.only_on([HOST], []) == [Forget(C)]
    assert sent(again.query(C)) == [PhaseIs(claim=C, phase=Phase.UNKNOWN)]


def test_an_unknown_process_runs_on_and_holds_a_slot(jobs: Jobs) -> None:
    assert jobs.on_host(HOST, C, waiting=True) == [Drop(C), Forget(C)]
    assert jobs.on_host(HOST, ClaimId("d"), waiting=False) == []
    assert (jobs.stale_slots, jobs.slots.free) == (1, 1)


def test_concurrency_below_what_runs_drains(jobs: Jobs) -> None:
    started(jobs)
    started(jobs, ClaimId("d"))
    jobs.slots.concurrency = 1
    assert jobs.slots.free == 0
    jobs.ended(C, 0, "", log_uploaded=False)
    assert jobs.slots.free == 0
    jobs.ended(ClaimId("d"), 0, "", log_uploaded=False)
    assert jobs.slots.free == 1


# The worker's own will


def test_offers_that_are_not_accepted_yet_are_given_back(jobs: Jobs) -> None:
    waiting, offered = ClaimId("waiting"), ClaimId("offered")
    accepted(jobs, waiting)
    jobs.offered(offer(offered), HOST)
    assert jobs.give_back("no more") == []
    jobs.accepting = False
    drop, refuse = jobs.give_back("maintenance")
    assert (drop, refuse) == (Drop(offered), Send(Refuse(claim=offered, reason="maintenance")))
    assert jobs.slots.free == 1
    # The host may have forked it meanwhile.
    assert jobs.prepared(offered, HOST, "/log", 0) == [Drop(offered), Forget(offered)]
    # What is accepted goes on.
    assert jobs.go(waiting, "token") == [Start(waiting, "token")]


def test_with_fewer_slots_the_last_offers_go_back_and_the_rest_drains(jobs: Jobs) -> None:
    jobs.slots.concurrency = 4
    started(jobs)
    names = [ClaimId(f"offered-{number}") for number in range(3)]
    for name in names:
        jobs.offered(offer(name), HOST)
    jobs.slots.concurrency = 2
    refused = [frame.claim for frame in sent(jobs.give_back("fewer slots")) if isinstance(frame, Refuse)]
    assert refused == [names[2], names[1]]
    jobs.slots.concurrency = 0
    assert [frame.claim for frame in sent(jobs.give_back("none"))] == [names[0]]
    assert jobs.give_back("none") == []
    assert (jobs.slots.taken, jobs.slots.free) == (1, 0)


def test_to_stop_all_is_to_stop_what_runs_and_to_drop_what_waits(jobs: Jobs) -> None:
    jobs.slots.concurrency = 9
    running, starting, waiting, ended, stale = (ClaimId(one) for one in ("r", "s", "w", "e", "x"))
    started(jobs, running)
    going(jobs, starting)
    accepted(jobs, waiting)
    started(jobs, ended)
    jobs.ended(ended, 0, "", log_uploaded=False)
    started(jobs, stale)
    jobs.stale(stale)
    actions = jobs.stop("drain timeout of 5 s", 7.0)
    stops = [action for action in actions if isinstance(action, Stop)]
    assert stops == [Stop(one, "drain timeout of 5 s", 7.0) for one in (running, starting, stale)]
    assert sent(actions) == [NotStarted(claim=waiting, reason="cancelled: drain timeout of 5 s")]
    assert Drop(waiting) in actions
    assert jobs.have_processes
    for one in (running, starting, stale):
        jobs.ended(one, 1, "", log_uploaded=False)
    assert not jobs.have_processes
    assert len(jobs) == 4


# Outcomes that Airflow has not taken

OWED = Call(method="PATCH", path="task-instances/ti/state", headers={}, body='{"state": "success"}')
ASKS = Started(claim=C, host=HOST, owes=True)
OTHER_CLAIM = ClaimId("d")


def ended(jobs: Jobs, owed: Call | None = OWED, code: int = 0) -> list[Action]:
    return jobs.ended(C, code, "", log_uploaded=False, outcome="success", owed=owed)


def test_an_end_is_reported_when_airflow_knows_the_outcome(jobs: Jobs) -> None:
    started(jobs)
    actions = ended(jobs)
    assert sent(actions) == [ASKS]
    assert [action.record.owed for action in actions if isinstance(action, Keep)] == [OWED]
    assert jobs.slots.free == 2
    assert sent(jobs.log_flushed(C, 9)) == [ASKS]
    assert jobs.token(C, "t1") == [Deliver(C, OWED, "t1")]
    # One try at a time; nothing more to say meanwhile.
    jobs.acked(C, Phase.STARTED)
    assert (jobs.token(C, "t2"), jobs.reports()) == ([], [])
    assert sent(jobs.not_delivered(C)) == [ASKS]
    assert jobs.token(C, "t3") == [Deliver(C, OWED, "t3")]
    actions = jobs.delivered(C, Fate.TAKEN, "")
    assert sent(actions) == [Finished(claim=C, exit_code=0, log_end=9)]
    assert [action.record.owed for action in actions if isinstance(action, Keep)] == [None]
    assert jobs.delivered(C, Fate.TAKEN, "") == jobs.not_delivered(C) == jobs.token(C, "t4") == []


def test_it_is_delivered_while_callbacks_run(jobs: Jobs) -> None:
    started(jobs)
    jobs.acked(C, Phase.STARTED)
    assert sent(jobs.owes(C, "success", OWED)) == [ASKS]
    assert jobs.owes(C, "success", OWED) == []
    jobs.token(C, "t")
    assert sent(jobs.delivered(C, Fate.TAKEN, "")) == []
    # The gateway sees a task that has failed, and a claim that goes on.
    assert jobs.cancel(C, "the task's state is failed") == []
    # The host says again what it knows: nothing is owed twice.
    assert sent(ended(jobs)) == []
    assert sent(jobs.log_flushed(C, 1)) == [Finished(claim=C, exit_code=0, log_end=1)]


def test_what_airflow_refuses_has_not_ended_well(jobs: Jobs) -> None:
    started(jobs)
    ended(jobs)
    jobs.log_flushed(C, 1)
    (frame,) = sent(jobs.delivered(C, Fate.REFUSED, "Task Instance not found"))
    detail = "Airflow has not taken the outcome success: Task Instance not found"
    assert frame == Finished(claim=C, exit_code=1, log_end=1, detail=detail)


def test_an_outcome_outlives_the_daemon(jobs: Jobs) -> None:
    started(jobs)
    ended(jobs)
    later = Jobs(Slots(2))
    later.restore([job.record() for job in jobs.all()])
    assert later.reports() == [ASKS]
    assert later.token(C, "t") == [Deliver(C, OWED, "t")]


def test_an_old_gateway_is_told_that_the_job_failed(jobs: Jobs) -> None:
    started(jobs)
    jobs.mints = False
    assert sent(ended(jobs)) == []
    (frame,) = sent(jobs.log_flushed(C, 1))
    assert isinstance(frame, Finished)
    assert (frame.exit_code, "upgrade the gateway" in frame.detail) == (1, True)


@pytest.mark.parametrize("runs", [True, False])
def test_of_a_stale_claim_nothing_is_owed(jobs: Jobs, runs: bool) -> None:
    started(jobs)
    jobs.owes(C, "success", OWED)
    if not runs:
        ended(jobs)
    jobs.stale(C)
    assert (jobs.reports(), jobs.token(C, "t"), jobs.not_delivered(C)) == ([], [], [])
    assert len(jobs) == runs


def test_what_ended_before_its_host_died_is_not_lost(jobs: Jobs) -> None:
    started(jobs)
    started(jobs, OTHER_CLAIM)
    ended(jobs)
    assert sent(jobs.host_dead(HOST)) == [HostDead(host=HOST, ended=(C,))]
    assert jobs.reports() == [ASKS]


def test_a_dead_hosts_journal_tells_of_outcomes(jobs: Jobs) -> None:
    started(jobs)
    one = HostJob(
        claim=C,
        phase="started",
        log_path=None,
        exit_code=None,
        detail="",
        log_uploaded=False,
        outcome="success",
        owed=OWED,
    )
    assert ends(jobs, [one]) == []
    assert sent(ends(jobs, [one], host_is_dead=True)) == [ASKS]
