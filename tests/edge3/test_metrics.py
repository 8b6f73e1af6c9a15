"""Airflow's metrics of a worker and its jobs: edge3's names and tags, from edge3's own code and from ours."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from airflow.configuration import conf
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from edge_ws.protocol.frames import Accept, Ack, Bye, Finished, Go, Offer, Started, Status, Timers, Welcome
from edge_ws.protocol.ids import CONTROL
from edge_ws.provider.airflow_stats import AirflowStats
from edge_ws.provider.executor import EdgeWsExecutor
from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, worker
from tests.support.centre import SCHEDULER, Centre
from tests.support.gateway import Peer, connected, make_token, serving
from tests.support.statsd import Listener, statsd
from tests.support.waiting import until, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("migrated", ["sqlite"], indirect=True)]

QUEUES = ("metal", "wood")
TEAMS = [None, "plant-a"]
# The site's own facts among them, edge3's and ours.
SYSINFO = {
    "status": 20,
    "status_text": "all is well",
    "concurrency": 8,
    "free_concurrency": 7,
    "cpu_usage": 12.5,
    "free_disk_gb": 3,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def sending(stats: Any, stats_utils: Any) -> Iterator[Listener]:
    """Have one copy of Airflow's module send to a server of ours for the length of the block."""
    with statsd() as listener:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in listener.settings().items():
                patch.setenv(name, value)
            stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
            backend = stats._get_backend()
        # edge3's executor and ours would each initialise the copy of core's anew.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stats, "initialize", lambda **_: None)
            yield listener
        stats.initialize(factory=stats.NoStatsLogger, export_legacy_names=True)
        backend.statsd.close()


@pytest.fixture
def theirs(centre: Centre) -> Iterator[Listener]:
    """Where edge3 sends: it emits through the SDK's copy, which nobody but this initialises."""
    from airflow.sdk._shared.observability.metrics import stats
    from airflow.sdk.observability.metrics import stats_utils

    with sending(stats, stats_utils) as listener:
        yield listener


@pytest.fixture
def ours(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Where scheduler and api-server send: through core's copy. `[metrics]` is on."""
    from airflow._shared.observability.metrics import stats
    from airflow.observability.metrics import stats_utils

    with sending(stats, stats_utils) as listener:
        for name, value in listener.settings().items():
            monkeypatch.setenv(name, value)
        yield listener


def new_workload(centre: Centre) -> Any:
    return centre.workload(centre.task(queue=QUEUES[0]))


def queue(executor: EdgeWsExecutor, workload: Any) -> None:
    with create_session(scoped=False) as session:
        executor.queue_workload(workload, session=session)


def our_executor(team: str | None) -> EdgeWsExecutor:
    executor = EdgeWsExecutor(team_name=team)
    executor.job_id = SCHEDULER
    executor.start()
    return executor


class Edge3Worker:
    """A worker of edge3's at its real routes."""

    def __init__(self, name: str, team: str | None) -> None:
        self.name = name
        self.team = team

    def _body(self, state: str, jobs: int) -> Any:
        from airflow import __version__ as core
        from airflow.providers.edge3 import __version__ as edge3
        from airflow.providers.edge3.models.edge_worker import EdgeWorkerState
        from airflow.providers.edge3.worker_api.datamodels import WorkerStateBody

        sysinfo = {**SYSINFO, "airflow_version": core, "edge_provider_version": edge3}
        return WorkerStateBody(
            state=EdgeWorkerState(state),
            jobs_active=jobs,
            queues=list(QUEUES),
            sysinfo=sysinfo,
            team_name=self.team,
        )

    def say(self, state: str, jobs: int = 0) -> None:
        from airflow.providers.edge3.worker_api.routes import worker as routes

        verb = routes.register if state == "starting" else routes.set_state
        with create_session(scoped=False) as session:
            verb(self.name, self._body(state, jobs), session)

    def run_job(self, end: TaskInstanceState) -> None:
        from airflow.providers.edge3.worker_api.datamodels import WorkerQueuesBody
        from airflow.providers.edge3.worker_api.routes import jobs

        asked = WorkerQueuesBody(queues=list(QUEUES), free_concurrency=1, supports_task_instance_uuid=True)
        with create_session(scoped=False) as session:
            job = jobs.fetch(self.name, asked, session)
        assert job is not None
        key = (job.dag_id, job.task_id, job.run_id, job.try_number, job.map_index)
        for state in (TaskInstanceState.RUNNING, end):
            with create_session(scoped=False) as session:
                jobs.state(*key, state, session, job.task_instance_id)


def what_edge3_says(centre: Centre, team: str | None) -> None:
    """A worker comes, runs one job well and one badly, is in maintenance, leaves; another is lost."""
    from airflow.providers.edge3.executors import EdgeExecutor

    executor, theirs = our_executor(team), EdgeExecutor(team_name=team)
    # Not the team's own, which nobody has set up.
    theirs.conf = conf
    one, lost = Edge3Worker("plant.7", team), Edge3Worker("plant.8", team)
    one.say("starting")
    one.say("idle")
    for end in (TaskInstanceState.SUCCESS, TaskInstanceState.FAILED):
        queue(executor, new_workload(centre))
        one.run_job(end)
    one.say("running", 1)
    one.say("maintenance mode")
    one.say("offline")
    lost.say("starting")
    lost.say("idle")
    with centre.engine.begin() as connection:
        long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
        here = edge_worker.c.worker_name == "plant.8"
        connection.execute(edge_worker.update().where(here).values(last_update=long_ago))
    theirs.sync()


async def beating(peer: Peer, is_so: Callable[[], bool]) -> None:
    """Have the worker's heartbeats go on until it is so."""
    with anyio.fail_after(20):
        while not is_so():
            await peer.send(Status(inventory=peer.inventory, sysinfo=SYSINFO))
            # The gateway tells of what it heard at its own heartbeats; the worker says it again until then.
            await anyio.sleep(0.2)


async def what_we_say(centre: Centre, team: str | None, ours: Listener) -> None:
    """The same with workers of ours at a gateway."""
    executor, store = our_executor(team), Store(centre.engine)
    # Made now: that takes seconds, in which a worker would fall silent.
    workloads = new_workload(centre), new_workload(centre)
    settings = GatewaySettings(hostname="test", timers=Timers(heartbeat_s=2.0), backup_scan_s=1.0)
    team_tag = f",team_name={team}" if team else ""

    def seen(name: str, value: str, worker_name: str = "plant.7") -> bool:
        return ours.last(f"airflow.edge_worker.{name},worker_name={worker_name}{team_tag}") == value

    with serving(store, settings, metrics=AirflowStats.wanted()) as gateway:
        token = make_token(store, "plant.*", team=team)
        async with connected(gateway, token, "plant.7", greet=False, queues=QUEUES) as peer:
            await peer.hello(team=team, sysinfo=SYSINFO, queues=QUEUES, capabilities=(CONTROL,))
            await peer.expect(Welcome)
            await beating(peer, lambda: seen("connected", "1"))
            for code in (0, 1):
                queue(executor, workloads[code])
                offer = await peer.expect(Offer)
                await peer.send(Accept(claim=offer.claim, host=peer.host))
                await peer.expect(Go)
                await peer.send(Started(claim=offer.claim, host=peer.host))
                await peer.expect(Ack)
                if code == 0:
                    await beating(peer, lambda: seen("jobs_active", "1"))
                await peer.send(
                    Finished(claim=offer.claim, exit_code=code, log_end=0, detail="", log_uploaded=True)
                )
                await peer.expect(Ack)
            peer.inventory = replace(peer.inventory, maintenance=True, draining=True)
            await beating(peer, lambda: seen("maintenance", "1"))
            await peer.send(Bye(reason="done"))
            await until(lambda: seen("connected", "0"))
        async with connected(gateway, token, "plant.8", greet=False, queues=QUEUES) as peer:
            await peer.hello(team=team, sysinfo=SYSINFO, queues=QUEUES, capabilities=(CONTROL,))
            await peer.expect(Welcome)
            await beating(peer, lambda: seen("connected", "1", "plant.8"))
        with centre.engine.begin() as connection:
            here = worker.c.worker_name == "plant.8"
            connection.execute(worker.update().where(here).values(seen_at=0.0))
        await until(lambda: seen("free_concurrency", "-1", "plant.8"))
    executor.sync()


def plain(names: set[tuple[str, str]]) -> set[tuple[str, str]]:
    # Airflow's own, of the copies' other users.
    return {one for one in names if "edge_" in one[0]}


@pytest.mark.parametrize("team", TEAMS)
async def test_names_and_tags_are_edge3s(
    centre: Centre, theirs: Listener, ours: Listener, team: str | None
) -> None:
    what_edge3_says(centre, team)
    with centre.engine.begin() as connection:
        connection.execute(sa.delete(edge_worker))
    await what_we_say(centre, team, ours)
    wait_until(lambda: any("sync.duration" in name for name, _ in theirs.names()))
    wait_until(lambda: any("sync.duration" in name for name, _ in ours.names()))

    wanted, found = plain(theirs.names()), plain(ours.names())
    assert len(wanted) > 40
    assert found == wanted


@pytest.mark.parametrize("team", TEAMS)
async def test_each_job_is_counted_once(centre: Centre, ours: Listener, team: str | None) -> None:
    await what_we_say(centre, team, ours)
    team_tag = f",team_name={team}" if team else ""
    counts = ours.counts()
    named = f"dag_id=factory,task_id=press,queue={QUEUES[0]}"
    assert counts[f"airflow.edge_worker.ti.start,{named}{team_tag}"] == 2
    for state in ("success", "failed"):
        assert counts[f"airflow.edge_worker.ti.finish,{named},state={state}{team_tag}"] == 1
        assert counts[f"airflow.edge_worker.ti.finish.{QUEUES[0]}.{state}.factory.press{team_tag}"] == 1
