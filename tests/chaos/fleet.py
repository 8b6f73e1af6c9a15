"""The real thing under chaos: gateways, daemons and their job hosts as processes, PostgreSQL, a load balancer.

Only starts, finds and kills; the test's own thread must do it all (PostgreSQL dies with the thread that
started it).
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import sqlalchemy as sa

from edge_ws.store import schema
from edge_ws.store.store import Store
from edge_ws.worker import host_process
from edge_ws.worker.host_process import HostFiles
from tests.chaos.centre import Centre
from tests.support.execution_api import execution_api
from tests.support.forwarder import Forwarder, forwarding
from tests.support.gateway import make_token
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.programs import clean_environment
from tests.support.services import bundled_postgres
from tests.support.waiting import free_port, wait_until

TOKEN_LIFE_S, LEEWAY_S = 8.0, 2.0
HEARTBEAT_S = 2.0
LOCKED_MS = 1000
"""The test itself waits for a lock no longer."""


@dataclass
class Program:
    """A process that is started again and again, all its lives in one log."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    folder: Path
    """Its own, and that of all that it starts."""
    popen: subprocess.Popen[bytes] | None = None
    lives: int = 0

    @property
    def is_running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def start(self) -> None:
        assert not self.is_running
        self.lives += 1
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )

    def signal(self, number: signal.Signals) -> None:
        if self.is_running:
            assert self.popen is not None
            self.popen.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.popen is not None:
            self.popen.wait()


@dataclass
class Worker(Program):
    """A daemon and its site."""

    slots: int = 0

    @property
    def logs(self) -> Path:
        return self.folder / "airflow" / "logs"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def hosts(self) -> dict[str, int]:
        """Return id -> pid of the job hosts that live."""
        directory = self.state / "hosts"
        found = {
            one: host_process.lock_holder(HostFiles(directory, one))
            for one in host_process.find_hosts(directory)
        }
        return {one: pid for one, pid in found.items() if pid}

    def job_processes(self) -> list[psutil.Process]:
        """Return what lives of the site's jobs: all its processes but the daemon and its hosts."""
        known = {*self.hosts().values(), self.popen.pid if self.popen is not None else 0}
        return [one for one in _of_home(self.folder) if one.pid not in known]

    def kill_all(self) -> None:
        """Kill the daemon, its hosts and their jobs, as when the machine goes down."""
        self.kill()
        # One that forked meanwhile has left a child: once nothing is found, nothing is left.
        wait_until(lambda: not [one for one in _of_home(self.folder) if not _kill(one)])

    def dead_hosts(self) -> set[str]:
        """Return the hosts that the daemon has buried."""
        return set(re.findall(r"job host (\S+) died", self.log.read_text()))

    def kept(self) -> list[Path]:
        """Return the claims that the daemon has not settled."""
        return [*(self.state / "outbox").glob("*.json")]


def _of_home(folder: Path) -> list[psutil.Process]:
    """Return what lives in that folder (a process that gives itself a title has no readable environment)."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if one.cwd() == str(folder) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def _kill(one: psutil.Process) -> bool:
    """Kill it; tell whether it was gone already."""
    try:
        one.kill()
    except psutil.NoSuchProcess:
        return True
    return False


@dataclass
class Fleet:
    """All of it."""

    folder: Path
    notes: Path
    central_logs: Path
    postgres: PostgresServer
    engine: sa.Engine
    """The test's own; its backends have another application name."""
    forwarder: Forwarder
    centre: Centre
    gateways: list[Program]
    workers: list[Worker]
    said: list[str]
    """The history."""
    left: list[str] = field(default_factory=list)
    """What was still there after everybody was asked to go."""

    def programs(self) -> list[Program]:
        return [*self.gateways, *self.workers]


_GATEWAY_TIMERS = {
    "--heartbeat-s": HEARTBEAT_S,
    "--offer-lease-s": 3.0,
    "--token-life-s": TOKEN_LIFE_S,
    "--token-leeway-s": LEEWAY_S,
    "--backup-scan-s": 2.0,
    # More than a gateway is ever frozen here: then it does count as dead.
    "--log-lease-s": 12.0,
}


@contextmanager
def running_fleet(folder: Path, *, gateways: int, workers: int, slots: int) -> Iterator[Fleet]:
    """Run a fleet for the length of the block; nothing of it is left behind."""
    notes, central_logs = folder / "notes", folder / "central"
    for path in (notes, central_logs):
        path.mkdir(parents=True)
    said: list[str] = []
    # A crash of the server must not lose what it has confirmed.
    durable = {"synchronous_commit": "on", "full_page_writes": "on"}
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_server(bundled_postgres(), durable))
        url = postgres.url("postgres")
        # A frozen gateway may hold a row: whoever waited for that here could not thaw it.
        options = {"application_name": "chaos", "options": f"-c lock_timeout={LOCKED_MS}"}
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args=options)
        stack.callback(engine.dispose)
        schema.migrate(engine)
        centre = Centre(engine, LEEWAY_S, said.append)
        stack.enter_context(execution_api(centre))
        ports = [free_port() for _ in range(gateways)]
        forwarder = stack.enter_context(forwarding(ports))
        token = make_token(Store(engine))
        fleet = Fleet(
            folder,
            notes,
            central_logs,
            postgres,
            engine,
            forwarder,
            centre,
            [_gateway(folder, number, port, url, centre.url) for number, port in enumerate(ports)],
            [_worker(folder, number, forwarder.port, token, slots) for number in range(workers)],
            said,
        )
        stack.callback(_stop, fleet)
        for one in fleet.gateways:
            one.start()
        for port in ports:
            wait_until(
                lambda port=port: _serves(port) or not all(one.is_running for one in fleet.gateways), 30
            )
        assert all(one.is_running for one in fleet.gateways), fleet.gateways[0].log.read_text()
        for worker in fleet.workers:
            worker.start()
        wait_until(lambda: all("taking jobs" in one.log.read_text() for one in fleet.workers), 60)
        yield fleet


def _serves(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _gateway(folder: Path, number: int, port: int, url: sa.URL, execution_api_url: str) -> Program:
    command = [sys.executable, "-m", "tests.support.gateway_process"]
    command += ["--database", url.render_as_string(hide_password=False), "--port", str(port)]
    command += ["--execution-api", execution_api_url, "--logs", str(folder / "central")]
    command += [word for name, value in _GATEWAY_TIMERS.items() for word in (name, str(value))]
    home = folder / f"gateway-{number}"
    home.mkdir()
    name = home.name
    return Program(name, command, clean_environment(home), folder / f"{name}.log", home)


def _worker(folder: Path, number: int, port: int, token: str, slots: int) -> Worker:
    name = f"w{number}"
    home = folder / name
    home.mkdir()
    path = home / "token"
    path.touch(mode=0o600)
    path.write_text(token)
    command = [sys.executable, "-m", "edge_ws.cli", "worker", "--url", f"http://127.0.0.1:{port}"]
    command += ["-H", name, "-q", "q", "-c", str(slots), "--token-file", str(path)]
    command += ["--state-dir", str(home / "state"), "--transport", ("auto", "longpoll")[number % 2]]
    environment = clean_environment(
        home,
        AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).with_name("dags")),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="sqlite:////nonexistent/none.db",
        # Its supervisors try again sooner than a deployment's would.
        AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="2",
        SITE_NOTES=str(folder / "notes"),
        SITE_WORKER=name,
        SITE_SLOTS=str(slots),
    )
    return Worker(name, command, environment, folder / f"{name}.log", home, slots=slots)


def _stop(fleet: Fleet) -> None:
    """Let the workers drain, then end the rest; whatever is frozen or stuck is killed."""
    for one in fleet.programs():
        one.signal(signal.SIGCONT)
    for some in (fleet.workers, fleet.gateways):
        for one in some:
            one.signal(signal.SIGTERM)
        for one in some:
            if one.popen is not None:
                try:
                    one.popen.wait(20)
                except subprocess.TimeoutExpired:
                    fleet.left.append(f"{one.name} did not end within 20 s of SIGTERM")
                    one.kill()
    for worker in fleet.workers:
        for process in _of_home(worker.folder):
            fleet.left.append(f"{worker.name} left {process.pid} {_said(process)}")
            with suppress(psutil.Error):
                process.kill()


def _said(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:200]
    return "?"
