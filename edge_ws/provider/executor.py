"""The executor in Airflow's scheduler: queues workloads as rows, reports their ends, adopts, revokes.

It also runs in api-servers, which make one to read the logs of running tasks: making one has no effect.
Knows no worker and no connection; the rows are all that it and a gateway have in common.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, object_session

from edge_ws.errors import EdgeWsError, SchemaError, UnreachableError
from edge_ws.provider import compat, verdict, workload
from edge_ws.provider.airflow_stats import AirflowStats
from edge_ws.provider.config import ExecutorSettings, executor_settings
from edge_ws.provider.ports import AirflowFinishedLogs
from edge_ws.provider.verdict import Outcome
from edge_ws.provider.wanted import is_wanted
from edge_ws.server.diagnosis import NO_GATEWAY_ADVICE
from edge_ws.server.eligibility import lasted
from edge_ws.store import schema
from edge_ws.store.database import Database, first_line
from edge_ws.store.logs import left_out
from edge_ws.store.records import EndedJob, JobKey, RunningLog
from edge_ws.store.store import Store
from edge_ws.store.tables import claim, edge_job, edge_logs, gateway, log

UNWANTED_S = 5.0
"""Between looks for rows that nothing waits for any more."""
UNWANTED_SHARE = 20.0
"""At the least the pause is so many times as long as the look took: with 50,000 rows that is a while."""
RECONCILE_S = 30.0
"""Between looks for keys that hold a slot of the executor without a row."""
AWAY_PAUSE_S = 5.0
"""Without a look at the database after one that failed."""
LOOK_FOR_GATEWAYS_S = 60.0
"""Between looks for jobs that wait while no gateway is alive."""
STRANDED_S = 10.0
"""A job that has waited for less may have been queued while Airflow starts, its gateway a moment later."""
NAMED = 5
"""Jobs named in one line of the log."""
TELLINGS = 5
"""Times an end is told to the scheduler until its task shows that it was heard."""
_TABLES = (edge_job, edge_logs, claim, log)
"""All that the executor works with."""
_OPEN_STATES = frozenset({"queued", "restarting", "running"})


def _named(key: JobKey) -> str:
    if workload.is_callback(key):
        return f"callback {key.task_id}"
    index = f"[{key.map_index}]" if key.map_index >= 0 else ""
    return f"{key.dag_id}.{key.task_id}{index} of {key.run_id}"


class EdgeWsExecutor(compat.ExecutorBase):
    """Hands Airflow's workloads to edge-ws's workers through the tables they share with edge3."""

    supports_multi_team = True
    supports_ad_hoc_ti_run = True
    is_local = False
    is_production = True
    serve_logs = False

    def __init__(self, *args: object, clock: Callable[[], float] = time.monotonic, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock
        self._quiet_until = 0.0
        self._unwanted_at = 0.0
        self._reconcile_at = 0.0
        self._gateways_at = 0.0
        self._awaits_migration = False
        self._told: Counter[JobKey] = Counter()
        self._own_number = -1 - secrets.randbelow(2**31 - 1)

    @cached_property
    def _settings(self) -> ExecutorSettings:
        return executor_settings(self.conf)

    @cached_property
    def _database(self) -> Database:
        return Database(compat.engine())

    @cached_property
    def _store(self) -> Store:
        return Store(compat.engine())

    @cached_property
    def _log_folder(self) -> AirflowFinishedLogs:
        return AirflowFinishedLogs()

    @cached_property
    def _metrics(self) -> AirflowStats | None:
        return AirflowStats.wanted()

    @property
    def _owner(self) -> int:
        """The scheduler's `job_id`; one that no scheduler can have where Airflow gives none (`dag.test`)."""
        try:
            return int(self.job_id)
        except (TypeError, ValueError):
            return self._own_number

    def start(self) -> None:
        """Look at settings and tables before the first task is queued.

        Raises:
            UsageError, SchemaError: Airflow then ends the scheduler; with neither could a task be run.
        """
        try:
            _ = self._settings
            self._check_tables()
        except UnreachableError as error:
            # The scheduler lives on that database too: it will notice by itself.
            self.log.warning("edge-ws: %s", error)
        except EdgeWsError as error:
            self.log.error("edge-ws: %s", error)  # noqa: TRY400 - a sentence, no traceback
            raise

    def _check_tables(self) -> None:
        try:
            schema.check(compat.engine())
        except SchemaError as error:
            # An upgraded scheduler need not wait for the migration where only gateways need it.
            if not schema.has_all(compat.engine(), _TABLES):
                raise
            self._awaits_migration = True
            self.log.warning("edge-ws: %s; until then no gateway of this release serves", error)

    # From the scheduler: new work

    def queue_workload(self, workload: Any, session: Session) -> None:  # noqa: ANN401 - Airflow's own types
        """Write the workload's row in the scheduler's transaction.

        Raises nothing, for any exception would end the scheduler: what cannot be queued is failed.
        """
        try:
            self._queue(workload, session)
        except (SQLAlchemyError, EdgeWsError) as error:
            self.log.error("edge-ws could not queue a workload: %s", first_line(error))  # noqa: TRY400
            # Where the whole transaction is lost, the scheduler will queue the workload again.
            if compat.can_commit(session):
                self._give_up(workload, f"edge-ws could not queue it: {first_line(error)}")
        except Exception:
            self.log.exception("edge-ws could not queue a workload")
            self._give_up(workload, "edge-ws could not queue it; the scheduler's log says why")

    def _queue(self, item: Any, session: Session) -> None:  # noqa: ANN401
        job = workload.new_job(
            item,
            owner=self._owner,
            team=self.team_name,
            default_queue=self.conf.get_mandatory_value("operators", "default_queue"),
        )
        if job is None:
            kind = type(item).__name__
            self.log.error("edge-ws runs no workloads of the kind %s", kind)
            self._give_up(item, f"edge-ws runs no workloads of the kind {kind}")
            return
        with compat.guarded(session) as connection:
            self._store.jobs.enqueue(connection, job)
        self.running.add(compat.workload_key(item))

    def _give_up(self, item: Any, why: str) -> None:  # noqa: ANN401
        key = compat.workload_key(item)
        if key is not None:
            self.log.error("edge-ws fails %s", key)
            self.fail(key, info=why)

    # From the scheduler: once per loop

    def sync(self) -> None:
        """Report the jobs that have ended; a constant number of statements. Raises nothing."""
        if self._metrics is None:
            self._sync()
            return
        with self._metrics.sync_timed(self.team_name):
            self._sync()

    def _sync(self) -> None:
        now = self._clock()
        if now < self._quiet_until:
            return
        try:
            self._report()
            if now >= self._unwanted_at and self._end_unwanted():
                self._reconcile_at = now
            if now >= self._reconcile_at:
                self._reconcile()
                self._reconcile_at = now + RECONCILE_S
            if now >= self._gateways_at:
                self._look_for_gateways()
                self._gateways_at = now + LOOK_FOR_GATEWAYS_S
        except (EdgeWsError, SQLAlchemyError) as error:
            self.log.warning(
                "edge-ws: cannot report finished jobs, retrying in %g s: %s", AWAY_PAUSE_S, first_line(error)
            )
            self._quiet_until = now + AWAY_PAUSE_S
        except Exception:
            self.log.exception("edge-ws: cannot report finished jobs, retrying in %g s", AWAY_PAUSE_S)
            self._quiet_until = now + AWAY_PAUSE_S

    def _report(self) -> None:
        ended = self._store.jobs.ended(self._owner, self.team_name)
        self._told = Counter({job.key: self._told[job.key] for job in ended if job.key in self._told})
        if not ended:
            return
        outcomes = self._outcomes(ended)
        done = [job.key for job in ended if self._tell(job, outcomes[job.key])]
        if done:
            self._store.jobs.reported(self._owner, done)

    def _outcomes(self, ended: Iterable[EndedJob]) -> dict[JobKey, Outcome]:
        tasks = [job for job in ended if not workload.is_callback(job.key)]
        by_id: dict[str, str | None] = {}
        by_try: dict[tuple[str, str, str, int, int], str | None] = {}
        if tasks:
            with self._database.read() as connection:
                by_id = compat.task_states(connection, {job.subject for job in tasks})
                others = {verdict.attempt(job.key) for job in tasks if job.subject not in by_id}
                by_try = compat.task_states_by_try(connection, others)
        return {job.key: verdict.outcome(job, by_id=by_id, by_try=by_try) for job in ended}

    def _tell(self, job: EndedJob, outcome: Outcome) -> bool:
        """Put the event into the scheduler's buffer; return whether the row is dealt with.

        The scheduler passes over a task whose row somebody has locked, and forgets the event (3.3.2,
        process_executor_events): so a task's event is repeated until the task's state has changed.
        """
        key = workload.airflow_key(job.key, job.subject)
        if key is None:
            return True
        if outcome is Outcome.SUCCESS:
            self.success(key)
        elif outcome is Outcome.FAILED:
            self.fail(key, info=job.detail or None)
        else:
            self.running.discard(key)
        if outcome is Outcome.NOTHING or workload.is_callback(job.key):
            self._told.pop(job.key, None)
            return True
        self._told[job.key] += 1
        return self._told[job.key] >= TELLINGS

    def _end_unwanted(self) -> bool:
        """End rows whose task was marked, cleared or deleted while it was queued; tell if any was.

        No process has them, so nobody would ever tell their end.
        """
        begun = self._clock()
        with self._database.read() as connection:
            living = compat.living_schedulers(connection)
        ended = self._store.jobs.end_unwanted(
            self._owner, living, is_wanted(), self.team_name, lifeless_s=self._settings.lifeless_s
        )
        now = self._clock()
        self._unwanted_at = now + max(UNWANTED_S, UNWANTED_SHARE * (now - begun))
        if ended:
            self.log.info(
                "edge-ws: %d job(s) removed from their queues, as their tasks are no longer queued: %s%s",
                len(ended),
                ", ".join(map(_named, ended[:NAMED])),
                ", ..." if len(ended) > NAMED else "",
            )
        return bool(ended)

    def _reconcile(self) -> None:
        """Take over what dead schedulers have left, and give back the slots of keys that have no row of ours.

        Those were rolled back, deleted, ended unwanted, or adopted by another scheduler. All that this thread
        has queued is committed or rolled back by now: the scheduler never calls `sync` within a transaction
        of its own.
        """
        with self._database.read() as connection:
            living = compat.living_schedulers(connection)
        if self._owner in living:
            for key in self._store.jobs.inherit(self._owner, living):
                self.running.add(workload.airflow_key(key))
        if self.running:
            self.running &= {
                workload.airflow_key(key) for key in self._store.jobs.owned(self._owner, self.team_name)
            }

    def _look_for_gateways(self) -> None:
        """Say that jobs wait and that nobody is there to hand them out."""
        if self._awaits_migration:
            # An older release's table does not tell how often a gateway is seen.
            self._awaits_migration = not schema.has_all(compat.engine(), (gateway,))
            if self._awaits_migration:
                return
        left = self._store.views.stranded(self._owner, self.team_name)
        if left is None or left.waited_s < STRANDED_S:
            return
        seen = (
            "none has run yet, or the last one was shut down"
            if left.gateway is None or left.seen_s is None
            else f"the last one, on {left.gateway}, was seen {lasted(left.seen_s)} ago"
        )
        self.log.warning(
            "edge-ws: %d job(s) wait, the oldest for %s, and no gateway is alive to hand them out; %s. %s",
            left.jobs,
            lasted(left.waited_s),
            seen,
            NO_GATEWAY_ADVICE,
        )

    # From the scheduler: tasks that were another's, or have waited for too long

    def try_adopt_task_instances(self, tis: Sequence[Any]) -> Sequence[Any]:
        """Take over the jobs of a scheduler that is dead; return the tasks that are to be reset.

        A job that ended while nobody watched is taken over if its task believes itself running: `sync` then
        reports it. One whose task is still queued would only be failed, so it is reset. A running task whose
        row is gone (edge3 deletes rows) is left to Airflow's heartbeat: reset, it would run twice.
        """
        rows = {workload.task_row(ti, ti.try_number): ti for ti in tis}
        wanted = {key: str(ti.id) for key, ti in rows.items()}
        # Where they were queued before an upgrade to Airflow 3.4, their rows have keys without their ids.
        wanted |= {workload.without_id(key): subject for key, subject in wanted.items()}
        states = self._adopt(wanted, object_session(tis[0]) if tis else None)
        rejected = []
        for key, ti in rows.items():
            is_anothers = key in states and states[key] is None
            state = states.get(key) or states.get(workload.without_id(key))
            if state in _OPEN_STATES or (ti.state == "running" and not is_anothers):
                self.running.add(compat.ti_key(ti))
            else:
                rejected.append(ti)
        return rejected

    def _adopt(self, wanted: dict[JobKey, str], session: Session | None) -> dict[JobKey, str | None]:
        if session is None:
            return self._store.jobs.adopt(self._owner, wanted)
        # In the scheduler's transaction: it commits both takings-over or neither, and SQLite has but one
        # writer, which at this point is the scheduler. An OperationalError is the caller's to handle: it
        # rolls back and calls again.
        with compat.guarded(session) as connection:
            return self._store.jobs.adopt(self._owner, wanted, connection=connection)

    def revoke_task(self, *, ti: Any) -> None:  # noqa: ANN401
        """Take a task out of its queue; a worker that has it already finds its claim stale.

        Raises:
            NotImplementedError: with `[edge_ws] queued_timeout = never`; the scheduler then leaves it queued.
        """
        if not self._settings.gives_back_stuck_tasks:
            raise NotImplementedError
        try:
            self._store.jobs.revoke(workload.task_row(ti, ti.try_number))
        except (EdgeWsError, SQLAlchemyError) as error:
            # The next round's upsert takes the row over.
            self.log.warning("edge-ws could not revoke %s: %s", ti, first_line(error))
        self.running.discard(compat.ti_key(ti))

    # From the scheduler: what the DAG processor is to call

    def send_callback(self, request: Any) -> None:  # noqa: ANN401
        """Send a callback as Airflow's executors do, but without harm to the scheduler."""
        if self.callback_sink is None:
            super().send_callback(request)
        else:
            compat.send_callback(self.callback_sink, request)

    # From the api-server

    def get_task_log(self, ti: Any, try_number: int) -> tuple[list[str], list[str]]:  # noqa: ANN401
        """Return where the task runs and its log so far; nothing for a job that no worker has."""
        key = workload.task_row(ti, try_number)
        try:
            found = self._store.logs.running_log(key)
            if found is None:
                return self._edge3_log(key)
        except (EdgeWsError, SQLAlchemyError) as error:
            return [f"The log of the running task cannot be read: {first_line(error)}"], []
        return self._shown("edge-ws", found)

    def _edge3_log(self, key: JobKey) -> tuple[list[str], list[str]]:
        """As `get_task_log`, for a job that an edge3 worker may have."""
        found = self._store.logs.edge3_log(key)
        if found is None:
            return [], []
        # edge3 writes what it gets into the log folder, too: that of the api-server that got it. Where that
        # is this one, Airflow reads the file besides.
        if self._log_folder.size(found.log_path) >= found.cut + len(found.data):
            return [f"Running on edge3 worker {found.worker}; its log as far as it has arrived."], []
        return self._shown("edge3", found)

    @staticmethod
    def _shown(kind: str, found: RunningLog) -> tuple[list[str], list[str]]:
        messages = [f"Running on {kind} worker {found.worker}; its log as far as it has arrived:"]
        data = found.data
        later = found.cut - found.lost
        if later:
            messages.append(f"The first {later} bytes are left out until the task has ended.")
        if found.cut:
            data = data.partition(b"\n")[2]
        if found.lost:
            data = left_out(found.lost) + data
        return messages, [data.decode("utf-8", errors="replace")] if data else []

    # Duties without work

    def end(self) -> None:
        """Leave the workers at it: what they report meanwhile waits for the next scheduler."""
        self.log.info(
            "edge-ws: the executor ends; jobs go on, and their ends are reported by the next scheduler"
        )

    def terminate(self) -> None:
        """As `end`."""
        self.log.info("edge-ws: the executor is terminated; jobs go on")

    @staticmethod
    def get_cli_commands() -> list[Any]:
        """Return the commands that the provider info names too, for Airflow releases that ask here."""
        from edge_ws.cli.airflow import get_commands  # noqa: PLC0415 - the scheduler needs none of it

        return list(get_commands())
