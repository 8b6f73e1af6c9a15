"""The parts of a site, each a process of its own with the release that it is given."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.execution_api import ExecutionApi
from tests.support.jobs import Site
from tests.support.programs import clean_environment
from tests.support.standalone import Server, server
from tests.support.waiting import wait_until

SECRET = "s" * 64
STARTS_WITHIN_S = 90.0
ENDS_WITHIN_S = 90.0
CONNECTED = "INFO connected: "
EXECUTOR = Path(__file__).with_name("executor_process.py")


@dataclass(frozen=True)
class Release:
    """One of the two."""

    name: str
    path: Path
    """Its packages, for PYTHONPATH."""

    @property
    def variables(self) -> dict[str, str]:
        """What makes a process this release's; `-m` alone would look in the working directory first."""
        return {"PYTHONPATH": str(self.path), "PYTHONSAFEPATH": "1"}

    def centre(self, folder: Path, database: str) -> dict[str, str]:
        """Return an environment for its programs in the data centre."""
        return clean_environment(
            folder,
            **self.variables,
            AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=database,
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__API_AUTH__JWT_SECRET=SECRET,
        )

    def run(self, folder: Path, database: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `python WORDS` in the data centre to its end."""
        return subprocess.run(
            [sys.executable, *words],
            env=self.centre(folder, database),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def edge_ws(self, folder: Path, database: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `edge-ws WORDS` in the data centre to its end."""
        return self.run(folder, database, "-m", "edge_ws.cli", *words)


@dataclass(frozen=True)
class Task:
    """A queued task."""

    id: str
    log_path: str


@dataclass
class Executor:
    """A scheduler's executor."""

    popen: subprocess.Popen[str]
    told: dict[str, str] = field(default_factory=dict)
    """What it has reported, by task."""

    def _ask(self, *words: object) -> Any:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(words) + "\n")
        self.popen.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """Return what it says next."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"the executor's process has ended ({self.popen.wait(10)})"
        return json.loads(line)

    def queue(self, task: str, queue: str, count: int = 1) -> list[Task]:
        """Queue that many runs of the task."""
        return [Task(*made) for made in self._ask("queue", task, queue, count)]

    def has_told(self, *tasks: Task) -> bool:
        """Let it report, and tell whether it has told the end of all of these by now."""
        self.told.update(self._ask("ends"))
        return all(task.id in self.told for task in tasks)

    def adopt(self, *tasks: Task) -> list[str]:
        """Take over a dead scheduler's tasks; return those that would be reset."""
        reset: list[str] = self._ask("adopt", [task.id for task in tasks])
        return reset

    def clear(self, *tasks: Task) -> None:
        """Clear the tasks, as users do while they run."""
        self._ask("clear", [task.id for task in tasks])

    def log(self, task: Task) -> str:
        """Return the running task's log."""
        return str(self._ask("log", task.id))


@contextmanager
def executor(release: Release, folder: Path, database: str, job_id: int) -> Iterator[Executor]:
    """Run one for the length of the block; what it says first is not read yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"executor-{job_id}.log").open("ab") as log:
        popen = subprocess.Popen(
            [sys.executable, str(EXECUTOR), str(job_id)],
            env=release.centre(folder, database),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with popen:
        try:
            yield Executor(popen)
        finally:
            popen.kill()


@contextmanager
def started_executor(release: Release, folder: Path, database: str, job_id: int) -> Iterator[Executor]:
    """Run one that has started well."""
    with executor(release, folder, database, job_id) as made:
        assert made.answer() == {"package": str(release.path)}
        yield made


@contextmanager
def gateway(release: Release, folder: Path, database: str, api: ExecutionApi) -> Iterator[Server]:
    """Run a gateway for the length of the block; it need not be ready."""
    url = api.url.removesuffix("/execution/")
    # Its successor cannot listen before it has left: workers would be waited for in vain.
    flags = ("--airflow-url", url, "--drain-timeout", "0.5")
    with server(folder, database, *flags, secret=SECRET, **release.variables) as one:
        yield one


def replace_gateway(one: Server, release: Release) -> None:
    """End the gateway and start that release on its port; it need not be ready."""
    one.signal()
    wait_until(lambda: one.code is not None, 60, every_s=0.05)
    assert one.code == 0
    one.environment.update(release.variables)
    one.start()


@dataclass
class Worker:
    """One worker's state directory, and the daemon that uses it now."""

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    release: Release
    popen: subprocess.Popen[bytes] | None = None
    read: int = 0
    """Bytes of its log that earlier daemons have written."""

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def start(self, release: Release, transport: str) -> None:
        """Start that release's daemon."""
        self.release = release
        self.read = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [*self.command, "--transport", transport],
                env={**self.environment, **release.variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def says(self, text: str) -> int:
        """Return how often the daemon has said that since it was started."""
        assert self.popen is not None
        assert self.popen.poll() is None, self.log.read_text()
        return self.log.read_bytes()[self.read :].decode().count(text)

    def takes_jobs(self) -> bool:
        """Tell whether it can be given jobs."""
        return self.says("taking jobs") > 0 and self.says(CONNECTED) > 0

    def host_verb(self, *words: str) -> None:
        """Run `edge-ws WORDS` on the worker's host, with the release of its daemon."""
        assert self.popen is not None
        done = subprocess.run(
            [sys.executable, "-m", "edge_ws.cli", *words, "-H", self.name, "--state-dir", str(self.state)],
            env={**self.environment, **self.release.variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def leave_at_once(self) -> None:
        """End the daemon as a service manager does that is not to wait: its jobs run on."""
        assert self.popen is not None
        self.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: self.says("draining"))
        self.popen.send_signal(signal.SIGTERM)
        assert self.popen.wait(30) == 0, self.log.read_text()

    def end(self) -> None:
        """Let it finish what runs and leave; kill it if it will not."""
        assert self.popen is not None
        self.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(30)
        self.popen.kill()
        self.popen.wait()


@contextmanager
def worker(
    release: Release, transport: str, site: Site, name: str, *, url: str, token: str
) -> Iterator[Worker]:
    """Run a worker that serves the queue of its name for the length of the block."""
    folder = site.folder / "workers" / name
    folder.mkdir(parents=True)
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(token)
    command = [sys.executable, "-m", "edge_ws.cli", "worker", "--url", url, "-H", name, "-q", name, "-c", "4"]
    command += ["--token-file", str(path), "--state-dir", str(folder / "state")]
    made = Worker(name, command, site.environment(HOME=str(site.folder)), folder, release)
    made.start(release, transport)
    try:
        yield made
    finally:
        made.end()


def starts(api: ExecutionApi, task: Task) -> int:
    """Return how often the task was started."""
    return sum(call.path.endswith("/run") for call in api.calls_of(task.id))
