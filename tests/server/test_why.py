"""Why a job is where it is: each verdict with its code, its sentence and its advice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import CALLBACK_DAG_ID, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.server.diagnosis import AirflowTask, Code, JobFacts, Unmet
from edge_ws.server.eligibility import Reason
from edge_ws.server.log_end import LogEnd
from edge_ws.server.why import why, why_absent
from edge_ws.store.records import Room
from tests.support.job_facts import GATEWAY, a_claim, a_job, a_scene, a_token, a_worker, an_edge3_worker

OFFLINE = {"state": "offline", "gateway": None, "seen_s": 7500.0}
MAINTENANCE = {"state": "maintenance mode", "comment": "belt change"}
FULL = {"taken": 4}
RETRY = (
    "Task is not ready for retry yet but will be retried automatically. Current date is"
    " 2026-11-30T07:49:55.068531+00:00 and task will be retried at 2026-11-30T07:53:15.307131+00:00."
)
RESCHEDULE = (
    "Task is not ready for reschedule yet but will be rescheduled automatically. Current date is"
    " 2026-11-30T07:49:55+00:00 and task will be rescheduled at 2026-11-30T08:53:15+01:00."
)
DEAD = replace(GATEWAY, seen_s=3600.0)


def told(facts: JobFacts, code: Code, *parts: str) -> None:
    """Check the code, and that the sentence or the advice has each part."""
    found = why(facts)
    assert found.code is code, found
    text = f"{found.sentence} {found.advice}"
    for part in parts:
        assert part in text, text


class TestQueued:
    def test_no_gateway(self) -> None:
        told(
            a_scene(a_job(), a_worker(), gateways=(DEAD,)),
            Code.NO_GATEWAY,
            "Queued for 3 min: no gateway is alive",
            "the last one, on api-1, was seen 60 min ago",
            "[edge_ws] api_enabled",
            "edge-ws server",
        )

    def test_no_gateway_ever_and_no_worker_either(self) -> None:
        told(
            a_scene(a_job(), gateways=()),
            Code.NO_GATEWAY,
            "none is known; and no worker is known that serves queue gpu",
        )

    def test_edge3_workers_need_no_gateway(self) -> None:
        told(
            a_scene(a_job(), an_edge3_worker(), gateways=()), Code.WAITS_FOR_POLL, "e1 has 4 of 4 slots free"
        )
        told(
            a_scene(a_job(), an_edge3_worker(**FULL), gateways=()),
            Code.ALL_FULL,
            "e1 is full (4 of 4 slots busy)",
        )

    def test_no_worker_serves_the_queue(self) -> None:
        told(
            a_scene(a_job()),
            Code.NO_WORKER_SERVES_QUEUE,
            "no worker serves queue gpu; no worker has ever connected",
        )
        facts = a_scene(a_job(), a_worker(queues=("a",)), a_worker("w2", queues=("b", "a")))
        told(
            facts,
            Code.NO_WORKER_SERVES_QUEUE,
            "the 2 known workers serve only queues a, b",
            "edge-ws add-worker-queues -H WORKER -q gpu",
        )
        assert [(one.worker.name, one.reason) for one in why(facts).seats] == [
            ("w1", Reason.OTHER_QUEUES),
            ("w2", Reason.OTHER_QUEUES),
        ]

    def test_a_queue_is_added_where_it_would_help(self) -> None:
        """A worker that its token, team or slots keep from the job is not named, nor one that is away first."""
        job = a_job(slots=2)
        other = {"queues": ("other",)}
        useless = (
            a_worker("by-token", token=a_token(queues=("other",)), **other),
            a_worker("of-a-team", team="red", **other),
            a_worker("small", concurrency=1, **other),
        )
        away = a_worker("away", **OFFLINE, **other)
        here = a_worker("here", token=a_token(queues=("gpu", "other")), **other)
        found = why(a_scene(job, *useless))
        assert found.code is Code.NO_WORKER_SERVES_QUEUE
        assert found.advice == (
            "Start a worker with -q gpu and a token that admits it (edge-ws token create);"
            " no known worker could serve it, by its token, team or slots; or correct the task's queue."
        )
        for workers, name in (
            ((away, *useless), "away"),
            ((away, here, *useless), "here"),
            ((here,), "WORKER"),
        ):
            told(
                a_scene(job, *workers),
                Code.NO_WORKER_SERVES_QUEUE,
                f"Start a worker with -q gpu, or: edge-ws add-worker-queues -H {name} -q gpu; or correct",
            )

    def test_only_workers_that_are_away_serve_it(self) -> None:
        told(
            a_scene(a_job(), a_worker(**OFFLINE), a_worker("w2", queues=("other",))),
            Code.ALL_OFFLINE,
            "no worker that serves queue gpu is online: w1 is offline (last seen 2 h 5 min ago)",
            "Look at w1",
        )

    def test_a_connection_that_broke_is_named_before_one_that_left(self) -> None:
        told(
            a_scene(a_job(), a_worker(**OFFLINE), a_worker("w2", state="unknown", gateway=None, seen_s=90.0)),
            Code.ALL_OFFLINE,
            "w2 is not connected (last seen 90 s ago); w1 is offline",
            "Look at w2",
        )

    def test_maintenance(self) -> None:
        told(
            a_scene(a_job(), a_worker(**MAINTENANCE), a_worker("w2", **OFFLINE)),
            Code.IN_MAINTENANCE,
            "w1 is in maintenance (belt change); w2 is offline",
            "edge-ws remote-edge-worker-exit-maintenance -H w1",
        )

    def test_leaving(self) -> None:
        told(a_scene(a_job(), a_worker(state="shutdown request")), Code.ALL_LEAVING, "w1 is shutting down")

    def test_paused(self) -> None:
        told(
            a_scene(a_job(), a_worker(concurrency=0), a_worker("w2", **MAINTENANCE)),
            Code.ALL_PAUSED,
            "w1 is paused (concurrency 0); w2 is in maintenance",
            "edge-ws set-worker-concurrency -H w1 -c N",
        )

    def test_not_ready(self) -> None:
        broken = {"room": Room(ready=False)}
        told(
            a_scene(a_job(), a_worker(**broken), a_worker("w2", state="shutdown request")),
            Code.NONE_READY,
            "no worker takes jobs of queue gpu now, and the nearest to it can start none:"
            " w1 is connected, but can start no jobs now; w2 is shutting down",
            "See edge-ws status on the host of w1",
        )
        # What an operator has wished is told first, though it is not all that is amiss.
        told(a_scene(a_job(), a_worker(**broken, **MAINTENANCE)), Code.IN_MAINTENANCE)
        told(a_scene(a_job(), a_worker(**broken, concurrency=0)), Code.ALL_PAUSED)
        told(a_scene(a_job(), a_worker(**broken), a_worker("w2", **FULL)), Code.ALL_FULL, "w2 is full")
        told(a_scene(a_job(), a_worker(**broken, **OFFLINE)), Code.ALL_OFFLINE)

    def test_slots_of_stale_jobs_are_busy(self) -> None:
        told(
            a_scene(a_job(), a_worker(taken=1, room=Room(stale_slots=3))),
            Code.ALL_FULL,
            "w1 is full (4 of 4 slots busy, 3 of them with processes of jobs that are no longer its own)",
        )
        told(
            a_scene(a_job(), a_worker(taken=1, room=Room(stale_slots=2))),
            Code.ABOUT_TO_BE_OFFERED,
            "w1 has 1 of 4 slots free",
        )

    def test_all_full(self) -> None:
        facts = a_scene(a_job(), a_worker(**FULL), a_worker("w2", concurrency=2, taken=2), ahead=12)
        told(
            facts,
            Code.ALL_FULL,
            "all workers that take jobs of queue gpu now are full (6 of 6 slots busy)",
            "w1 is full (4 of 4 slots busy); w2 is full (2 of 2 slots busy)",
            "12 jobs of the queue go before it",
        )

    def test_not_enough_free_slots_for_a_wide_job(self) -> None:
        told(
            a_scene(a_job(slots=3), a_worker(taken=2), a_worker("w2", concurrency=2)),
            Code.ALL_FULL,
            "the only worker that takes jobs of queue gpu now has not 3 slots free",
            "w1 has 2 of 4 slots free, and the job needs 3",
            "w2 has 2 slots in all, and the job needs 3",
        )

    def test_not_enough_free_slots_on_any_of_several(self) -> None:
        told(
            a_scene(a_job(slots=3), a_worker(taken=2), a_worker("w2", taken=4)),
            Code.ALL_FULL,
            "no worker that takes jobs of queue gpu now has 3 slots free (6 of 8 busy)",
        )

    def test_more_slots_than_any_worker_has(self) -> None:
        told(
            a_scene(a_job(slots=8), a_worker(), a_worker("w2", concurrency=1, **OFFLINE)),
            Code.TOO_WIDE,
            "needs 8 slots, more than any worker has that serves queue gpu",
            "set-worker-concurrency -H w1 -c 8",
        )

    def test_a_wide_worker_that_is_away_counts(self) -> None:
        told(
            a_scene(a_job(slots=8), a_worker(), a_worker("w2", concurrency=8, **OFFLINE)),
            Code.ALL_OFFLINE,
            "w2",
        )

    def test_the_token_excludes(self) -> None:
        token = a_token(queues=("belts",))
        told(
            a_scene(a_job(), a_worker(token=token)),
            Code.TOKEN_EXCLUDES,
            "w1 has the token 'plant', which admits only queue belts",
            "edge-ws token create",
        )
        told(
            a_scene(a_job(), a_worker(token=a_token(is_good=False), **OFFLINE)),
            Code.TOKEN_EXCLUDES,
            "revoked or expired",
        )

    def test_the_team_excludes(self) -> None:
        told(
            a_scene(a_job(team="red"), a_worker(team="blue")),
            Code.TEAM_EXCLUDES,
            "w1 takes jobs of team blue only, and the job is of team red",
        )
        told(a_scene(a_job(), an_edge3_worker(team="blue")), Code.TEAM_EXCLUDES, "the job is of no team")

    def test_of_several_reasons_the_nearest_comes_first(self) -> None:
        facts = a_scene(
            a_job(),
            a_worker("a", team="blue"),
            a_worker("b", **OFFLINE),
            a_worker("c", **MAINTENANCE),
            a_worker("d", **FULL),
            a_worker("e", queues=("other",)),
        )
        found = why(facts)
        assert found.code is Code.ALL_FULL
        assert [one.worker.name for one in found.seats] == ["d", "c", "b", "a"]
        assert [one.reason.value for one in found.seats] == ["full", "maintenance", "offline", "team"]

    def test_many_workers_are_not_all_named(self) -> None:
        facts = a_scene(a_job(), *(a_worker(f"w{number}", **FULL) for number in range(9)))
        told(facts, Code.ALL_FULL, "w4 is full (4 of 4 slots busy); and 4 more")
        assert len(why(facts).seats) == 9

    def test_about_to_be_offered(self) -> None:
        facts = a_scene(a_job(waited_s=0.4), a_worker(taken=1), a_worker("w2", **FULL))
        told(
            facts, Code.ABOUT_TO_BE_OFFERED, "Queued for 0 s: about to be offered: w1 has 3 of 4 slots free."
        )
        assert why(facts).advice == ""

    def test_about_to_be_offered_for_too_long(self) -> None:
        told(a_scene(a_job(), a_worker()), Code.ABOUT_TO_BE_OFFERED, "It should not take so long")

    def test_offered_and_back(self) -> None:
        refused = a_claim(
            Phase.ENDED,
            worker=WorkerName("w2"),
            result="refused",
            detail="no room",
            offered_s=9.0,
            ended_s=8.0,
        )
        told(
            a_scene(a_job(), a_worker(), history=(refused,)),
            Code.NOT_TAKEN,
            "w2 refused it 8 s ago (no room); it is being offered again",
        )

    def test_what_an_earlier_round_left_does_not_matter(self) -> None:
        old = a_claim(Phase.ENDED, result="success", offered_s=400.0, ended_s=200.0)
        told(a_scene(a_job(), a_worker(), history=(old,)), Code.ABOUT_TO_BE_OFFERED)

    def test_a_row_of_edge3s_executor(self) -> None:
        told(
            a_scene(a_job(owner=None), a_worker(**FULL)),
            Code.ALL_FULL,
            "Queued for 3 min (by another executor, such as edge3's): ",
        )


class TestInHand:
    def running(self, **changes: object) -> JobFacts:
        claim = a_claim(Phase.STARTED, offered_s=300.0)
        return a_scene(a_job(state="running", worker="w1", claim=claim), a_worker(**changes))

    def test_offered(self) -> None:
        job = a_job(state="restarting", worker="w1", claim=a_claim(Phase.OFFERED))
        told(
            a_scene(job, a_worker()),
            Code.OFFERED,
            "Offered to worker w1 3 s ago; it has until 08:00:07 UTC (7 s) to accept it, else it is offered again.",
        )

    def test_offered_and_not_answered(self) -> None:
        job = a_job(state="restarting", worker="w1", claim=a_claim(Phase.OFFERED, lease_s=-2.0))
        told(a_scene(job, a_worker()), Code.OFFERED, "was not accepted, and is taken back within 15 s")
        told(a_scene(job, a_worker(), gateways=()), Code.NO_GATEWAY, "no gateway is alive to take it back")

    def test_accepted(self) -> None:
        job = a_job(state="restarting", worker="w1", claim=a_claim(Phase.ACCEPTED, lease_s=65.0))
        told(
            a_scene(job, a_worker()),
            Code.ACCEPTED,
            "Accepted by worker w1",
            "waited for until 08:01:05 UTC (65 s)",
        )
        late = a_job(state="restarting", worker="w1", claim=a_claim(Phase.ACCEPTED, lease_s=-1.0))
        told(
            a_scene(late, a_worker()),
            Code.ACCEPTED,
            "goes back to the queue if Airflow still has the task as queued",
        )

    def test_not_started(self) -> None:
        claim = a_claim(Phase.ACCEPTED, result="not_started", detail="no such DAG")
        job = a_job(state="restarting", worker="w1", claim=claim)
        told(a_scene(job, a_worker()), Code.NOT_STARTED, "w1 could not start it (no such DAG)")

    def test_running(self) -> None:
        found = why(self.running())
        assert found.sentence == "Runs on worker w1, to which it was offered 5 min ago."
        assert found.advice == ""

    def test_running_on_a_worker_that_is_away(self) -> None:
        told(
            self.running(gateway=None, seen_s=130.0),
            Code.RUNNING,
            "w1 is not connected (last seen 2 min ago): the task may well go on there",
        )
        told(replace(self.running(), workers=()), Code.RUNNING, "w1 is known no more")

    def test_an_end_written_past_an_open_claim_is_no_end(self) -> None:
        facts = self.running()
        told(replace(facts, job=replace(facts.job, state="failed")), Code.RUNNING)

    def test_with_edge3s_worker(self) -> None:
        told(
            a_scene(a_job(state="restarting", worker="e1", updated_s=2.0)),
            Code.EDGE3_FETCHED,
            "Fetched by edge3 worker e1, written 2 s ago",
        )
        told(a_scene(a_job(state="running", worker="e1")), Code.EDGE3_RUNNING, "Runs on edge3 worker e1")

    def test_a_row_that_runs_nowhere(self) -> None:
        told(a_scene(a_job(state="running")), Code.UNCLAIMED, "a gateway puts it back into the queue")


class TestOver:
    def test_success(self) -> None:
        ended = a_claim(Phase.ENDED, result="success", ended_s=3.0)
        job = a_job(state="success", worker="w1", claim=ended, owner=None, reported=True, updated_s=3.0)
        assert (
            why(a_scene(job)).sentence
            == "Ended as success on worker w1 3 s ago; the scheduler has taken note."
        )

    def test_not_reported(self) -> None:
        ended = a_claim(Phase.ENDED, result="failed", detail="exit code 1", ended_s=3.0)
        told(
            a_scene(a_job(state="failed", worker="w1", claim=ended)),
            Code.FAILED,
            "Ended as failed on worker w1 3 min ago (exit code 1); the scheduler (job 7) has not taken note yet.",
            "See the scheduler's log",
        )

    def test_of_a_row_of_edge3s_executor_nobody_knows(self) -> None:
        ended = a_claim(Phase.ENDED, result="success", ended_s=3.0)
        job = a_job(state="success", worker="w1", claim=ended, owner=None, updated_s=3.0)
        assert why(a_scene(job)).sentence == "Ended as success on worker w1 3 s ago."

    def test_ours_that_an_edge3_worker_ran(self) -> None:
        job = a_job(state="success", worker="e1", owner=None, reported=True, updated_s=3.0)
        assert (
            why(a_scene(job)).sentence
            == "Ended as success on worker e1 3 s ago; the scheduler has taken note."
        )

    def test_removed(self) -> None:
        told(a_scene(a_job(state="removed", owner=None)), Code.REMOVED, "Over, as removed")

    @pytest.mark.parametrize(
        ("task", "part"),
        [
            (None, "The task was marked, cleared or deleted while it was queued: its row left the queue 9 s"),
            (
                ("success", 1),
                "The task was marked success while it was queued: its row left the queue 9 s ago",
            ),
            (("failed", 1), "was marked failed while it was queued"),
            (
                (None, 1),
                "was cleared while it was queued: its row left the queue 9 s ago, without having run.",
            ),
            ((None, 0), "The task is not scheduled yet"),
            (("running", 2), "was cleared while it was queued, and is at try 2 now: its row left"),
            (
                ("queued", 1),
                "did not wait for this round of the task while it was queued, and has it as queued",
            ),
        ],
    )
    def test_a_row_that_nothing_waited_for(self, task: tuple[str | None, int] | None, part: str) -> None:
        job = a_job(state="removed", owner=None, reported=True, updated_s=9.0)
        known = None if task is None else an_airflow_task(task[0], try_number=task[1])
        told(replace(a_scene(job), task=known), Code.LEFT_QUEUE, part)

    def test_other_rows_that_nothing_waited_for(self) -> None:
        job = a_job(state="removed", owner=None, reported=True, updated_s=9.0)
        told(a_scene(replace(job, worker="e1")), Code.LEFT_QUEUE, "while edge3 worker e1 had it")
        callback = replace(job, key=job.key._replace(dag_id=CALLBACK_DAG_ID))
        told(a_scene(callback), Code.LEFT_QUEUE, "did not wait for the callback any more while it was queued")

    def test_what_a_worker_of_ours_had_has_not_left_the_queue_so(self) -> None:
        claim = a_claim(Phase.ENDED, result="lost", ended_s=3.0)
        job = a_job(state="removed", owner=None, reported=True, worker="w1", claim=claim)
        told(a_scene(job), Code.REMOVED, "Over, as removed on worker w1")


def an_airflow_task(state: str | None, executor: str | None = None, try_number: int = 2) -> AirflowTask:
    return AirflowTask(state=state, executor=executor, queue="q", try_number=try_number)


@pytest.mark.parametrize(
    ("task", "code", "part"),
    [
        (None, Code.NO_SUCH_JOB, "There is no such job in edge_job: it is another executor's"),
        (an_airflow_task("queued"), Code.ANOTHER_EXECUTORS, "it is the default executor's"),
        (an_airflow_task("running", "Local"), Code.ANOTHER_EXECUTORS, "it is Local's"),
        (
            an_airflow_task(None),
            Code.NOT_QUEUED_YET,
            "The task is not scheduled yet: Airflow's scheduler has",
        ),
        (an_airflow_task("scheduled"), Code.NOT_QUEUED_YET, "has not queued it yet"),
        (an_airflow_task("success"), Code.OVER, "ended as success in Airflow; its row here was purged"),
    ],
)
@pytest.mark.parametrize("try_number", [None, 2])
def test_a_task_without_a_row(
    task: AirflowTask | None, code: Code, part: str, try_number: int | None
) -> None:
    found = why_absent(task, "dag", try_number)
    assert found.code is code
    assert part in found.sentence


def test_an_earlier_try_is_not_judged_by_the_present_one() -> None:
    task = replace(an_airflow_task("queued"), past_state="failed")
    found = why_absent(task, "dag", 1)
    assert found.code is Code.OVER
    assert "Try 1 ended as failed, for the task is at try 2 in Airflow" in found.sentence


@pytest.mark.parametrize(
    ("asked", "tries", "part"),
    [
        (3, 2, "there has been no try 3 of the task; the last is 2"),
        (0, 2, "there has been no try 0 of the task; the last is 2"),
        (1, 0, "there has been no try 1 of the task; there has been none yet"),
    ],
)
def test_a_try_that_there_has_not_been(asked: int, tries: int, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        why_absent(an_airflow_task("queued", try_number=tries), "dag", asked)


def a_task(state: str | None, **changes: object) -> AirflowTask:
    """Return the task of `a_job` as Airflow has it, at the same try."""
    return replace(an_airflow_task(state, try_number=1), **changes)


BAD_LOG = LogEnd("Task failed: ValueError: jam", is_error=True)


class TestByTheTasksOwnState:
    """The row of a process that has ended says little: the task may go on, or have ended otherwise."""

    @pytest.mark.parametrize(
        ("task", "code", "parts"),
        [
            (a_task("success"), Code.SUCCESS, ["The task ended as success on worker w1 3 s ago."]),
            (a_task("skipped"), Code.SKIPPED, ["The task ended as skipped on worker w1 3 s ago."]),
            (
                a_task("failed"),
                Code.FAILED,
                ['Its log says: "Task failed: ValueError: jam"', "See the task's"],
            ),
            (
                a_task("up_for_retry", unmet=(Unmet(Code.UP_FOR_RETRY, RETRY),)),
                Code.UP_FOR_RETRY,
                ["Try 1 failed on worker w1", "ValueError: jam", "again at 2026-11-30 07:53:15 UTC."],
            ),
            (
                a_task("up_for_reschedule", unmet=(Unmet(Code.UP_FOR_RESCHEDULE, RESCHEDULE),)),
                Code.UP_FOR_RESCHEDULE,
                ["Its last round on worker w1 3 s ago is over.", "queued again at 2026-11-30 07:53:15 UTC."],
            ),
            (
                a_task("deferred", trigger="a.b.DateTimeTrigger"),
                Code.DEFERRED,
                ["the trigger DateTimeTrigger", "a triggerer runs"],
            ),
            (a_task("awaiting_input"), Code.AWAITING_INPUT, ["a person's answer"]),
            (
                a_task(None, dag_paused=True),
                Code.DAG_PAUSED,
                ["to run again", "the DAG dag is paused", "airflow dags unpause dag"],
            ),
            (a_task(None, dag_stale=True), Code.DAG_STALE, ["gone from its bundle"]),
            (a_task("running"), Code.NOT_SETTLED, ["Airflow has the task as running still"]),
            (a_task("queued"), Code.NOT_SETTLED, ["Airflow has the task as queued still"]),
            (
                a_task("running", try_number=2, past_state="failed"),
                Code.FAILED,
                ["Try 1 ended as failed on worker w1", "the task is at try 2 now, which is running"],
            ),
        ],
    )
    def test_of_a_row_that_has_ended(self, task: AirflowTask, code: Code, parts: list[str]) -> None:
        ended = a_claim(Phase.ENDED, result="success", ended_s=3.0)
        job = a_job(state="success", worker="w1", claim=ended, owner=None, reported=True, updated_s=3.0)
        told(a_scene(job, task=task, log=BAD_LOG), code, *parts)

    def test_what_the_host_lacks_is_advised(self) -> None:
        job = a_job(state="failed", worker="w1", updated_s=3.0, owner=None)
        lacks = LogEnd("Dag not found during start up; Startup reschedule limit exceeded", is_error=True)
        told(
            a_scene(job, task=a_task("failed"), log=lacks),
            Code.FAILED,
            "The host of w1 lacks something that the task needs",
        )
        # While it is tried again, too; what a round that ended as it should has logged, is not told.
        waits = a_task("up_for_reschedule")
        told(a_scene(job, task=waits, log=lacks), Code.UP_FOR_RESCHEDULE, "Dag not found", "lacks something")
        assert "Poking" not in why(a_scene(job, task=waits, log=LogEnd("Poking"))).sentence

    @pytest.mark.parametrize(
        ("task", "part"),
        [
            (a_task("running"), ""),
            (a_task("up_for_retry"), "In Airflow the task is up_for_retry already: its callbacks still run"),
            (a_task(None), "In Airflow the task was cleared: it is being stopped."),
            (a_task("queued", try_number=2), "In Airflow the task is at try 2 already"),
        ],
    )
    def test_of_one_that_runs(self, task: AirflowTask, part: str) -> None:
        job = a_job(state="running", worker="w1", claim=a_claim(Phase.STARTED))
        found = why(a_scene(job, a_worker(), task=task))
        assert found.code is Code.RUNNING
        assert (part or "ago.") in found.sentence

    def test_of_one_that_is_queued(self) -> None:
        told(a_scene(a_job(), a_worker(), task=a_task("queued")), Code.ABOUT_TO_BE_OFFERED)
        for task, part in (
            (a_task("failed"), "in Airflow the task is failed: nobody is offered this job any more"),
            (a_task("queued", try_number=2), "in Airflow the task is at try 2, which is queued"),
        ):
            told(a_scene(a_job(), a_worker(), task=task), Code.NOT_WANTED, part)
        told(
            a_scene(a_job(), task=a_task("queued", dag_paused=True)),
            Code.NO_WORKER_SERVES_QUEUE,
            "in a paused DAG, which stops no queued task: no worker",
        )

    def test_since_when_it_is_queued(self) -> None:
        """Each requeue begins the wait anew; what came before is told as well."""
        again = a_task("queued", requeues=2, requeued_s=1500.0)
        told(
            a_scene(a_job(), task=again),
            Code.NO_WORKER_SERVES_QUEUE,
            "Queued for 3 min in this round, and first queued more than 25 min ago (Airflow has queued it"
            " again 2 times, as nobody took it in time): no worker",
        )
        earlier = a_claim(Phase.ENDED, result="success", ended_s=3000.0, offered_s=3600.0)
        told(
            a_scene(a_job(), history=(earlier,)),
            Code.NO_WORKER_SERVES_QUEUE,
            "Queued for 3 min in this round, and first queued more than 60 min ago: no worker",
        )


@pytest.mark.parametrize(
    ("reason", "code", "part"),
    [
        (
            (
                "Task's trigger rule 'all_success' requires all upstream tasks to have succeeded, but found 1"
                " non-success(es). upstream_states=_UpstreamTIStates(success=0, failed=1),"
                " upstream_task_ids={'fails'}"
            ),
            Code.WAITS_FOR_UPSTREAM,
            (
                "Task's trigger rule all_success requires all upstream tasks to have succeeded, but found 1"
                " non-success(es) (upstream: fails)."
            ),
        ),
        (
            "('Not scheduling since there are %s open slots in pool %s and require %s pool slots', 0, 'p', 1)",
            Code.POOL_FULL,
            "The task is scheduled: ",
        ),
    ],
)
def test_what_airflow_waits_for_is_told_in_its_words(reason: str, code: Code, part: str) -> None:
    found = why_absent(an_airflow_task("scheduled"), "dag")
    assert found.code is Code.NOT_QUEUED_YET
    found = why_absent(replace(an_airflow_task("scheduled"), unmet=(Unmet(code, reason),)), "dag")
    assert found.code is code
    assert part in found.sentence
    assert found.advice
