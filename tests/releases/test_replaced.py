"""A whole site goes to the new release and back again, one part after the other, while a task runs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from edge_ws.worker.host_process import HostFiles, find_hosts, lock_holder
from tests.releases.conftest import Centre
from tests.releases.parts import (
    CONNECTED,
    ENDS_WITHIN_S,
    STARTS_WITHIN_S,
    Executor,
    Release,
    Task,
    Worker,
    gateway,
    replace_gateway,
    started_executor,
    starts,
    worker,
)
from tests.support.execution_api import ExecutionApi, execution_api
from tests.support.jobs import Site, make_site
from tests.support.standalone import Server, ready
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

QUEUE = "site"


@dataclass
class Play:
    """What is on the stage."""

    centre: Centre
    site: Site
    api: ExecutionApi
    gateway: Server
    worker: Worker

    def long_task(self, executor: Executor) -> tuple[Task, int]:
        """Queue a task that runs until it may end; return it and its process once it runs."""
        for name in ("wait", "enough"):
            (self.site.notes / name).unlink(missing_ok=True)
        (task,) = executor.queue("wait", QUEUE)
        pid = wait_until(self._pid, ENDS_WITHIN_S, every_s=0.05)
        return task, pid

    def _pid(self) -> int:
        note = self.site.notes / "wait"
        return int(note.read_text()) if note.exists() else 0

    def let_it_end(self) -> None:
        (self.site.notes / "enough").touch()

    def runs_a_job(self, executor: Executor) -> None:
        """Check that a new job goes all the way."""
        (task,) = executor.queue("hello", QUEUE)
        self.is_told(executor, task)

    def is_told(self, executor: Executor, task: Task) -> None:
        wait_until(lambda: executor.has_told(task), ENDS_WITHIN_S, every_s=0.1)
        assert executor.told[task.id] == "success"
        assert starts(self.api, task) == 1

    def replace_worker(self, release: Release, transport: str) -> None:
        self.worker.leave_at_once()
        self.worker.start(release, transport)
        wait_until(self.worker.takes_jobs, STARTS_WITHIN_S, every_s=0.1)

    def ask_for_shutdown(self) -> None:
        """Ask the worker to leave, as edge3's command line does; return once the gateway has heard of it."""
        engine = sa.create_engine(self.centre.database)
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE edge_worker SET state = 'shutdown request'"))

        def heard() -> object:
            with engine.connect() as connection:
                return connection.scalar(sa.text("SELECT wish_shutdown FROM edge_ws_worker"))

        wait_until(heard, 30, every_s=0.05)
        engine.dispose()

    def hosts(self) -> int:
        """Return how many job hosts live."""
        folder = self.worker.state / "hosts"
        return sum(lock_holder(HostFiles(folder, one)) is not None for one in find_hosts(folder))


def test_part_by_part_and_back_again(centre: Centre, old: Release, new: Release) -> None:
    folder, database = centre.folder, centre.database
    with ExitStack() as stack:
        api = stack.enter_context(execution_api())
        one = stack.enter_context(gateway(old, folder, database, api))
        ready(one)
        site = make_site(folder / "site")
        made = stack.enter_context(worker(old, "websocket", site, QUEUE, url=one.url, token=centre.token))
        play = Play(centre, site, api, one, made)
        wait_until(made.takes_jobs, STARTS_WITHIN_S, every_s=0.1)
        executor = stack.enter_context(started_executor(old, folder, database, 7))
        task, pid = play.long_task(executor)

        # The gateway, and too soon: it waits for the tables, the worker for it, and the task for nobody.
        replace_gateway(one, new)
        wait_until(lambda: made.says("run `airflow db migrate`"), STARTS_WITHIN_S, every_s=0.1)
        centre.run(new, "-m", "edge_ws.cli", "db", "migrate")
        before = one.process
        ready(one)
        assert one.process is before
        wait_until(lambda: made.says(CONNECTED) == 2, STARTS_WITHIN_S, every_s=0.1)

        # The old daemon knows no shutdown: it gets no jobs, and the one that takes its place gets them again.
        play.ask_for_shutdown()
        (spared,) = executor.queue("hello", QUEUE)
        play.replace_worker(new, "websocket")
        # The old release's host goes on with its task, and the new one has a host of its own for what comes.
        assert psutil.pid_exists(pid)
        assert play.hosts() == 2
        with started_executor(new, folder, database, 8) as executor:
            assert executor.adopt(task, spared) == []
            play.is_told(executor, spared)
            play.let_it_end()
            play.is_told(executor, task)
            wait_until(lambda: play.hosts() == 1, 30, every_s=0.1)

            # And back, on the new tables and by the other transport.
            task, pid = play.long_task(executor)
        play.replace_worker(old, "longpoll")
        assert psutil.pid_exists(pid)
        replace_gateway(one, old)
        ready(one)
        with started_executor(old, folder, database, 9) as executor:
            assert executor.adopt(task) == []
            play.runs_a_job(executor)
            play.let_it_end()
            play.is_told(executor, task)
        # Whole, whoever took it.
        log = Path(folder / "central" / task.log_path)
        wait_until(lambda: log.exists() and log.stat().st_size, 30)
