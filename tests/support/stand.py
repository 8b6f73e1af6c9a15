"""A worker's machine with the real daemon and real tasks, and what it needs of a centre."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from edge_ws.errors import EdgeWsError
from edge_ws.server.config import GatewaySettings
from edge_ws.server.ports import Identities
from edge_ws.store.records import NewJob
from edge_ws.store.store import Store
from edge_ws.worker.control import ask
from tests.support.execution_api import ExecutionApi
from tests.support.gateway import make_token, serving
from tests.support.jobs import Site, task_workload
from tests.support.programs import run_edge_ws, start_python
from tests.support.rows import enqueue, job_row, new_job
from tests.support.waiting import wait_until

PATIENCE_S = 60.0


@dataclass
class Stand:
    """One worker's machine, and the centre's database."""

    site: Site
    engine: sa.Engine
    port: int
    api: ExecutionApi
    settings: dict[str, str] = field(default_factory=dict)
    """Of the worker's environment, besides."""
    identities: Identities | None = None
    """Whose JWTs the gateway takes."""
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.engine)

    @property
    def state_dir(self) -> Path:
        return self.site.folder / "state"

    @property
    def told(self) -> str:
        return (self.site.folder / "worker.log").read_text()

    def gateway(self) -> Any:
        settings = GatewaySettings(hostname="test", execution_api_url=self.api.url)
        return serving(self.store, settings, self.port, self.identities)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start the worker, with two slots; unless told otherwise it has a token of ours in a file."""
        token = self.site.folder / "token"
        if not token.exists() and "--token-command" not in words:
            token.touch(mode=0o600)
            token.write_text(make_token(self.store))
        flags = ["--url", f"http://127.0.0.1:{self.port}", "-H", "w1", "-q", "q", "-c", "2"]
        flags += ["--state-dir", str(self.state_dir), *words]
        if "--token-command" not in words:
            flags += ["--token-file", str(token)]
        with (self.site.folder / "worker.log").open("ab") as log:
            one = subprocess.Popen(
                [sys.executable, "-m", "edge_ws.cli", "worker", *flags],
                env=self.site.environment(**self.settings),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.daemons.append(one)
        self.until(self.answers)
        return one

    def answers(self) -> bool:
        try:
            return bool(self.condition())
        except EdgeWsError:
            return False

    def words(self, *words: str) -> list[str]:
        return [*words, "-H", "w1", "--state-dir", str(self.state_dir)]

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_edge_ws(*self.words(*words), environment=self.site.environment())

    def condition(self) -> dict[str, Any]:
        return ask(self.state_dir, "status")

    def in_background(self, *words: str) -> subprocess.Popen[str]:
        words = ("-m", "edge_ws.cli", *self.words(*words))
        return start_python(*words, environment=self.site.environment())

    def queue(self, task: str) -> NewJob:
        """Queue a task of the site's DAG."""
        workload = task_workload(task)
        job = new_job(f"{task}-{workload.id[:8]}", ti_id=workload.id, command=workload.payload)
        enqueue(self.engine, job)
        return job

    def state_of(self, job: NewJob) -> str:
        row = job_row(self.engine, job.key)
        assert row is not None
        return str(row.state)

    def worker_state(self) -> str:
        return next((one.state for one in self.store.views.workers()), "none")

    def is_settled(self) -> bool:
        """Tell whether the host's last request is taken in, and the host has kept that."""
        return bool(json.loads((self.state_dir / "asked").read_text())["settled"])

    def note(self, name: str) -> list[int]:
        """Wait until a task has left that note; return the process ids in it."""
        path = self.site.notes / name
        self.until(path.exists)
        return [int(word) for word in path.read_text().split()]

    def let_go(self) -> None:
        (self.site.notes / "enough").touch()

    def until(self, predicate: Callable[[], object]) -> None:
        try:
            wait_until(predicate, PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told}") from error

    def task_log(self) -> str:
        (log,) = self.site.logs.rglob("task_id=*/*.log")
        return log.read_text()

    def end(self) -> None:
        for leave in ("enough", "enough-called", "quiet"):
            (self.site.notes / leave).touch()
        for one in self.daemons:
            if one.poll() is None:
                # Twice: whatever is left is not to be waited for.
                one.send_signal(signal.SIGTERM)
                one.send_signal(signal.SIGINT)
            one.wait(30)
        for process in psutil.process_iter(["cmdline"]):
            if str(self.site.folder) in " ".join(process.info["cmdline"] or []):
                process.kill()
