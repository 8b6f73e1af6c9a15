"""Gateways and daemons as real processes on a PostgreSQL database, and a stream of jobs that must come through.

The test puts what it likes between the two, and breaks it in the middle of the stream.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa

from edge_ws.store.store import Store
from edge_ws.store.view_records import WorkerView
from tests.chaos.centre import Centre, Task
from tests.chaos.checks import broken, unsettled
from tests.chaos.fleet import Program, Worker, _serves
from tests.support.databases import using
from tests.support.execution_api import execution_api
from tests.support.gateway import make_token
from tests.support.programs import clean_environment
from tests.support.waiting import free_port, wait_until

SLOTS = 3
STREAM = 6
"""Jobs: two for each slot."""
LEEWAY_S = 10.0
READY_S = 30.0
SETTLED_WITHIN_S = 60.0
_DAGS = Path(__file__).parents[1] / "chaos" / "dags"


@dataclass
class GatewayProcess(Program):
    """A gateway and its port."""

    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Daemon(Worker):
    """A worker, and what it says."""

    @property
    def told(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, times: int = 1, deadline_s: float = READY_S) -> None:
        """Wait until it has said that so often."""

        def there() -> bool:
            if self.told.count(text) >= times:
                return True
            assert self.is_running, f"it ended:\n{self.told}"
            return False

        try:
            wait_until(there, deadline_s, every_s=0.02)
        except AssertionError as error:
            raise AssertionError(f"{self.name} has not said {text!r} {times} times:\n{self.told}") from error

    def connections(self) -> list[str]:
        """Return by which transport it has connected, each time."""
        return re.findall(rf"connected: {self.name} by (\w+)", self.told)


@dataclass
class Stand:
    """All of it; `tests.chaos.checks` can judge it."""

    folder: Path
    engine: sa.Engine
    centre: Centre
    token: str
    said: list[str] = field(default_factory=list)
    gateways: list[GatewayProcess] = field(default_factory=list)
    workers: list[Daemon] = field(default_factory=list)
    _streams: int = 0

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def central_logs(self) -> Path:
        return self.folder / "central"

    def programs(self) -> list[Program]:
        return [*self.gateways, *self.workers]

    @property
    def execution_api(self) -> int:
        """The port of the Execution API."""
        return urlsplit(self.centre.url).port or 0

    def record(self) -> WorkerView:
        """Return the worker as operators see it."""
        return Store(self.engine).views.workers()[0]

    # Starting

    def gateway(self, *words: str) -> GatewayProcess:
        """Start one more gateway."""
        name, port = f"gateway-{len(self.gateways)}", free_port()
        home = self.folder / name
        home.mkdir()
        url = self.engine.url.render_as_string(hide_password=False)
        command = [sys.executable, "-m", "tests.support.gateway_process", "--database", url]
        command += ["--port", str(port), "--execution-api", self.centre.url, "--logs", str(self.central_logs)]
        log = self.folder / f"{name}.log"
        one = GatewayProcess(name, [*command, *words], clean_environment(home), log, home, port=port)
        self.gateways.append(one)
        one.start()
        wait_until(lambda: not one.is_running or _serves(port), READY_S)
        assert one.is_running, one.log.read_text()
        return one

    def worker(self, url: str, *words: str, connects: bool = True, **variables: str) -> Daemon:
        """Start a worker with those further flags and variables; unless told otherwise it must connect."""
        home = self.folder / "w1"
        home.mkdir()
        token = home / "token"
        token.touch(mode=0o600)
        token.write_text(self.token)
        command = [sys.executable, "-m", "edge_ws.cli", "worker", "--url", url, "-H", "w1", "-q", "q"]
        command += ["-c", str(SLOTS), "--token-file", str(token), "--state-dir", str(home / "state")]
        environment = clean_environment(
            home,
            AIRFLOW__CORE__DAGS_FOLDER=str(_DAGS),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="sqlite:////nonexistent/none.db",
            SITE_NOTES=str(self.notes),
            SITE_WORKER="w1",
            SITE_SLOTS=str(SLOTS),
            **variables,
        )
        one = Daemon("w1", [*command, *words], environment, self.folder / "w1.log", home, slots=SLOTS)
        self.workers.append(one)
        one.start()
        if connects:
            one.wait_for("connected: ")
        return one

    # Jobs

    def stream(self, *in_the_middle: Callable[[], object], jobs: int = STREAM, last_s: float = 0.4) -> None:
        """Have jobs run, three at a time, and do things at even distances while they do.

        Raises:
            AssertionError: a job did not run exactly once, or its log is not the worker's, byte for byte.
        """
        self._streams += 1
        tasks = [self._task(number, last_s) for number in range(jobs)]
        wanted = list(tasks)
        todo = list(in_the_middle)
        end = time.monotonic() + SETTLED_WITHIN_S
        while True:
            begun = sum((self.notes / f"{task.name}.trace").exists() for task in tasks)
            while wanted and len(tasks) - len(wanted) < begun + 2 * SLOTS:
                self.centre.want(wanted.pop(0))
            if todo and begun * (len(in_the_middle) + 1) >= jobs * (len(in_the_middle) + 1 - len(todo)):
                todo.pop(0)()
            self.centre.tick()
            left = unsettled(self)
            if not (wanted or todo or left):
                break
            if time.monotonic() > end:
                raise AssertionError(f"not settled: {left}\n{self._logs()}")
            # The scheduler's beat: nothing is waited for here.
            time.sleep(0.05)
        assert not (found := broken(self, tasks)), "\n".join(found)
        again = [task.name for task in tasks if len(task.attempts) > 1]
        assert not again, f"run more than once: {again}\n{self._logs()}"

    def _task(self, number: int, last_s: float) -> Task:
        task = Task(f"s{self._streams}-{number}", 1, 1)
        self.plan(task, last_s=last_s, lines=(0, 40, 1500)[number % 3])
        return task

    def plan(self, task: Task, *, last_s: float, lines: int) -> None:
        """Write down what the task is to do."""
        plan = {"last_s": last_s, "lines": lines, "rounds": 1, "slots": 1, "together": []}
        (self.notes / f"{task.name}.plan").write_text(json.dumps(plan))

    def _logs(self) -> str:
        return "\n".join(
            f"== {one.name}\n{one.log.read_text(errors='replace')[-4000:]}" for one in self.programs()
        )

    def stop(self) -> None:
        """Let the worker drain, then end the rest."""
        for some in (self.workers, self.gateways):
            for one in some:
                one.signal(signal.SIGTERM)
            for one in some:
                assert one.popen is not None
                try:
                    one.popen.wait(20)
                except subprocess.TimeoutExpired:
                    one.kill()
        for worker in self.workers:
            worker.kill_all()


@contextmanager
def standing(folder: Path, database_url: str) -> Iterator[Stand]:
    """Set up a stand on a migrated database for the length of the block; gateways and workers are added."""
    with ExitStack() as stack:
        engine = stack.enter_context(using(database_url))
        said: list[str] = []
        centre = Centre(engine, LEEWAY_S, said.append)
        stack.enter_context(execution_api(centre))
        stand = Stand(folder, engine, centre, make_token(Store(engine)), said)
        for path in (stand.notes, stand.central_logs):
            path.mkdir()
        stack.callback(stand.stop)
        yield stand
