"""What is measured, set up: one PostgreSQL, a database for each system, gateways, edge3's Airflow, generators.

Both systems' databases lie on the same server, which is durable here: fsync is on.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa

from edge_ws.store import schema
from edge_ws.store.records import JobKey, NewJob
from edge_ws.store.store import Store
from edge_ws.store.tables import EDGE3_TABLES, OWN_TABLES, edge_job
from tests.bench.control import REPOSITORY, Program
from tests.support.databases import make_engine, using
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.waiting import free_port, wait_until

POSTGRES_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_line_prefix": "%d ",
}
OWNER = 7
EDGE3_API = "/edge_worker/v1/rpcapi"
_ENDS_IN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge3:
    """Where edge3 is installed."""

    python: Path
    paths: tuple[Path, ...] = ()
    """To be put on PYTHONPATH, where it is only unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process under test."""

    pid: int
    port: int


def make_command(name: str, queue: str, ti_id: str) -> str:
    """Return a workload as Airflow 3.3 writes it, of the usual size."""
    ids = {"task_id": name, "dag_id": "bench", "run_id": "bench"}
    return json.dumps(
        {
            "token": "e" * 336,
            "dag_rel_path": "bench.py",
            "bundle_info": {"name": "dags-folder", "version": None},
            "log_path": f"dag_id=bench/run_id=bench/task_id={name}/attempt=1.log",
            "ti": {
                "id": ti_id,
                **ids,
                "try_number": 1,
                "dag_version_id": "01a1ffa6-c506-7bfc-a918-85e12808e874",
                "map_index": -1,
                "hostname": "",
                "context_carrier": {"traceparent": f"00-{'3' * 32}-{'1' * 16}-00"},
                "queue": queue,
                "pool_slots": 1,
                "priority_weight": 1,
            },
            "sentry_integration": "",
            "type": "ExecuteTask",
        },
        separators=(",", ":"),
    )


def make_jobs(count: int, queues: Sequence[str]) -> list[NewJob]:
    """Return jobs, each of one slot, over the queues in turn; `name_of` names them in records."""
    mark = secrets.token_hex(4)
    jobs = []
    for number in range(count):
        name, queue = f"t-{mark}-{number}", queues[number % len(queues)]
        jobs.append(
            NewJob(
                key=JobKey("bench", name, "bench", -1, 1),
                queue=queue,
                slots=1,
                priority=1,
                command=make_command(name, queue, str(uuid.uuid4())),
                team=None,
                owner=OWNER,
            )
        )
    return jobs


def id_of(job: NewJob) -> str:
    """Return the task instance id in the job's workload."""
    return str(json.loads(job.command)["ti"]["id"])


class Inserter:
    """A scheduler's connection: writes jobs as the executor does."""

    def __init__(self, engine: sa.Engine, *, is_edge3: bool) -> None:
        self._store = Store(engine)
        self._connection = engine.connect()
        self._is_edge3 = is_edge3

    def insert(
        self, jobs: Sequence[NewJob], before_commit: Callable[[], object] = lambda: None
    ) -> tuple[int, int]:
        """Write the jobs in one transaction; return when its COMMIT was sent, and answered (monotonic ns)."""
        with self._connection.begin() as transaction:
            if self._is_edge3:
                self._connection.execute(_EDGE3_INSERT, [_edge3_row(job) for job in jobs])
            else:
                for job in jobs:
                    self._store.jobs.enqueue(self._connection, job)
            before_commit()
            sent_ns = time.monotonic_ns()
            transaction.commit()
            return sent_ns, time.monotonic_ns()

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


_KEPT = ("dag_id", "task_id", "run_id", "map_index", "try_number", "state", "queue", "concurrency_slots")
_EDGE3_INSERT = edge_job.insert().values(
    **{name: sa.bindparam(name) for name in (*_KEPT, "priority_weight", "command", "task_instance_id")},
    queued_dttm=sa.func.now(),
    last_update=sa.func.now(),
)


def _edge3_row(job: NewJob) -> dict[str, object]:
    key = job.key
    return {
        "dag_id": key.dag_id,
        "task_id": key.task_id,
        "run_id": key.run_id,
        "map_index": key.map_index,
        "try_number": key.try_number,
        "task_instance_id": "",
        "state": "queued",
        "queue": job.queue,
        "concurrency_slots": job.slots,
        "priority_weight": job.priority,
        "command": job.command,
    }


class Stand:
    """Sets up what a row asks for, once; everything ends with it."""

    def __init__(self, folder: Path, postgres_programs: Path, edge3: Edge3 | None) -> None:
        self._folder = folder
        self._programs = postgres_programs
        self.edge3 = edge3
        self._until_closed = ExitStack()
        self._secret = secrets.token_urlsafe(48)

    def close(self) -> None:
        """End everything."""
        self._until_closed.close()

    # PostgreSQL

    @cached_property
    def postgres(self) -> PostgresServer:
        """The server of both."""
        return self._until_closed.enter_context(postgres_server(self._programs, POSTGRES_SETTINGS))

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Return an engine that lives as long as the stand."""
        engine = make_engine(url)
        self._until_closed.callback(engine.dispose)
        return engine

    @cached_property
    def _admin(self) -> sa.Engine:
        return self.engine(self.postgres.url("postgres"))

    def admin(self, statement: str) -> None:
        """Carry out a statement that allows no transaction."""
        with self._admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(statement)

    def new_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self.admin(f"CREATE DATABASE {name}")
        return self.postgres.url(name).render_as_string(hide_password=False)

    # edge-ws

    @cached_property
    def url(self) -> str:
        """edge-ws's database on PostgreSQL."""
        url = self.new_database("edge_ws")
        with using(url) as engine:
            schema.migrate(engine)
        return url

    @cached_property
    def _airflow_url(self) -> str:
        """The same, once Airflow's own tables are there too."""
        self._airflow(Path(sys.executable), self.airflow_environment("ours", self.url), "db", "migrate")
        return self.url

    @cached_property
    def sqlite_url(self) -> str:
        """A SQLite file with our tables."""
        url = f"sqlite:///{self._folder / 'edge-ws.db'}"
        with using(url) as engine:
            schema.migrate(engine)
        return url

    def clear(self, url: str) -> None:
        """Empty the tables of jobs and workers, and let the server settle."""
        with using(url) as engine:
            present = set(sa.inspect(engine).get_table_names())
            with engine.begin() as connection:
                for table in (*EDGE3_TABLES, *OWN_TABLES):
                    if table.name in present:
                        connection.execute(table.delete())
            if engine.dialect.name == "postgresql":
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.exec_driver_sql("VACUUM ANALYZE edge_job")
                    connection.exec_driver_sql("CHECKPOINT")

    @contextmanager
    def gateway(self, url: str, *, tokens: str = "plain", port: int = 0) -> Iterator[Server]:
        """Run a gateway for the length of the block."""
        port = port or free_port()
        command = [sys.executable, "-m", "tests.bench.gateway", url, str(port), tokens]
        environment = self.airflow_environment("ours", url)
        with self._process("gateway", command, environment) as process:
            self._wait_http(process, f"http://127.0.0.1:{port}/edge-ws/health", "gateway")
            yield Server(pid=process.pid, port=port)

    @contextmanager
    def fleet(self, url: str, port: int, transport: str = "websocket") -> Iterator[Program]:
        """Run a generator of edge-ws workers for a gateway on that database and port."""
        with using(url) as engine:
            token = Store(engine).tokens.create_token(
                "bench", worker_pattern="*", queues=None, team=None, expires_in_s=None, max_workers=100_000
            )
        module, gateway = f"tests.bench.{transport}_fleet", f"http://127.0.0.1:{port}/edge-ws"
        command = [sys.executable, "-m", module, gateway, token]
        with Program(command, self._environment(), self._folder / "fleet.log") as program:
            yield program

    # edge3

    @cached_property
    def edge3_url(self) -> str:
        """edge3's database."""
        assert self.edge3 is not None
        url = self.new_database("edge3")
        environment = self.airflow_environment("edge3", url, port=1)
        self._airflow(self.edge3.python, environment, "db", "migrate")
        return url

    @cached_property
    def edge3_server(self) -> Server:
        """Airflow's api-server with edge3's plugin; runs from the first use to the end."""
        assert self.edge3 is not None
        port = free_port()
        environment = self.airflow_environment("edge3", self.edge3_url, port=port)
        command = [str(self.edge3.python), "-m", "airflow", "api-server"]
        process = self._until_closed.enter_context(self._process("api-server", command, environment))
        self._wait_http(process, f"http://127.0.0.1:{port}/edge_worker/v1/health", "api-server")
        return Server(pid=process.pid, port=port)

    @contextmanager
    def edge3_fleet(self) -> Iterator[Program]:
        """Run a generator of edge3 workers."""
        assert self.edge3 is not None
        environment = self.airflow_environment("edge3", self.edge3_url, port=self.edge3_server.port)
        command = [str(self.edge3.python), "-m", "tests.bench.edge3_fleet"]
        with Program(command, environment, self._folder / "edge3-fleet.log") as program:
            yield program

    # Processes

    @contextmanager
    def executor(self, *, is_edge3: bool) -> Iterator[Program]:
        """Run a system's executor, without a scheduler around it."""
        url = self.edge3_url if is_edge3 else self._airflow_url
        python = self.edge3.python if is_edge3 and self.edge3 else Path(sys.executable)
        environment = self.airflow_environment("edge3" if is_edge3 else "ours", url, port=1)
        command = [str(python), "-m", "tests.bench.executor", environment["AIRFLOW__CORE__EXECUTOR"]]
        with Program(command, environment, self._folder / "executor.log") as program:
            yield program

    def _environment(self, *paths: Path) -> dict[str, str]:
        ours = ("AIRFLOW", "_AIRFLOW", "EDGE_WS_", "XDG_", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        joined = os.pathsep.join(map(str, (REPOSITORY, *paths)))
        return {**kept, "PYTHONPATH": joined, "HOME": str(self._folder), "NO_COLOR": "1"}

    def airflow_environment(self, whose: str, url: str, port: int = 0) -> dict[str, str]:
        """Return the environment of a system's Airflow processes."""
        home = self._folder / f"airflow-{whose}"
        home.mkdir(exist_ok=True)
        values = {
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "CORE__EXECUTOR": "edge_ws.provider.executor.EdgeWsExecutor",
            "API_AUTH__JWT_SECRET": self._secret,
            "DATABASE__SQL_ALCHEMY_CONN": url,
            "LOGGING__LOGGING_LEVEL": "WARNING",
        }
        if whose == "edge3":
            values |= {
                "CORE__EXECUTOR": "airflow.providers.edge3.executors.edge_executor.EdgeExecutor",
                "DATABASE__EXTERNAL_DB_MANAGERS": "airflow.providers.edge3.models.db.EdgeDBManager",
                "EDGE__API_ENABLED": "True",
                "EDGE__API_URL": f"http://127.0.0.1:{port}{EDGE3_API}",
                "API__HOST": "127.0.0.1",
                "API__PORT": str(port),
                "API__BASE_URL": f"http://127.0.0.1:{port}",
                "API__WORKERS": "1",
            }
        paths = self.edge3.paths if whose == "edge3" and self.edge3 else ()
        settings = {f"AIRFLOW__{name}": value for name, value in values.items()}
        return {**self._environment(*paths), "AIRFLOW_HOME": str(home), **settings}

    def _airflow(self, python: Path, environment: dict[str, str], *words: str) -> None:
        done = subprocess.run(
            [str(python), "-m", "airflow", *words],
            env=environment,
            cwd=environment["AIRFLOW_HOME"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(words)}: {(done.stderr or done.stdout)[-3000:]}")

    @contextmanager
    def _process(
        self, name: str, command: Sequence[str], environment: dict[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        with (self._folder / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=environment["AIRFLOW_HOME"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(_ENDS_IN_S)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _wait_http(self, process: subprocess.Popen[bytes], url: str, name: str) -> None:
        def answers() -> bool:
            if process.poll() is not None:
                log = (self._folder / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} ended with {process.returncode}: {log[-3000:]}")
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return True
            except urllib.error.HTTPError as error:
                return error.code != 503
            except OSError:
                return False

        wait_until(answers, 120.0, every_s=0.05)
