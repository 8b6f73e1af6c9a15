"""A model of Airflow: rounds of one task instance, `/run`, heartbeats, schedulers with the executor's reports.

The rules are those of Airflow 3.3; the verdict on an ended job is the real one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from edge_ws.protocol.ids import ClaimId
from edge_ws.provider.verdict import Attempt, Outcome, attempt, outcome
from edge_ws.server.ports import ARCHIVED, RESTARTING
from edge_ws.store.records import EndedJob, JobKey, NewJob
from tests.simulation.model_store import OPEN, ModelStore, Row
from tests.simulation.world import Violation, World

HEARTBEAT_TIMEOUT_S = 300.0
QUEUED_TIMEOUT_S = 600.0
LEEWAY_S = 10.0
TELLINGS = 5
UNWANTED_S = 5.0
LEFT_WITHIN_S = 15.0
"""What nothing waits for has left its queue by then, if a scheduler is there."""


class Runner(Protocol):
    """A process that says it runs a task."""

    name: str
    alive: bool
    well: bool
    """It runs and nothing has been done to it."""
    pid: int

    @property
    def worker(self) -> str: ...

    machine: str
    is_edge3: bool
    owes: bool
    """It has told its outcome while Airflow was away, and what has been told is on a disk."""


@dataclass(slots=True)
class TaskInstance:
    id: str
    key: JobKey
    plan: tuple[str, ...]
    """The outcome of each round: defer, reschedule, success, fail, crash."""
    slots: int
    retries: int
    state: str = "scheduled"
    round: int = 0
    runner: Runner | None = None
    heard_at: float = 0.0
    queued_at: float = 0.0
    queued_by: int = 0
    excused: str = ""
    faults: set[tuple[str, float]] = field(default_factory=set)
    """Workers that could not start it, each with the time at which its row was queued."""
    """Why it may fail: what was done to it."""


@dataclass(slots=True)
class Scheduler:
    owner: int
    alive: bool = True
    dying: bool = False
    """Dead, but the others do not know yet."""
    reconciles_at: float = 0.0
    began_at: float = 0.0
    looks_at: float = 0.0
    """When it looks next for rows that nothing waits for."""
    told: Counter[JobKey] = field(default_factory=Counter)


class Airflow:
    """The metadata database's other half, its schedulers and its Execution API."""

    def __init__(self, world: World, store: ModelStore) -> None:
        self._world = world
        self._store = store
        self.tasks: dict[str, TaskInstance] = {}
        """The current task instance by task."""
        self.all: dict[str, TaskInstance] = {}
        """By id, as far as Airflow still knows it."""
        self._given_up: dict[str, JobKey] = {}
        """By id: the attempts that it has put aside."""
        self.schedulers = [Scheduler(owner) for owner in (1, 2)[: world.rng.choice((1, 1, 2))]]
        self.edge3_queues = 0.0
        """How often a round is queued by edge3's executor."""
        self.on_edge3_queued: Callable[[JobKey], None] = lambda _: None
        self.api_away = False
        self.rules = store.rules
        self.running: dict[str, list[Runner]] = {}
        """Processes that were told to run and have not said that they ended, by task."""
        for scheduler in self.schedulers:
            world.at(1.0, self._loop, scheduler)

    # What users do

    def add(self, name: str, plan: tuple[str, ...], slots: int, retries: int) -> None:
        key = JobKey("dag", name, "run", -1, 1)
        self._instance(name, TaskInstance(self._world.id("ti"), key, plan, slots, retries))

    def _instance(self, name: str, ti: TaskInstance) -> None:
        self.tasks[name] = self.all[ti.id] = ti
        self._schedule(ti)

    def clear(self, name: str) -> None:
        """A new id under the same key; a running one waits for its old process to be gone."""
        old = self.tasks[name]
        if old.state not in {"running", "queued", "scheduled", "deferred", "up_for_reschedule"}:
            return
        self._give_up(old)
        new = TaskInstance(
            self._world.id("ti"), old.key, ("success",), old.slots, old.retries, queued_by=old.queued_by
        )
        self._world.note("user clears %s (%s): %s becomes %s", name, old.state, old.id, new.id)
        if old.state == "running":
            old.excused = "cleared"
            if old.runner is not None:
                old.runner.well = False
            new.state = "restarting"
            self.tasks[name] = self.all[new.id] = new
            self._world.at(HEARTBEAT_TIMEOUT_S + 5.0, self._is_left_restarting, new)
            return
        old.state = "cleared"
        self._instance(name, new)

    def _is_left_restarting(self, ti: TaskInstance) -> None:
        """Nobody said that the old process is gone: the missing heartbeat does."""
        if ti.state == "restarting" and self.all.get(ti.id) is ti:
            self._world.note("scheduler misses the heartbeat of %s, which restarts", ti.id)
            self.running.get(ti.key.task_id, []).clear()
            self._schedule(ti)

    def mark_failed(self, name: str) -> None:
        ti = self.tasks[name]
        if ti.state not in {"running", "queued", "success"}:
            return
        self._world.note("user fails %s, which is %s", ti.id, ti.state)
        if ti.state == "running" and ti.runner is not None:
            ti.runner.well = False
        if ti.state == "queued":
            self._world.at(LEFT_WITHIN_S, self._has_left, ti)
        ti.state, ti.excused, ti.retries = "failed", "marked", 0

    def _has_left(self, ti: TaskInstance) -> None:
        """What nothing waits for is not left in its queue, even if nobody takes it from there."""
        row, now = self._store.rows.get(ti.key), self._world.now
        if row is None or row.state != "queued" or self.is_wanted(row):
            return
        is_watched = any(one.alive and one.began_at < now - LEFT_WITHIN_S / 2 for one in self.schedulers)
        if not is_watched or any(one.dying and one.owner == row.owner for one in self.schedulers):
            self._world.at(LEFT_WITHIN_S, self._has_left, ti)
        elif now - row.updated_at > LEFT_WITHIN_S / 2:
            raise Violation(f"nothing waits for {ti.id}, and its row stays queued")

    def is_wanted(self, row: Row) -> bool:
        """Tell whether the row's task waits for it; see `provider.wanted`."""
        ti = self.tasks[row.key.task_id]
        return ti.key == row.key and ti.state in {"queued", "running", "restarting"}

    def revoke(self, ti: TaskInstance, queued_at: float | None = None) -> None:
        """It is stuck in queued: the scheduler takes it back and schedules it again."""
        if ti.state == "queued" and queued_at in {None, ti.queued_at} and self.all.get(ti.id) is ti:
            row = self._store.rows.get(ti.key)
            if queued_at is not None and row is not None and row.state == "removed":
                raise Violation(f"{ti.id} waits in its queue, and its row is over")
            self._world.note("scheduler revokes %s", ti.id)
            self._store.revoke(ti.key)
            self._schedule(ti)

    # The scheduler

    def _schedule(self, ti: TaskInstance) -> None:
        ti.state = "scheduled"
        self._world.at(self._world.within(0.05, 2.0), self._queue, ti)

    def _queue(self, ti: TaskInstance) -> None:
        if ti.state != "scheduled" or self.all.get(ti.id) is not ti:
            return
        living = [one for one in self.schedulers if one.alive]
        if not living:
            self._world.at(2.0, self._queue, ti)
            return
        scheduler = self._world.rng.choice(living)
        ti.state, ti.queued_by, ti.queued_at, ti.runner = "queued", scheduler.owner, self._world.now, None
        command = json.dumps(
            {"token": "t", "ti": {"id": ti.id}, "log_path": f"{ti.key.task_id}.{ti.key.try_number}"}
        )
        job = NewJob(
            key=ti.key,
            queue="q",
            slots=ti.slots,
            priority=1,
            command=command,
            team=None,
            owner=scheduler.owner,
        )
        row = self._store.rows.get(ti.key)
        # Of a row without an owner edge3's own executor would report the end, and there is none here.
        if row is not None and row.owner and self._world.chance(self.edge3_queues):
            row.owner = scheduler.owner
            self._world.note("edge3 queues %s round %s", ti.id, ti.round)
            self._store.edge3_enqueue(job)
            self._world.at(self._world.within(0.01, 1.0), self.on_edge3_queued, ti.key)
        else:
            self._world.note("scheduler %s queues %s round %s", scheduler.owner, ti.id, ti.round)
            self._store.enqueue(job)
        self._world.at(QUEUED_TIMEOUT_S, self.revoke, ti, ti.queued_at)

    def _loop(self, scheduler: Scheduler) -> None:
        if scheduler.alive:
            self._sync(scheduler)
            if self._world.now >= scheduler.reconciles_at:
                scheduler.reconciles_at = self._world.now + 30.0
                self._store.inherit(scheduler.owner, self._living())
            if self._world.now >= scheduler.looks_at and self._store.rules.ends_unwanted:
                scheduler.looks_at = self._world.now + UNWANTED_S
                found = self._store.unwanted(scheduler.owner, self._living(), self.is_wanted)
                if found:
                    slow = self._world.within(0.05, 1.0) if self._world.chance(0.5) else 0.001
                    self._world.at(slow, self._end_unwanted, scheduler, found)
            self._world.at(self._world.within(0.8, 2.5), self._loop, scheduler)

    def _living(self) -> list[int]:
        return [one.owner for one in self.schedulers if one.alive or one.dying]

    def _end_unwanted(self, scheduler: Scheduler, found: list[JobKey]) -> None:
        if scheduler.alive:
            for key in self._store.end_unwanted(scheduler.owner, self._living(), self.is_wanted, found):
                self._world.note("scheduler %s ends the row of %s", scheduler.owner, key.task_id)

    def _sync(self, scheduler: Scheduler) -> None:
        ended = self._store.ended(scheduler.owner)
        if not ended and not scheduler.told:
            return
        scheduler.told = Counter(
            {job.key: scheduler.told[job.key] for job in ended if job.key in scheduler.told}
        )
        by_id = {job.subject: self.all[job.subject].state for job in ended if job.subject in self.all}
        by_try: dict[Attempt, str | None] = {
            attempt(ti.key): ti.state for ti in self.tasks.values() if self.all.get(ti.id) is ti
        }
        done = []
        for job in ended:
            others = {} if job.subject in by_id else by_try
            told = outcome(job, by_id=by_id, by_try=others)
            if told is not Outcome.NOTHING:
                scheduler.told[job.key] += 1
                # One event in ten finds its task's row locked, and is forgotten.
                if not self._world.chance(0.1):
                    self._event(scheduler, job, told)
            if told is Outcome.NOTHING or scheduler.told[job.key] >= TELLINGS:
                scheduler.told.pop(job.key, None)
                done.append(job.key)
        self._store.reported(scheduler.owner, done)

    def _event(self, scheduler: Scheduler, job: EndedJob, told: Outcome) -> None:
        ti = self.tasks[job.key.task_id]
        if ti.key != job.key or ti.queued_by != scheduler.owner:
            return
        self._world.note(
            "event %s for %s (%s), row %s: %s", told.value, ti.id, ti.state, job.state, job.detail
        )
        if ti.state == "restarting":
            if told is Outcome.FAILED:
                raise Violation(f"{ti.id} was cleared while it ran, and fails of it")
            self._schedule(ti)
        elif ti.state in {"scheduled", "queued", "running"}:
            if ti.state == "running" and ti.runner is not None and ti.runner.alive and ti.runner.well:
                raise Violation(f"the good run of {ti.id} was failed: {job.detail}")
            if ti.state == "running" and ti.runner is not None and ti.runner.owes and not ti.excused:
                raise Violation(f"{ti.id} has told its outcome, which is lost: {job.detail}")
            is_excused = ti.excused or bool(ti.faults)
            if ti.state != "running" and not is_excused and ti.plan[ti.round] != "invalid":
                raise Violation(f"{ti.id} was failed while it was {ti.state}: {job.detail}")
            self._fail(ti)

    def could_not_start(self, subject: str, worker: str) -> None:
        """Note a host's fault, for this round of the job."""
        ti = self.all.get(subject)
        row = self._store.rows.get(ti.key) if ti is not None else None
        if ti is not None and row is not None:
            ti.faults.add((worker, row.queued_at))

    def is_to_start(self, subject: str, claim: ClaimId, worker: str) -> None:
        """Hear that a job's process waits on that worker's host."""
        ti = self.all.get(subject)
        row = self._store.rows.get(ti.key) if ti is not None else None
        # An offer that was long on its way breaks no rule, nor does one made before the fault was heard of.
        if ti is None or row is None or row.claim != claim or worker not in row.faults:
            return
        if (worker, row.queued_at) in ti.faults:
            raise Violation(f"{subject} goes to {worker} again, which could not start it")

    def _fail(self, ti: TaskInstance) -> None:
        if ti.runner is not None:
            ti.runner.well = False
        if ti.retries:
            ti.state = "up_for_retry"
            self._give_up(ti)
            key = JobKey(ti.key.dag_id, ti.key.task_id, ti.key.run_id, -1, ti.key.try_number + 1)
            new = TaskInstance(self._world.id("ti"), key, ("success",), ti.slots, ti.retries - 1)
            self._world.at(self._world.within(1.0, 5.0), self._instance, ti.key.task_id, new)
            self.tasks[ti.key.task_id] = new
            new.state = "none"
        else:
            ti.state = "failed"

    def _give_up(self, ti: TaskInstance) -> None:
        """Put the attempt aside: the task goes on under another id."""
        del self.all[ti.id]
        self._given_up[ti.id] = ti.key

    # Schedulers come and go

    def crash(self, scheduler: Scheduler) -> None:
        """Another one (or its successor, with a new number) adopts what it had."""
        self._world.note("scheduler %s dies", scheduler.owner)
        scheduler.alive, scheduler.dying = False, True
        heir = Scheduler(10 + int(self._world.id("")))
        self._world.at(self._world.within(3.0, 40.0), self._adopt, heir, scheduler)

    def _adopt(self, heir: Scheduler, dead: Scheduler) -> None:
        self.schedulers.append(heir)
        heir.began_at = self._world.now
        dead.dying = False
        mine = [
            ti
            for ti in self.all.values()
            if ti.queued_by == dead.owner and ti.state in {"queued", "running", "restarting"}
        ]
        states = self._store.adopt(heir.owner, {ti.key: ti.id for ti in mine})
        for ti in mine:
            is_anothers = ti.key in states and states[ti.key] is None
            if states.get(ti.key) in (*OPEN, "queued") or (ti.state == "running" and not is_anothers):
                self._world.note("scheduler %s adopts %s", heir.owner, ti.id)
                ti.queued_by = heir.owner
            else:
                self._world.note("scheduler %s resets %s (%s)", heir.owner, ti.id, ti.state)
                if ti.runner is not None and ti.runner.alive and ti.runner.well and not ti.excused:
                    raise Violation(f"the good run of {ti.id} was reset")
                # edge3 has deleted its row: Airflow stops the old process at its next heartbeat.
                self.running.get(ti.key.task_id, []).clear()
                self._schedule(ti)
        self._loop(heir)

    # The Execution API

    def run(self, subject: str, runner: Runner, token_until: float) -> bool:
        """The first caller wins; the same host and pid may ask again."""
        ti = self.all.get(subject)
        if ti is None or self._world.now > token_until + LEEWAY_S:
            return False
        if ti.state == "running" and ti.runner is not None:
            same = (ti.runner.machine, ti.runner.pid) == (runner.machine, runner.pid)
            if not same:
                return False
        elif ti.state not in {"queued", "restarting"}:
            return False
        others = self.running.setdefault(ti.key.task_id, [])
        for other in others:
            # Of an edge3 worker that lost its row nobody hears whether its process is gone: Airflow's
            # answer to that one's next heartbeat ends it.
            if other is not runner and other.alive and (other.well or not other.is_edge3):
                raise Violation(f"{ti.id} runs twice: {other.name} and {runner.name}")
        others[:] = [runner]
        ti.state, ti.runner, ti.heard_at = "running", runner, self._world.now
        self._world.at(HEARTBEAT_TIMEOUT_S + 5.0, self._is_silent, ti, runner)
        return True

    def _is_silent(self, ti: TaskInstance, runner: Runner) -> None:
        if ti.state != "running" or ti.runner is not runner or self.all.get(ti.id) is not ti:
            return
        silent_s = self._world.now - ti.heard_at
        if silent_s < HEARTBEAT_TIMEOUT_S:
            self._world.at(HEARTBEAT_TIMEOUT_S + 5.0 - silent_s, self._is_silent, ti, runner)
            return
        self._world.note("scheduler misses the heartbeat of %s", ti.id)
        ti.excused = ti.excused or "heartbeat"
        # Its process, if there is one, is Airflow's to stop: it is not seen any more.
        self.running[ti.key.task_id].clear()
        self._fail(ti)

    def heartbeat(self, subject: str, runner: Runner) -> bool:
        if not self.counts_as_running(subject, runner):
            return False
        self.all[subject].heard_at = self._world.now
        return True

    def counts_as_running(self, subject: str, runner: Runner) -> bool:
        """Tell what it would answer to a heartbeat."""
        ti = self.all.get(subject)
        return ti is not None and ti.state == "running" and ti.runner is runner

    def may_retry(self, subject: str) -> bool:
        """What a task is told at its start."""
        ti = self.all.get(subject)
        return ti is not None and ti.retries > 0

    def finish(self, subject: str, runner: Runner, result: str) -> bool:
        """Take a round's outcome from its process."""
        ti = self.all.get(subject)
        if ti is None or ti.state != "running" or ti.runner is not runner:
            return False
        self.running[ti.key.task_id].remove(runner)
        if result in {"defer", "reschedule"}:
            ti.state = "deferred" if result == "defer" else "up_for_reschedule"
            ti.round += 1
            self._world.at(
                self._world.within(0.02, 0.5) if self._world.chance(0.5) else self._world.within(0.5, 8.0),
                self._resume,
                ti,
            )
        elif result == "success":
            ti.state = "success"
        else:
            self._fail(ti)
        return True

    def _resume(self, ti: TaskInstance) -> None:
        if ti.state in {"deferred", "up_for_reschedule"}:
            self._schedule(ti)

    # What the gateway asks

    def states(self, subjects: Collection[str]) -> dict[str, str | None]:
        found = {one: self.all[one].state if one in self.all else self._past(one) for one in subjects}
        if self._store.rules.asks_why_an_id_is_gone:
            return dict(found)
        return {one: state for one, state in found.items() if one in self.all or state == RESTARTING}

    def _past(self, subject: str) -> str:
        """What the history says of an id that was given up: nothing is ever deleted here."""
        key = self._given_up[subject]
        now = self.tasks[key.task_id]
        return RESTARTING if now.key == key and now.state == "restarting" else ARCHIVED

    def mint(self, subject: str, *, is_callback: bool, valid_s: float) -> str:
        return f"{subject}|{self._world.now + valid_s}"

    def mint_for_outcome(self, subject: str, *, valid_s: float) -> str:
        return f"{subject}|{self._world.now + valid_s}"

    def deliver(self, token: str, result: str) -> bool:
        """Take an outcome from whoever has the token: nobody asks which process it comes from."""
        subject, until = token.split("|")
        ti = self.all.get(subject)
        if ti is None or ti.runner is None or self._world.now > float(until) + LEEWAY_S:
            return False
        return self.finish(subject, ti.runner, result)

    def finished(self) -> bool:
        """Tell whether every task is over."""
        return all(ti.state in {"success", "failed"} for ti in self.tasks.values())
