"""{old, new} x {executor, gateway, worker} on tables that were migrated under them, on PostgreSQL.

The old gateway and its workers by WebSocket run through the migration; those at the new one wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product

import pytest
import sqlalchemy as sa

from tests.releases.conftest import Centre, prepared
from tests.releases.parts import (
    ENDS_WITHIN_S,
    STARTS_WITHIN_S,
    Executor,
    Release,
    Task,
    Worker,
    gateway,
    started_executor,
    starts,
    worker,
)
from tests.support.databases import Databases
from tests.support.execution_api import ExecutionApi, execution_api
from tests.support.jobs import Site, make_site
from tests.support.standalone import Server, ready
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

RELEASES = ("old", "new")
PAIRS = [
    ("old", "old", "websocket"),
    ("old", "new", "websocket"),
    ("old", "new", "longpoll"),
    ("new", "old", "websocket"),
    ("new", "old", "longpoll"),
    ("new", "new", "websocket"),
]
"""Releases of a worker and of the gateway that it is at, and how they speak."""
BACKUP_SCAN_S = 15.0
"""How often a gateway looks for itself that nothing wakes."""


@dataclass
class Fleet:
    """One data centre with all parts twice, and a worker for each way to combine them."""

    centre: Centre
    engine: sa.Engine
    site: Site
    api: ExecutionApi
    gateways: dict[str, Server]
    workers: dict[str, Worker]
    executors: dict[str, Executor]

    def value(self, query: str, **values: object) -> object:
        with self.engine.connect() as connection:
            return connection.scalar(sa.text(query), values)

    def write(self, statement: str, **values: object) -> None:
        with self.engine.begin() as connection:
            assert connection.execute(sa.text(statement), values).rowcount == 1

    def job_state(self, task: Task) -> object:
        """Return the state of the task's row; None: it is gone."""
        return self.value("SELECT state FROM edge_job WHERE command LIKE :ti", ti=f"%{task.id}%")

    def worker_state(self, name: str) -> object:
        return self.value("SELECT state FROM edge_worker WHERE worker_name = :name", name=name)

    def are_told(self, executor: Executor, *tasks: Task) -> None:
        """Wait until the executor has told that these have succeeded, each after one start."""
        wait_until(lambda: executor.has_told(*tasks), ENDS_WITHIN_S, every_s=0.1)
        assert {executor.told[task.id] for task in tasks} == {"success"}
        assert {starts(self.api, task) for task in tasks} == {1}


def name_of(of_worker: str, of_gateway: str, transport: str = "websocket") -> str:
    """Return the name, and queue, of the worker of that release at that gateway."""
    return f"{of_worker}-at-{of_gateway}-{transport}"


@pytest.fixture(scope="module")
def fleet(
    old: Release, new: Release, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("mixed")
    releases = {"old": old, "new": new}
    with ExitStack() as stack:
        url = stack.enter_context(databases.new("postgresql-18", migrated=False))
        centre = prepared(old, folder, url)
        api = stack.enter_context(execution_api())
        gateways = {
            name: stack.enter_context(gateway(release, folder, url, api))
            for name, release in releases.items()
        }
        ready(gateways["old"])
        site, workers = make_site(folder / "site"), {}

        def start(transport: str) -> None:
            for of_worker, of_gateway, by in PAIRS:
                if by == transport:
                    name, at = name_of(of_worker, of_gateway, by), gateways[of_gateway].url
                    made = worker(releases[of_worker], by, site, name, url=at, token=centre.token)
                    workers[name] = stack.enter_context(made)

        start("websocket")
        for one in (workers[name_of(release, "old")] for release in RELEASES):
            wait_until(one.takes_jobs, STARTS_WITHIN_S, every_s=0.1)
        centre.run(new, "-m", "edge_ws.cli", "db", "migrate")
        # The old gateway sees some of its workers for the first time on the new tables.
        start("longpoll")
        ready(*gateways.values())
        for one in workers.values():
            wait_until(one.takes_jobs, STARTS_WITHIN_S, every_s=0.1)
        executors = {
            name: stack.enter_context(started_executor(releases[name], folder, url, number))
            for number, name in enumerate(RELEASES, 7)
        }
        engine = sa.create_engine(url)
        stack.callback(engine.dispose)
        yield Fleet(centre, engine, site, api, gateways, workers, executors)


@pytest.mark.parametrize(("of_worker", "of_gateway", "transport"), PAIRS)
@pytest.mark.parametrize("of_executor", RELEASES)
def test_jobs_run_once_and_are_reported(
    fleet: Fleet, of_executor: str, of_gateway: str, of_worker: str, transport: str
) -> None:
    executor = fleet.executors[of_executor]
    tasks = executor.queue("hello", name_of(of_worker, of_gateway, transport), 3)
    fleet.are_told(executor, *tasks)
    for task in tasks:
        file = fleet.centre.folder / "central" / task.log_path
        wait_until(lambda file=file: file.exists() and "hello from the task" in file.read_text(), 30)
        assert file.read_text().count("hello from the task") == 1


def test_every_gateway_hears_of_a_changed_row(fleet: Fleet) -> None:
    names = [name_of(*pair) for pair in PAIRS]

    def applied(slots: int) -> bool:
        count = "SELECT count(*) FROM edge_ws_worker WHERE applied_concurrency = :n"
        return fleet.value(count, n=slots) == len(names)

    begun = time.monotonic()
    for slots in (3, 5, 4):
        for name in names:
            fleet.write("UPDATE edge_worker SET concurrency = :n WHERE worker_name = :w", n=slots, w=name)
        wait_until(partial(applied, slots), 30, every_s=0.05)
    # Three changes, one after the other, were not found by looking around.
    assert time.monotonic() - begun < 2 * BACKUP_SCAN_S


def test_logs_are_read_and_tasks_cancelled_across_releases(fleet: Fleet) -> None:
    other = {"old": "new", "new": "old"}
    running = {}
    for of_executor, of_worker in product(RELEASES, RELEASES):
        name = name_of(of_worker, other[of_worker])
        (running[of_executor, name],) = fleet.executors[of_executor].queue("wait", name)
    for (of_executor, _), task in running.items():
        wait_until(lambda task=task: fleet.job_state(task) == "running", ENDS_WITHIN_S, every_s=0.1)
        reader = fleet.executors[other[of_executor]]
        wait_until(lambda task=task, reader=reader: reader.log(task), 30, every_s=0.1)
    fleet.executors["new"].clear(*running.values())
    for task in running.values():
        fleet.api.refuse_heartbeat[task.id] = (410, {"reason": "not_found"})
    for task in running.values():
        wait_until(lambda task=task: fleet.job_state(task) != "running", 30, every_s=0.1)


@pytest.mark.parametrize("of_worker", RELEASES)
def test_a_new_gateway_spares_any_worker_in_maintenance(fleet: Fleet, of_worker: str) -> None:
    name, executor = name_of(of_worker, "new"), fleet.executors["new"]

    def ask(state: str) -> None:
        fleet.write("UPDATE edge_worker SET state = :state WHERE worker_name = :name", state=state, name=name)

    ask("maintenance request")
    wait_until(lambda: fleet.worker_state(name) == "maintenance mode", 30)
    (spared,) = executor.queue("hello", name)
    # Handed out by the same gateway, and later.
    fleet.are_told(executor, *executor.queue("hello", name_of("old", "new", "longpoll")))
    assert fleet.job_state(spared) == "queued"
    ask("maintenance exit")
    fleet.are_told(executor, spared)
    assert fleet.worker_state(name) in {"idle", "running"}


def test_an_old_gateway_spares_a_worker_that_its_host_put_into_maintenance(fleet: Fleet) -> None:
    name, executor = name_of("new", "old"), fleet.executors["old"]
    made = fleet.workers[name]
    made.host_verb("maintenance", "on", "-c", "new disk", "-w")
    wait_until(lambda: made.says("taking no new jobs"))
    (spared,) = executor.queue("hello", name)
    # Handed out by the same gateway, and later.
    fleet.are_told(executor, *executor.queue("hello", name_of("new", "old", "longpoll")))
    assert fleet.job_state(spared) == "queued"
    made.host_verb("maintenance", "off")
    fleet.are_told(executor, spared)


@pytest.mark.parametrize(("of_verb", "of_gateway"), [("old", "new"), ("new", "old")])
def test_verbs_reach_the_other_releases_gateway(
    fleet: Fleet, old: Release, new: Release, of_verb: str, of_gateway: str
) -> None:
    name = name_of(of_verb, of_gateway)
    words = ["set-worker-concurrency", "-H", name, "-c", "4", "-w"]
    fleet.centre.run({"old": old, "new": new}[of_verb], "-m", "edge_ws.cli", *words)


def test_the_old_release_is_at_ease_with_the_new_tables(fleet: Fleet, old: Release) -> None:
    assert "as this release needs them" in fleet.centre.run(old, "-m", "edge_ws.cli", "db", "check")
    assert "are up to date" in fleet.centre.run(old, "-m", "edge_ws.cli", "db", "migrate")
