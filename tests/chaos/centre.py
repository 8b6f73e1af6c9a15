"""A model Airflow: its task instances, its Execution API and its scheduler with an executor of the real verbs.

Keeps Airflow 3.3's rules: the first `/run` wins and the same process may repeat it; a retry is a new task
instance id; an executor's event about a task that waits or runs fails that task. Notes what breaks a promise.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from edge_ws.errors import UnreachableError
from edge_ws.provider import verdict
from edge_ws.provider.verdict import Outcome
from edge_ws.store.live import is_job
from edge_ws.store.records import EndedJob, JobKey, NewJob
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_job
from tests.support.execution_api import Call, ExecutionApi

OWNER = 7
STUCK_S = 3.0
"""A queued task whose row somebody else deleted is queued again after this (Airflow: 600 s)."""
SILENT_S = 12.0
"""A running task of such a row counts as lost when its supervisor has not been heard for so long (300 s)."""
LOST_S = 100.0
"""The same for a task that nobody has meddled with: then the executor should have told long ago."""


@dataclass
class Attempt:
    """One task instance id."""

    task: Task
    number: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = "scheduled"
    round: int = 1
    queued_at: float = 0.0
    is_written: bool = False
    """The row of this round is known to be committed."""
    may_be_written: bool = False
    holder: tuple[str, str, int] | None = None
    heard: float = 0.0
    meddled: bool = False
    """Somebody else has written into its row."""
    reported_round: int = 0
    event: EndedJob | None = None
    """What the executor failed it for."""

    @property
    def key(self) -> JobKey:
        return JobKey("chaos", "work", self.task.name, -1, self.number)

    @property
    def log_path(self) -> str:
        return f"dag_id=chaos/run_id={self.task.name}/task_id=work/attempt={self.number}.log"

    @property
    def mark(self) -> str:
        return f"{self.id}/{self.round}"

    def command(self) -> str:
        ti = {
            "id": self.id,
            "task_id": "work",
            "dag_id": "chaos",
            "run_id": self.task.name,
            "try_number": self.number,
            "dag_version_id": str(uuid.UUID(int=1)),
            "map_index": -1,
            "hostname": "",
            # Airflow passes it on unread: it tells which round a row is of.
            "context_carrier": {"mark": self.mark},
            "queue": "q",
            "pool_slots": self.task.slots,
            "priority_weight": 1,
        }
        return json.dumps(
            {
                "token": "",
                "dag_rel_path": "chaos.py",
                "bundle_info": {"name": "dags-folder", "version": None},
                "log_path": self.log_path,
                "ti": ti,
                "sentry_integration": "",
                "type": "ExecuteTask",
            }
        )


@dataclass
class Task:
    """What Airflow wants done once."""

    name: str
    rounds: int
    slots: int
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def now(self) -> Attempt:
        return self.attempts[-1]


class Centre(ExecutionApi):
    """The model. `answer` is called on the server's threads, the rest on the test's."""

    def __init__(self, engine: sa.Engine, leeway_s: float, note: Callable[[str], None]) -> None:
        super().__init__()
        self._engine = engine
        self._store = Store(engine)
        self._leeway_s = leeway_s
        self._note = note
        self._lock = threading.RLock()
        self.tasks: dict[str, Task] = {}
        self._attempts: dict[str, Attempt] = {}
        """By the ids that Airflow knows now."""
        self.broken: list[str] = []

    def _break(self, promise: str) -> None:
        self._note(f"BROKEN: {promise}")
        self.broken.append(promise)

    # The Execution API

    def answer(self, call: Call) -> tuple[int, Any]:
        parts = call.path.strip("/").split("/")
        with self._lock:
            if parts == ["states"]:
                return 200, {one: self._attempts[one].state for one in call.body if one in self._attempts}
            if len(parts) == 3 and parts[0] == "task-instances":
                return self._about(parts[1], parts[2], call)
        return (404, {"detail": {"reason": "not_found"}}) if call.method == "GET" else (204, None)

    def _about(self, subject: str, verb: str, call: Call) -> tuple[int, Any]:
        attempt = self._attempts.get(subject)
        if verb == "run" and not self._admits(call.token, subject):
            return 403, {"detail": "Invalid auth token"}
        if attempt is None:
            return 404, {"detail": {"reason": "not_found", "message": "Task Instance not found"}}
        match verb:
            case "run":
                return self._run(attempt, call.body)
            case "heartbeat":
                return self._heartbeat(attempt, call.body)
            case "state":
                return self._set_state(attempt, str(call.body["state"]))
            case _:
                return 204, None

    def _admits(self, token: str, subject: str) -> bool:
        whose, _, until = token.partition("/")
        return whose == subject and time.time() <= float(until) + self._leeway_s

    def _run(self, attempt: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        caller = body["hostname"], body["unixname"], int(body["pid"])
        if not (attempt.state == "running" and attempt.holder == caller):
            if attempt.state != "queued":
                return 409, {"detail": {"reason": "invalid_state", "previous_state": attempt.state}}
            attempt.state, attempt.holder = "running", caller
        attempt.heard = time.monotonic()
        run = dict.fromkeys(
            ("data_interval_start", "data_interval_end", "end_date", "partition_key", "partition_date")
        )
        at = "2026-01-01T00:00:00Z"
        known = {"logical_date": at, "run_after": at, "start_date": at, "run_type": "manual"}
        ids = {"dag_id": "chaos", "run_id": attempt.task.name, "consumed_asset_events": []}
        dag_run = {**run, **known, **ids, "state": "running"}
        return 200, {"dag_run": dag_run, "max_tries": 0, "should_retry": False}

    def _heartbeat(self, attempt: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        if attempt.state != "running":
            return 409, {"detail": {"reason": "not_running", "current_state": attempt.state}}
        if attempt.holder is None or (body["hostname"], int(body["pid"])) != attempt.holder[::2]:
            return 409, {"detail": {"reason": "running_elsewhere"}}
        attempt.heard = time.monotonic()
        return 204, None

    def _set_state(self, attempt: Attempt, state: str) -> tuple[int, Any]:
        if attempt.state != "running":
            same = attempt.state == state
            return (204, None) if same else (409, {"detail": {"reason": "invalid_state"}})
        attempt.state = state
        if state == "up_for_reschedule":
            attempt.round += 1
            attempt.is_written = attempt.may_be_written = False
        elif state != "success":
            self._break(f"{attempt.task.name}, try {attempt.number}, says of itself that it is {state}")
            self._retry(attempt)
        return 204, None

    # What the test wants and asks

    def want(self, task: Task) -> None:
        """Schedule a task."""
        with self._lock:
            self.tasks[task.name] = task
            self._add(Attempt(task, 1))

    def _add(self, attempt: Attempt) -> None:
        attempt.task.attempts.append(attempt)
        self._attempts[attempt.id] = attempt

    def _retry(self, attempt: Attempt) -> None:
        # Airflow keeps the old try in its history: its id is known no more.
        del self._attempts[attempt.id]
        self._add(Attempt(attempt.task, attempt.number + 1))

    def meddle(self, key: JobKey) -> None:
        """Note that somebody else writes into that row."""
        with self._lock:
            for attempt in self.tasks[key.run_id].attempts:
                if attempt.number == key.try_number:
                    attempt.meddled = True

    def open_tasks(self) -> list[str]:
        """Return what has not succeeded yet."""
        with self._lock:
            return [
                f"{one.name}:{one.now.state}" for one in self.tasks.values() if one.now.state != "success"
            ]

    # The scheduler and its executor

    def tick(self) -> bool:
        """Queue what is due and take what ended; False if the database is away."""
        try:
            for attempt in self._due():
                self._queue(attempt)
            self._sync()
            self._look_for_lost()
        except (sa.exc.DBAPIError, UnreachableError):
            return False
        return True

    def _due(self) -> list[Attempt]:
        with self._lock:
            waiting = [
                one for one in self._attempts.values() if one.state in {"scheduled", "up_for_reschedule"}
            ]
            for attempt in waiting:
                attempt.state, attempt.queued_at = "queued", time.monotonic()
            return [one for one in self._attempts.values() if one.state == "queued" and not one.is_written]

    def _queue(self, attempt: Attempt) -> None:
        """Queue the round once: a commit whose answer was lost is not repeated, as in Airflow's transaction."""
        if attempt.may_be_written and self._is_written(attempt):
            attempt.is_written = True
            return
        attempt.may_be_written = True
        job = NewJob(
            key=attempt.key,
            queue="q",
            slots=attempt.task.slots,
            priority=1,
            command=attempt.command(),
            team=None,
            owner=OWNER,
        )
        with self._engine.begin() as connection:
            self._store.jobs.enqueue(connection, job)
        attempt.is_written = True

    def _is_written(self, attempt: Attempt) -> bool:
        with self._engine.connect() as connection:
            command = connection.scalar(sa.select(edge_job.c.command).where(is_job(attempt.key)))
        return command is not None and attempt.mark in command

    def _sync(self) -> None:
        ended = self._store.jobs.ended(OWNER)
        if not ended:
            return
        with self._lock:
            states = {one: attempt.state for one, attempt in self._attempts.items()}
            for job in ended:
                outcome = verdict.outcome(job, by_id=states, by_try={})
                if outcome is not Outcome.NOTHING:
                    self._event(job, outcome)
                self._count(job)
        self._store.jobs.reported(OWNER, [job.key for job in ended])
        with self._lock:
            for job in ended:
                attempt = self._attempts.get(job.subject)
                if attempt is not None:
                    attempt.reported_round = attempt.round

    def _event(self, job: EndedJob, outcome: Outcome) -> None:
        """Take an executor's event as Airflow does: of a task that waits or runs it means "killed from outside"."""
        attempt = self.tasks[job.key.run_id].now
        if attempt.number != job.key.try_number or attempt.state not in {"queued", "running"}:
            return
        self._note(f"{attempt.task.name}, try {attempt.number}: {outcome.value} ({job.state}: {job.detail})")
        attempt.event = job
        attempt.state = "failed"
        self._retry(attempt)

    def _count(self, job: EndedJob) -> None:
        attempt = self._attempts.get(job.subject)
        settled = attempt is not None and attempt.state == "success" and not attempt.meddled
        if attempt is not None and settled and attempt.reported_round == attempt.round:
            self._break(f"{attempt.task.name}, try {attempt.number}, ended twice for the executor")

    def _look_for_lost(self) -> None:
        rows = self._store.jobs.owned(OWNER)
        now = time.monotonic()
        with self._lock:
            for attempt in list(self._attempts.values()):
                if attempt.state == "queued" and attempt.is_written and attempt.key not in rows:
                    if now - attempt.queued_at > STUCK_S:
                        self._stuck(attempt, now)
                elif attempt.state == "running":
                    silent_s = now - attempt.heard
                    if silent_s > (SILENT_S if attempt.meddled else LOST_S):
                        self._silent(attempt, silent_s)

    def _stuck(self, attempt: Attempt, now: float) -> None:
        if not attempt.meddled:
            self._break(f"{attempt.task.name}, try {attempt.number}: queued, and its row is gone")
        self._note(f"{attempt.task.name} is stuck in queued: again")
        attempt.queued_at, attempt.is_written, attempt.may_be_written = now, False, False

    def _silent(self, attempt: Attempt, silent_s: float) -> None:
        if not attempt.meddled:
            self._break(
                f"{attempt.task.name}, try {attempt.number}: silent for {silent_s:.0f} s, nobody told"
            )
        self._note(f"{attempt.task.name}, try {attempt.number}, is silent: failed by Airflow")
        attempt.state = "failed"
        self._retry(attempt)
