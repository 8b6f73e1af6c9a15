from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.executors import workloads
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.callback import CallbackKey
from airflow.models.dagbag import DBDagBag
from airflow.models.db_callback_request import DbCallbackRequest
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from edge_ws.errors import SchemaError, UsageError
from edge_ws.protocol.frames import Inventory, Log
from edge_ws.protocol.ids import GatewayId, HostId, SiteId, WorkerName, new_id
from edge_ws.provider import compat, workload
from edge_ws.provider.dependencies import unmet
from edge_ws.provider.executor import (
    AWAY_PAUSE_S,
    LOOK_FOR_GATEWAYS_S,
    RECONCILE_S,
    TELLINGS,
    UNWANTED_S,
    EdgeWsExecutor,
)
from edge_ws.provider.info import get_provider_info
from edge_ws.provider.tasks import AirflowTasks
from edge_ws.server.views import show_job
from edge_ws.store.live import REPORTED
from edge_ws.store.logs import SHOWN_LOG
from edge_ws.store.records import Assignment, JobKey, LogBounds, Principal, Registration
from edge_ws.store.store import Store
from edge_ws.store.tables import epoch_now, gateway
from tests.support.centre import SCHEDULER, Centre, callback_workload
from tests.support.reports import SingleReports


class Clock:
    """Time as the test lets it pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def executor(centre: Centre, clock: Clock) -> EdgeWsExecutor:
    return make_executor(clock)


def make_executor(clock: Clock, job_id: object = SCHEDULER) -> EdgeWsExecutor:
    made = EdgeWsExecutor(clock=clock)
    made.job_id = job_id
    made.callback_sink = DatabaseCallbackSink()
    made.start()
    return made


def queue(executor: EdgeWsExecutor, item: Any, *, commit: bool = True) -> None:
    with create_session(scoped=False) as session:
        executor.queue_workload(item, session=session)
        if not commit:
            session.rollback()


def queued(centre: Centre, executor: EdgeWsExecutor, task_id: str = "press", **values: object) -> Any:
    """Make a task instance and queue it as the scheduler does."""
    ti = centre.task(task_id, **values)
    queue(executor, centre.workload(ti))
    return ti


def key_of(ti: Any) -> JobKey:
    return workload.task_row(ti, ti.try_number)


def end(centre: Centre, ti: Any, state: str) -> None:
    centre.set_row(key_of(ti), state=state, edge_worker="factory-7")


def let_the_scheduler_process(executor: EdgeWsExecutor) -> None:
    # The thread's own session, as in the scheduler's loop.
    with create_session() as session:
        SchedulerJobRunner.process_executor_events(
            executor=executor, job_id=SCHEDULER, scheduler_dag_bag=DBDagBag(), session=session
        )


def events(executor: EdgeWsExecutor) -> dict[Any, str]:
    return {key: str(state) for key, (state, _) in executor.event_buffer.items()}


def make_callback(centre: Centre) -> Any:
    callback_id = str(uuid.uuid4())
    centre.add_callback(callback_id)
    return callback_workload(callback_id)


def claimed(centre: Centre, executor: EdgeWsExecutor) -> tuple[Any, Store, Principal, Any]:
    """Queue a task and let a worker start it."""
    ti = queued(centre, executor)
    store, me = Store(centre.engine), Principal(worker=WorkerName("factory-7"), site=SiteId("site"))
    site, gateway = SiteId("site"), GatewayId("gateway")
    nothing = Inventory(
        site=site,
        hosts=(),
        dead_hosts=(),
        claims=(),
        revision=0,
        concurrency=8,
        queues=None,
        stale_slots=0,
        draining=False,
    )
    said = Registration(
        gateway=gateway, transport="websocket", concurrency=8, queues=None, inventory=nothing, sysinfo={}
    )
    store.workers.register(me, said)
    one = Assignment(key=key_of(ti), slots=1, worker=me.worker, site=site, concurrency=8)
    (claimed,) = store.dispatch.claim(gateway, [one], 10.0)
    SingleReports(store.reports).accept(me, claimed.claim, HostId("host"), start_within_s=70.0)
    SingleReports(store.reports).started(me, claimed.claim, HostId("host"))
    return ti, store, me, claimed.claim


@contextmanager
def without_our_tables(engine: sa.Engine) -> Iterator[None]:
    """Hide the job table, as a database that is away would."""
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE edge_job RENAME TO hidden")
    yield
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO edge_job")


@contextmanager
def counted(engine: sa.Engine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield statements
    sa.event.remove(engine, "before_cursor_execute", note)


class TestStart:
    @pytest.mark.usefixtures("centre")
    def test_airflow_loads_it(self) -> None:
        from airflow.executors.executor_loader import ExecutorLoader, ExecutorName

        name = ExecutorName(module_path=get_provider_info()["executors"][0], alias="edge_ws")
        loaded, _ = ExecutorLoader.import_executor_cls(name)
        assert loaded is EdgeWsExecutor
        types = getattr(loaded, "supported_workload_types", None)
        assert loaded.supports_callbacks if types is None else types == {"ExecuteTask", "ExecuteCallback"}
        assert loaded.supports_multi_team
        assert not loaded.is_local
        assert not loaded.serve_logs
        assert loaded(team_name="red").team_name == "red"

    def test_making_one_touches_no_database(self, centre: Centre) -> None:
        with counted(centre.engine) as statements:
            EdgeWsExecutor()
        assert statements == []

    def test_missing_tables_stop_the_scheduler_with_a_sentence(self, centre: Centre) -> None:
        with without_our_tables(centre.engine), pytest.raises(SchemaError, match="airflow db migrate"):
            EdgeWsExecutor().start()

    def test_what_only_gateways_lack_does_not(self, centre: Centre) -> None:
        with centre.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE edge_ws_worker RENAME COLUMN wish_comment TO hidden")
        with capture_logs() as said:
            EdgeWsExecutor().start()
        assert [one["log_level"] for one in said] == ["warning"]

    @pytest.mark.usefixtures("centre")
    def test_a_wrong_option_stops_the_scheduler_with_a_sentence(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__EDGE_WS__QUEUED_TIMEOUT", "600")
        with pytest.raises(UsageError, match=r"\[edge_ws\] queued_timeout is '600'"):
            EdgeWsExecutor().start()

    def test_its_end_is_quiet(self, executor: EdgeWsExecutor) -> None:
        executor.end()
        executor.terminate()

    def test_its_commands_are_those_of_the_provider(self) -> None:
        from edge_ws.cli.airflow import get_commands

        assert [group.name for group in EdgeWsExecutor.get_cli_commands()] == [
            group.name for group in get_commands()
        ]


class TestQueueWorkload:
    def test_the_row_comes_with_the_schedulers_commit(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = centre.task()
        with create_session(scoped=False) as session, prohibit_commit(session) as guard:
            session.merge(ti).queue = "hall-3"
            executor.queue_workload(centre.workload(ti), session=session)
            assert centre.rows() == {}
            guard.commit()
        (row,) = centre.rows().values()
        assert (row.state, row.edge_ws_owner, row.edge_ws_claim) == ("queued", SCHEDULER, None)
        assert executor.running == {compat.ti_key(ti)}
        assert executor.slots_occupied == 1
        assert executor.has_task(ti)

    def test_the_next_round_takes_the_row_over(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = queued(centre, executor)
        centre.set_row(
            key_of(ti), state="success", edge_worker="factory-7", edge_ws_claim="old", edge_ws_owner=None
        )
        queue(executor, centre.workload(ti))
        (row,) = centre.rows().values()
        assert (row.state, row.edge_worker, row.edge_ws_claim) == ("queued", None, None)
        assert row.edge_ws_owner == SCHEDULER

    def test_what_cannot_be_queued_is_failed_and_nothing_else_breaks(
        self, centre: Centre, executor: EdgeWsExecutor
    ) -> None:
        ti, other = centre.task(), centre.task()
        with without_our_tables(centre.engine), create_session(scoped=False) as session:
            session.merge(other).queue = "hall-3"
            session.flush()
            executor.queue_workload(centre.workload(ti), session=session)
        assert executor.running == set()
        assert events(executor) == {compat.ti_key(ti): "failed"}
        with centre.engine.connect() as connection:
            assert connection.scalars(sa.text("SELECT queue FROM task_instance WHERE queue = 'hall-3'")).all()
        let_the_scheduler_process(executor)
        assert centre.task_state(ti) == "failed"

    def test_a_transaction_that_is_lost_anyway_fails_nobody(
        self, centre: Centre, executor: EdgeWsExecutor
    ) -> None:
        ti = centre.task()
        session = settings_session()
        session.execute(sa.text("SELECT 1"))
        session.connection().invalidate()
        executor.queue_workload(centre.workload(ti), session=session)
        session.close()
        assert executor.running == set()
        assert events(executor) == {}

    def test_a_callback(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        item = make_callback(centre)
        queue(executor, item)
        (key,) = centre.rows()
        assert key == workload.callback_row(item.callback.id)
        assert executor.running == {CallbackKey(item.callback.id)}

    def test_another_kind_of_workload_is_failed(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        item = workloads.TestConnection(
            connection_test_id=uuid.uuid4(), connection_id="db", timeout=1, token=""
        )
        with capture_logs() as logged:
            queue(executor, item)
        assert events(executor) == {item.key: "failed"}
        assert any("TestConnection" in str(line) for line in logged)
        let_the_scheduler_process(executor)
        assert centre.rows() == {}

    def test_something_unheard_of_raises_nothing(self, executor: EdgeWsExecutor) -> None:
        queue(executor, object())
        assert events(executor) == {}


def settings_session() -> Session:
    from airflow import settings

    return settings.NonScopedSession()


class TestSync:
    @pytest.mark.parametrize(
        ("row", "before", "task_id", "after"),
        [
            ("success", "success", "press", "success"),
            ("success", "running", "press", "failed"),
            ("success", "running", "weld", "up_for_retry"),
            ("success", "queued", "press", "queued"),
            ("success", "deferred", "press", "deferred"),
            ("success", "up_for_reschedule", "press", "up_for_reschedule"),
            ("success", "scheduled", "press", "scheduled"),
            ("success", "skipped", "press", "skipped"),
            ("failed", "running", "press", "failed"),
            ("failed", "running", "weld", "up_for_retry"),
            ("failed", "queued", "press", "failed"),
            ("failed", "queued", "weld", "up_for_retry"),
            ("failed", "failed", "press", "failed"),
            ("failed", "success", "press", "success"),
            ("failed", "up_for_retry", "weld", "up_for_retry"),
            ("failed", "up_for_reschedule", "press", "up_for_reschedule"),
            ("failed", None, "press", None),
        ],
    )
    def test_what_becomes_of_the_task(
        self,
        centre: Centre,
        executor: EdgeWsExecutor,
        *,
        row: str,
        before: str | None,
        task_id: str,
        after: str | None,
    ) -> None:
        ti = queued(centre, executor, task_id)
        centre.set_task(ti, state=before)
        end(centre, ti, row)
        for _ in range(2):
            executor.sync()
            let_the_scheduler_process(executor)
        assert centre.task_state(ti) == after
        assert executor.running == set()
        assert centre.rows()[key_of(ti)].edge_ws_owner == REPORTED

    def test_a_task_that_died_is_called_back_and_tried_again(
        self, centre: Centre, executor: EdgeWsExecutor
    ) -> None:
        others = [queued(centre, executor, "weld") for _ in range(2)]
        for ti in others:
            centre.set_task(ti, state="running")
            end(centre, ti, "failed")
        executor.sync()
        let_the_scheduler_process(executor)
        assert [centre.task_state(ti) for ti in others] == ["up_for_retry"] * 2
        with create_session(scoped=False) as session:
            asked = [
                one.get_callback_request().ti.run_id for one in session.scalars(sa.select(DbCallbackRequest))
            ]
        assert sorted(asked) == sorted(ti.run_id for ti in others)

    @pytest.mark.parametrize("row", ["success", "failed"])
    @pytest.mark.parametrize("task_id", ["press", "weld"])
    def test_a_task_that_was_cleared_while_it_ran_is_free_again(
        self, centre: Centre, executor: EdgeWsExecutor, row: str, task_id: str
    ) -> None:
        ti = queued(centre, executor, task_id)
        centre.set_task(ti, state="running")
        centre.clear(ti)
        assert centre.task_state(ti) == "restarting"
        executor.sync()
        assert centre.task_state(ti) == "restarting"
        end(centre, ti, row)
        executor.sync()
        let_the_scheduler_process(executor)
        assert centre.task_state(ti) is None
        executor.sync()
        assert executor.event_buffer == {}
        assert centre.rows()[key_of(ti)].edge_ws_owner == REPORTED

    def test_a_task_that_is_gone_gives_its_slot_back(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = queued(centre, executor)
        with centre.engine.begin() as connection:
            connection.execute(TaskInstance.__table__.delete())
        end(centre, ti, "failed")
        executor.sync()
        assert executor.running == set()
        assert executor.event_buffer == {}

    @pytest.mark.parametrize("state", ["success", "failed"])
    def test_a_callbacks_end_is_reported_once(
        self, centre: Centre, executor: EdgeWsExecutor, state: str | None
    ) -> None:
        item = make_callback(centre)
        queue(executor, item)
        centre.set_row(workload.callback_row(item.callback.id), state=state)
        executor.sync()
        assert events(executor) == {CallbackKey(item.callback.id): state}
        assert executor.running == set()
        let_the_scheduler_process(executor)
        executor.sync()
        assert executor.event_buffer == {}

    def test_jobs_of_other_executors_are_left_alone(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, make_executor(clock, job_id=8))
        end(centre, ti, "failed")
        executor.sync()
        assert executor.event_buffer == {}
        assert centre.rows()[key_of(ti)].edge_ws_owner == 8

    def test_an_event_that_was_not_heard_is_repeated(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = queued(centre, executor)
        end(centre, ti, "failed")
        for _ in range(TELLINGS):
            assert centre.rows()[key_of(ti)].edge_ws_owner == SCHEDULER
            executor.sync()
            assert events(executor) == {compat.ti_key(ti): "failed"}
            executor.get_event_buffer()
        assert centre.rows()[key_of(ti)].edge_ws_owner == REPORTED

    def test_a_constant_number_of_statements(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        executor.sync()  # reconciles
        counts = []
        for number in (0, 1, 12):
            tis = [queued(centre, executor) for _ in range(number)]
            for ti in tis:
                centre.set_task(ti, state="success")
                end(centre, ti, "success")
            with counted(centre.engine) as statements:
                executor.sync()
            counts.append(len(statements))
            assert executor.running == set()
        assert counts[0] == 1
        assert counts[1] == counts[2] <= 4

    def test_it_survives_a_database_that_is_away(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, executor)
        end(centre, ti, "failed")
        with without_our_tables(centre.engine), capture_logs() as logged:
            executor.sync()
            executor.sync()
        assert [line["log_level"] for line in logged] == ["warning"]
        executor.sync()
        assert executor.event_buffer == {}
        clock.now += AWAY_PAUSE_S
        executor.sync()
        assert events(executor) == {compat.ti_key(ti): "failed"}

    def test_the_heartbeat_does_it(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = queued(centre, executor)
        end(centre, ti, "failed")
        executor.heartbeat()
        assert events(executor) == {compat.ti_key(ti): "failed"}


class TestReconcile:
    def test_a_rolled_back_key_goes_and_one_with_a_row_stays(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        executor.sync()
        kept = queued(centre, executor)
        lost = centre.task()
        queue(executor, centre.workload(lost), commit=False)
        item = make_callback(centre)
        queue(executor, item)
        executor.sync()
        assert executor.running == {compat.ti_key(kept), compat.ti_key(lost), CallbackKey(item.callback.id)}
        clock.now += RECONCILE_S
        executor.sync()
        assert executor.running == {compat.ti_key(kept), CallbackKey(item.callback.id)}

    def test_a_deleted_row_gives_its_slot_back(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, executor)
        centre.delete_row(key_of(ti))
        clock.now += RECONCILE_S
        executor.sync()
        assert executor.running == set()


UNWANTED = (
    "success",
    "failed",
    "skipped",
    "removed",
    "upstream_failed",
    "up_for_retry",
    "up_for_reschedule",
    "deferred",
    "scheduled",
    None,
)
"""States of a task that no executor has."""


class TestNobodys:
    """A row that no worker has, and that nothing waits for any more."""

    @staticmethod
    def look_again(executor: EdgeWsExecutor, clock: Clock) -> None:
        clock.now += UNWANTED_S
        executor.sync()

    @pytest.mark.parametrize("state", UNWANTED)
    def test_a_task_that_is_not_queued_any_more_gives_row_and_slot_back(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, state: str | None
    ) -> None:
        ti, other = queued(centre, executor), queued(centre, executor)
        self.look_again(executor, clock)
        assert executor.slots_occupied == 2
        centre.set_task(ti, state=state)
        self.look_again(executor, clock)
        assert executor.running == {compat.ti_key(other)}
        rows = centre.rows()
        assert (rows[key_of(ti)].state, rows[key_of(ti)].edge_ws_owner) == ("removed", REPORTED)
        assert rows[key_of(other)].state == "queued"
        assert executor.event_buffer == {}
        let_the_scheduler_process(executor)
        assert centre.task_state(ti) == state

    @pytest.mark.parametrize("state", ["queued", "running", "restarting"])
    def test_a_task_that_somebody_may_have_keeps_it(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, state: str
    ) -> None:
        ti = queued(centre, executor)
        centre.set_task(ti, state=state)
        self.look_again(executor, clock)
        assert centre.rows()[key_of(ti)].state == "queued"
        assert executor.running == {compat.ti_key(ti)}

    @staticmethod
    def verdict(centre: Centre, ti: TaskInstance, tmp_path: Path) -> str:
        tasks = AirflowTasks(centre.engine, lambda: tmp_path, unmet)
        row = show_job(Store(centre.engine).views, ti.dag_id, ti.run_id, ti.task_id, tasks=tasks)
        assert row["code"] == "left_queue"
        return str(row["verdict"])

    def test_a_marked_task(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, tmp_path: Path
    ) -> None:
        ti = queued(centre, executor)
        centre.set_task(ti, state="success")
        self.look_again(executor, clock)
        said = self.verdict(centre, ti, tmp_path)
        assert said.startswith("The task was marked success while it was queued: its row left the queue ")

    def test_a_cleared_task(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, tmp_path: Path
    ) -> None:
        ti = queued(centre, executor)
        centre.clear(ti)
        self.look_again(executor, clock)
        assert centre.rows()[key_of(ti)].state == "removed"
        assert executor.running == set()
        # From Airflow 3.4 on it is at its next try then, which is said.
        assert self.verdict(centre, ti, tmp_path).startswith("The task was cleared while it was queued")

    def test_a_deleted_run(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, tmp_path: Path
    ) -> None:
        ti = queued(centre, executor)
        centre.delete_run(ti)
        self.look_again(executor, clock)
        assert centre.rows()[key_of(ti)].state == "removed"
        assert executor.running == set()
        said = self.verdict(centre, ti, tmp_path)
        assert said.startswith("The task was marked, cleared or deleted while it was queued: ")

    def test_a_task_that_is_queued_again_meanwhile_is_not_ended(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, executor)
        centre.set_task(ti, state="scheduled")
        centre.set_task(ti, state="queued")
        queue(executor, centre.workload(ti))
        self.look_again(executor, clock)
        assert centre.rows()[key_of(ti)].state == "queued"
        assert executor.running == {compat.ti_key(ti)}

    @pytest.mark.parametrize(
        ("state", "stays"), [("queued", True), ("running", True), ("success", False), (None, False)]
    )
    def test_a_callback(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, state: str | None, stays: bool
    ) -> None:
        item = make_callback(centre)
        queue(executor, item)
        self.look_again(executor, clock)
        assert executor.running == {CallbackKey(item.callback.id)}
        centre.set_callback(item.callback.id, state)
        self.look_again(executor, clock)
        row = centre.rows()[workload.callback_row(item.callback.id)]
        assert row.state == ("queued" if stays else "removed")
        assert (executor.running != set()) is stays
        assert executor.event_buffer == {}

    @pytest.mark.parametrize("state", ["restarting", "running"])
    @pytest.mark.parametrize("lifeless_s", [300, 900])
    def test_what_an_edge3_worker_had_and_left(
        self,
        centre: Centre,
        clock: Clock,
        state: str,
        lifeless_s: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT", str(lifeless_s))
        executor = make_executor(clock)
        ti = queued(centre, executor)
        centre.set_task(ti, state="failed")
        now, silence = datetime.now(UTC), timedelta(seconds=lifeless_s)
        last = now - silence + timedelta(minutes=1)
        centre.set_row(key_of(ti), state=state, edge_worker="e1", last_update=last)
        self.look_again(executor, clock)
        assert centre.rows()[key_of(ti)].state == state
        centre.set_row(key_of(ti), last_update=now - silence - timedelta(minutes=1))
        self.look_again(executor, clock)
        assert centre.rows()[key_of(ti)].state == "removed"
        assert executor.running == set()

    def test_what_a_worker_of_ours_has_is_its_claims(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti, *_ = claimed(centre, executor)
        centre.set_task(ti, state="failed")
        centre.set_row(key_of(ti), last_update=datetime.now(UTC) - timedelta(hours=1))
        self.look_again(executor, clock)
        assert centre.rows()[key_of(ti)].state == "running"
        assert executor.running == {compat.ti_key(ti)}

    def test_whose_rows_it_ends(self, centre: Centre, clock: Clock) -> None:
        for job_id, state in ((5, "running"), (6, "failed"), (SCHEDULER, "running")):
            centre.scheduler(job_id, state)
        owners = {5: "queued", 6: "removed", SCHEDULER: "removed"}
        tis = {owner: queued(centre, make_executor(clock, job_id=owner)) for owner in owners}
        edge3s = queued(centre, make_executor(clock, job_id=6))
        edge3s_old = queued(centre, make_executor(clock, job_id=6))
        centre.set_row(key_of(edge3s), edge_ws_owner=None)
        long_ago = datetime.now(UTC) - timedelta(hours=2)
        centre.set_row(key_of(edge3s_old), edge_ws_owner=None, queued_dttm=long_ago)
        reds = queued(centre, make_executor(clock, job_id=SCHEDULER))
        centre.set_row(key_of(reds), team_name="red")
        for ti in (*tis.values(), edge3s, edge3s_old, reds):
            centre.set_task(ti, state="failed")
        make_executor(clock).sync()
        rows = centre.rows()
        assert {owner: rows[key_of(ti)].state for owner, ti in tis.items()} == owners
        assert rows[key_of(edge3s)].state == "queued"
        assert rows[key_of(edge3s_old)].state == "removed"
        assert rows[key_of(reds)].state == "queued"

    def test_a_constant_number_of_statements(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        executor.sync()
        counts = []
        for number in (0, 1, 12):
            tis = [queued(centre, executor) for _ in range(number)]
            for ti in tis:
                centre.set_task(ti, state="failed")
            clock.now += UNWANTED_S
            with counted(centre.engine) as statements:
                executor.sync()
            counts.append(len(statements))
            assert executor.running == set()
        assert counts[0] <= 3
        assert counts[1] == counts[2] <= 10


class TestGateways:
    """Jobs that wait while nobody is there to hand them out are said in the scheduler's log."""

    @staticmethod
    def sync(executor: EdgeWsExecutor) -> list[str]:
        with capture_logs() as logged:
            executor.sync()
        return [line["event"] % line.get("positional_args", ()) for line in logged]

    @staticmethod
    def waited(centre: Centre, ti: Any, minutes: float) -> None:
        centre.set_row(key_of(ti), queued_dttm=datetime.now(UTC) - timedelta(minutes=minutes))

    @staticmethod
    def gateway(centre: Centre, seen_s: float) -> None:
        Store(centre.engine).liveness.announce(GatewayId(new_id()), "api-1", 7)
        with centre.engine.begin() as connection:
            connection.execute(gateway.update().values(seen_at=epoch_now() - seen_s))

    def test_once_a_minute(self, centre: Centre, executor: EdgeWsExecutor, clock: Clock) -> None:
        for minutes in (5, 3):
            self.waited(centre, queued(centre, executor), minutes)
        (told,) = self.sync(executor)
        assert told.startswith(
            "edge-ws: 2 job(s) wait, the oldest for 5 min, and no gateway is alive to hand them out;"
            " none has run yet, or the last one was shut down. "
        )
        assert "[edge_ws] api_enabled" in told
        assert "edge-ws server" in told
        clock.now += LOOK_FOR_GATEWAYS_S - 1
        assert self.sync(executor) == []
        self.gateway(centre, 3600.0)
        clock.now += 1
        (told,) = self.sync(executor)
        assert "the last one, on api-1, was seen 60 min ago" in told

    def test_one_that_is_alive_is_not_spoken_of(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        self.waited(centre, queued(centre, executor), 5)
        self.gateway(centre, 10.0)
        assert self.sync(executor) == []
        clock.now += LOOK_FOR_GATEWAYS_S - 1
        executor.sync()
        # Once a minute a statement more, not at each look.
        clock.now += 1
        counts = []
        for _ in range(3):
            with counted(centre.engine) as statements:
                executor.sync()
            counts.append(len(statements))
        assert counts == [2, 1, 1]

    def test_what_has_just_been_queued_is_not_spoken_of(
        self, centre: Centre, executor: EdgeWsExecutor
    ) -> None:
        queued(centre, executor)
        assert self.sync(executor) == []

    def test_what_runs_and_what_is_anothers_do_not_wait(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        running, anothers = queued(centre, executor), queued(centre, make_executor(clock, job_id=8))
        self.waited(centre, anothers, 5)
        centre.set_row(key_of(running), state="running", edge_worker="e1")
        assert self.sync(executor) == []


class TestAdoption:
    """A scheduler that has died had job id 6."""

    def adopt(self, executor: EdgeWsExecutor, *, commit: bool = True) -> tuple[set[str], set[str]]:
        """Adopt all task instances as the scheduler does; return run ids (adopted, rejected)."""
        with create_session(scoped=False) as session:
            # The scheduler has written in this transaction before it asks: on SQLite nobody else can now.
            session.execute(sa.text("UPDATE task_instance SET unixname = 'adopted'"))
            tis = session.scalars(sa.select(TaskInstance).where(TaskInstance.task_id == "press")).all()
            tis = [ti for ti in tis if ti.state in ("queued", "running", "restarting")]
            rejected = executor.try_adopt_task_instances(tis)
            found = {ti.run_id for ti in tis} - {ti.run_id for ti in rejected}, {ti.run_id for ti in rejected}
            if not commit:
                session.rollback()
        return found

    @pytest.mark.parametrize("row", ["queued", "restarting", "running"])
    @pytest.mark.parametrize("state", ["queued", "running"])
    def test_a_job_that_goes_on_is_taken_over(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, row: str, state: str | None
    ) -> None:
        ti = queued(centre, make_executor(clock, job_id=6))
        centre.set_row(key_of(ti), state=row)
        centre.set_task(ti, state=state)
        assert self.adopt(executor) == ({ti.run_id}, set())
        assert executor.running == {compat.ti_key(ti)}
        assert centre.rows()[key_of(ti)].edge_ws_owner == SCHEDULER

    @pytest.mark.skipif(
        not compat.KEYS_ARE_IDS, reason="the id is no part of the row's key before Airflow 3.4"
    )
    def test_a_job_from_before_an_upgrade_is_taken_over(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, make_executor(clock, job_id=6))
        old = workload.without_id(key_of(ti))
        centre.set_row(key_of(ti), state="running", task_instance_id="")
        centre.set_task(ti, state="running")
        assert self.adopt(executor) == ({ti.run_id}, set())
        assert centre.rows()[old].edge_ws_owner == SCHEDULER
        centre.set_row(old, state="failed", edge_worker="factory-7")
        executor.sync()
        assert events(executor) == {compat.ti_key(ti): "failed"}

    @pytest.mark.parametrize("row", ["success", "failed"])
    def test_an_end_that_nobody_reported_is_reported(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, row: str
    ) -> None:
        ti = queued(centre, make_executor(clock, job_id=6))
        centre.set_task(ti, state="running")
        end(centre, ti, row)
        centre.set_row(key_of(ti), edge_ws_owner=None)
        assert self.adopt(executor) == ({ti.run_id}, set())
        executor.sync()
        assert events(executor) == {compat.ti_key(ti): row}

    def test_a_task_whose_job_ended_before_it_ran_is_reset(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, make_executor(clock, job_id=6))
        end(centre, ti, "failed")
        assert self.adopt(executor) == (set(), {ti.run_id})

    def test_a_queued_task_without_a_row_is_reset(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = centre.task(state="queued")
        assert self.adopt(executor) == (set(), {ti.run_id})
        assert executor.running == set()

    def test_a_running_task_without_a_row_is_left_running(
        self, centre: Centre, executor: EdgeWsExecutor
    ) -> None:
        ti = centre.task(state="running")
        assert self.adopt(executor) == ({ti.run_id}, set())

    @pytest.mark.skipif(compat.KEYS_ARE_IDS, reason="the id is part of the row's key from Airflow 3.4 on")
    def test_a_row_of_the_same_try_under_another_id_is_not_the_tasks(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, make_executor(clock, job_id=6))
        centre.set_row(key_of(ti), state="running")
        centre.set_task(ti, state="running", id=uuid.uuid4())
        assert self.adopt(executor) == (set(), {ti.run_id})
        assert centre.rows()[key_of(ti)].edge_ws_owner == 6

    def test_it_is_undone_with_the_schedulers_transaction(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, make_executor(clock, job_id=6))
        self.adopt(executor, commit=False)
        assert centre.rows()[key_of(ti)].edge_ws_owner == 6
        clock.now += RECONCILE_S
        executor.sync()
        assert executor.running == set()

    def test_nothing_to_adopt(self, executor: EdgeWsExecutor) -> None:
        assert executor.try_adopt_task_instances([]) == []

    def test_task_instances_of_no_session(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ti = queued(centre, make_executor(clock, job_id=6))
        assert executor.try_adopt_task_instances([ti]) == []
        assert centre.rows()[key_of(ti)].edge_ws_owner == SCHEDULER


class TestInheritance:
    """What a dead scheduler leaves, and no task instance leads to."""

    @pytest.fixture(autouse=True)
    def _schedulers(self, centre: Centre) -> None:
        centre.scheduler(5, "running")
        centre.scheduler(6, "failed")
        centre.scheduler(SCHEDULER, "running")

    @pytest.mark.parametrize("state", ["queued", "running", "success"])
    def test_its_callbacks_are_taken_over(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, state: str
    ) -> None:
        item = make_callback(centre)
        queue(make_executor(clock, job_id=6), item)
        key = workload.callback_row(item.callback.id)
        centre.set_row(key, state=state)
        executor.sync()
        assert centre.rows()[key].edge_ws_owner == SCHEDULER
        assert executor.running == {CallbackKey(item.callback.id)}
        centre.set_row(key, state="success")
        executor.sync()
        assert events(executor) == {CallbackKey(item.callback.id): "success"}
        assert executor.running == set()

    def test_its_tasks_that_have_ended_are_nobodys(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock
    ) -> None:
        ended, going_on = (queued(centre, make_executor(clock, job_id=6)) for _ in range(2))
        end(centre, ended, "success")
        executor.sync()
        assert centre.rows()[key_of(ended)].edge_ws_owner == REPORTED
        assert centre.rows()[key_of(going_on)].edge_ws_owner == 6
        assert executor.running == set()
        assert executor.event_buffer == {}

    @pytest.mark.parametrize("owner", [5, None])
    def test_what_others_still_watch_is_theirs(
        self, centre: Centre, executor: EdgeWsExecutor, clock: Clock, owner: int | None
    ) -> None:
        other = make_executor(clock, job_id=owner)
        ti = queued(centre, other)
        item = make_callback(centre)
        queue(other, item)
        end(centre, ti, "failed")
        before = {key: row.edge_ws_owner for key, row in centre.rows().items()}
        executor.sync()
        assert {key: row.edge_ws_owner for key, row in centre.rows().items()} == before
        assert executor.running == set()


class TestRevoke:
    def test_the_row_goes(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = queued(centre, executor)
        executor.revoke_task(ti=ti)
        assert centre.rows() == {}
        assert executor.running == set()
        assert executor.event_buffer == {}

    def test_never_means_never(self, centre: Centre, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
        monkeypatch.setenv("AIRFLOW__EDGE_WS__QUEUED_TIMEOUT", "never")
        executor = make_executor(clock)
        ti = queued(centre, executor)
        with pytest.raises(NotImplementedError):
            executor.revoke_task(ti=ti)
        assert key_of(ti) in centre.rows()
        assert executor.running == {compat.ti_key(ti)}

    def test_a_database_that_is_away_raises_nothing(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = queued(centre, executor)
        with without_our_tables(centre.engine):
            executor.revoke_task(ti=ti)
        assert executor.running == set()


class TestOwner:
    @pytest.mark.parametrize("job_id", [None, "scheduled__1"])
    def test_without_a_number_it_takes_one_that_no_scheduler_has(
        self, centre: Centre, clock: Clock, job_id: object
    ) -> None:
        executor = make_executor(clock, job_id=job_id)
        ti = queued(centre, executor)
        owner = centre.rows()[key_of(ti)].edge_ws_owner
        assert -(2**31) <= owner < 0
        end(centre, ti, "failed")
        executor.sync()
        assert events(executor) == {compat.ti_key(ti): "failed"}

    def test_a_number_as_text_is_the_number(self, centre: Centre, clock: Clock) -> None:
        ti = queued(centre, make_executor(clock, job_id="12"))
        assert centre.rows()[key_of(ti)].edge_ws_owner == 12


class TestTaskLog:
    def test_a_job_without_a_claim_of_ours(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = queued(centre, executor)
        assert executor.get_task_log(ti, 1) == ([], [])
        assert executor.get_task_log(ti, 2) == ([], [])

    def test_the_worker_and_what_has_arrived(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti, store, me, claim = claimed(centre, executor)
        messages, logs = executor.get_task_log(ti, 1)
        assert "factory-7" in messages[0]
        assert logs == []
        SingleReports(store.reports).append_log(me, claim, 0, b'{"event": "one"}\n')
        SingleReports(store.reports).append_log(me, claim, 17, b'{"event": "tw\xff"}\n')
        messages, logs = executor.get_task_log(ti, 1)
        assert logs == ['{"event": "one"}\n{"event": "tw\N{REPLACEMENT CHARACTER}"}\n']

    def test_a_long_log_says_what_is_left_out(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti, store, me, claim = claimed(centre, executor)
        line = b"x" * 1023 + b"\n"
        for number in range(9):
            SingleReports(store.reports).append_log(me, claim, number * 2**20, line * 1024)
        messages, (text,) = executor.get_task_log(ti, 1)
        assert "left out" in messages[1]
        assert text.startswith("xxx")
        assert set(text.splitlines()) == {"x" * 1023}

    @pytest.mark.parametrize("bounds", [LogBounds(2**20, 2**20), LogBounds(2**20, SHOWN_LOG)])
    def test_a_log_over_a_limit_says_so_itself_while_the_task_runs_and_after(
        self, centre: Centre, executor: EdgeWsExecutor, bounds: LogBounds
    ) -> None:
        ti, store, me, claim = claimed(centre, executor)
        line = b'{"event": "' + b"x" * 1010 + b'"}\n'
        for number in range(11):
            frame = Log(claim=claim, offset=number * 2**20, data=line * 1024)
            store.reports.append_logs([(me, frame)], {me.worker: bounds})
        messages, (text,) = executor.get_task_log(ti, 1)
        told, *others = text.splitlines()
        size = int(json.loads(told)["event"].split()[0])
        assert "left out here, for good: it was over a limit of [edge_ws]" in told
        assert set(others) == {line.decode().strip()}
        later = int(messages[1].split()[2])
        assert 0 < later < len(line) * 1024 * 2
        whole = b"".join(store.logs.log_chunks(claim))
        (at_last,) = [one for one in whole.splitlines() if b"left out" in one]
        assert abs(int(json.loads(at_last)["event"].split()[0]) - size) <= len(line)

    def test_a_fresh_executor_can_tell_as_in_the_api_server(
        self, centre: Centre, executor: EdgeWsExecutor
    ) -> None:
        ti, *_ = claimed(centre, executor)
        assert "factory-7" in EdgeWsExecutor().get_task_log(ti, 1)[0][0]

    def test_a_database_that_is_away(self, centre: Centre, executor: EdgeWsExecutor) -> None:
        ti = queued(centre, executor)
        with without_our_tables(centre.engine):
            messages, logs = executor.get_task_log(ti, 1)
        assert "cannot be read" in messages[0]
        assert logs == []
