"""Real `edge-ws server` processes: what they say, what they serve, and how they leave."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed

from edge_ws.cli.main import build
from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Beat, Drain
from edge_ws.provider.mount import Door
from edge_ws.provider.standalone import ServerOptions, make_app, read_options
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_job
from tests.support.centre import Centre
from tests.support.certificates import Authority
from tests.support.execution_api import ExecutionApi, execution_api
from tests.support.forwarder import forwarding
from tests.support.gateway import LogFolder, Peer, RunningGateway, Tasks, connected, make_token
from tests.support.jobs import TaskWorkload, make_site, task_workload
from tests.support.rows import enqueue, new_job
from tests.support.standalone import Server, ready, server
from tests.support.waiting import free_port, wait_until


@pytest.fixture
def database(centre: Centre, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'airflow.db'}"


# What it is told


class Conf:
    """Airflow's configuration, as far as it is set."""

    def __init__(self, **api: str) -> None:
        self._api = api

    def get(self, section: str, key: str, *, fallback: str | None) -> str | None:
        assert section == "api"
        return self._api.get(key, fallback)


def options(*flags: str, **api: str) -> ServerOptions:
    return read_options(build().parse_args(["server", *flags]), Conf(**api))


def test_what_holds_when_nothing_is_said() -> None:
    said = options()
    assert (said.host, said.port, said.workers, said.path) == ("0.0.0.0", 8794, 1, "")
    assert (said.certificate, said.airflow_url, said.drain_timeout_s) == (None, None, 30.0)


@pytest.mark.parametrize(
    ("flags", "base_url", "path"),
    [
        ((), "https://airflow.example.com/af/team/", "/af/team"),
        ((), "https://airflow.example.com", ""),
        (("--root-path", "/x/"), "https://airflow.example.com/af", "/x"),
        (("--root-path", ""), "https://airflow.example.com/af", ""),
        (("--root-path", "/"), "https://airflow.example.com/af", ""),
    ],
)
def test_the_path_is_that_of_airflows_url(flags: tuple[str, ...], base_url: str, path: str) -> None:
    assert options(*flags, base_url=base_url).path == path


@pytest.mark.parametrize(
    "flags",
    [
        ("--port", "0"),
        ("--port", "65536"),
        ("--workers", "0"),
        ("--drain-timeout", "-1"),
        ("--drain-timeout", "nan"),
        ("--root-path", "af"),
        ("--airflow-url", "api-server:8080"),
        ("--airflow-url", "ftp://api-server"),
        ("--airflow-url", "http://user:secret@api-server"),
        ("--airflow-url", "http://api-server/?x"),
        ("--metrics-listen", "9795"),
        ("--metrics-listen", "127.0.0.1:9795", "-w", "2"),
        ("--ssl-cert", "cert.pem"),
        ("--ssl-key", "key.pem"),
        ("--ssl-cert", "/nonexistent/cert.pem", "--ssl-key", "/nonexistent/key.pem"),
    ],
)
def test_a_wrong_flag_is_named(flags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=flags[0]) as error:
        options(*flags)
    assert "secret" not in str(error.value)


def test_a_certificate_is_tried_at_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.server(), authority.server("other")
    said = options("--ssl-cert", str(one.certificate), "--ssl-key", str(one.key)).certificate
    assert said is not None
    assert said.file == str(one.certificate)
    from_airflow = options(ssl_cert=str(one.certificate), ssl_key=str(one.key))
    assert from_airflow.certificate == said
    none = options("--ssl-cert", "", "--ssl-key", "", ssl_cert=str(one.certificate), ssl_key=str(one.key))
    assert none.certificate is None
    with pytest.raises(UsageError, match="does not belong to the certificate"):
        options("--ssl-cert", str(one.certificate), "--ssl-key", str(other.key))
    with pytest.raises(UsageError, match="it cannot be read"):
        options("--ssl-cert", str(one.key), "--ssl-key", str(one.key))


def test_an_encrypted_key_takes_its_password_from_a_file(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    made = Authority(tmp_path).server()
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"geheim"),
        )
    )
    password = tmp_path / "password"
    password.write_text("geheim\n")
    flags = ("--ssl-cert", str(made.certificate), "--ssl-key", str(made.key))
    said = options(*flags, "--ssl-key-password-file", str(password)).certificate
    assert said is not None
    assert said.password == "geheim"
    with pytest.raises(UsageError, match="--ssl-key-password-file"):
        options(*flags)


# The app


@pytest.mark.parametrize("path", ["", "/af", "/af/team"])
def test_it_answers_with_and_without_its_path(path: str) -> None:
    class Gateway:
        app = Starlette(routes=[Route("/health", lambda _: JSONResponse({"status": "ok"}))])

        @asynccontextmanager
        async def running(self) -> Any:
            yield

        async def drain(self, within_s: float) -> None:
            """Has nobody to send away."""

    with TestClient(make_app(Door(Gateway), None, path)) as client:
        for prefix in ("", path):
            assert client.get(f"{prefix}/edge-ws/health").json() == {"status": "ok"}
            answer = client.put(f"{prefix}/execution/task-instances/x/run")
            assert (answer.status_code, answer.headers["edge-ws-error"]) == (404, "not_found")
            assert "--airflow-url" in answer.json()["sentence"]
        assert client.get(f"{path}x/edge-ws/health").status_code == 404


# Processes


def test_a_port_in_use_is_one_sentence(tmp_path: Path, database: str) -> None:
    with server(tmp_path, database) as one:
        ready(one)
        again = Server(one.port, tmp_path / "again.log", one.command, one.environment)
        again.start()
        assert again.process is not None
        assert again.process.wait(30) == 2
        said = again.log.read_text()
        assert f"cannot listen on 127.0.0.1, port {one.port}: Address already in use" in said
        assert "Traceback" not in said
        several = Server(one.port, tmp_path / "several.log", [*one.command, "-w", "2"], one.environment)
        several.start()
        assert several.process is not None
        assert several.process.wait(30) == 2
        metrics = ["--metrics-listen", f"127.0.0.1:{one.port}"]
        command = [part if part != str(one.port) else str(free_port()) for part in one.command]
        shown = Server(one.port, tmp_path / "shown.log", [*command, *metrics], one.environment)
        shown.start()
        assert shown.process is not None
        assert shown.process.wait(30) == 2
        said = f"metrics cannot be served on 127.0.0.1, port {one.port}: Address already in use"
        assert said in shown.log.read_text()


def test_without_tables_it_waits_and_says_why(tmp_path: Path, database: str, centre: Centre) -> None:
    with centre.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE edge_ws_claim RENAME TO hidden")
    with server(tmp_path, database) as one:
        status, body = wait_until(one.health, 60, every_s=0.1)
        assert (status, body["error"]) == (503, "unavailable")
        assert "its tables are missing or another release's (run `airflow db migrate` or" in body["sentence"]
        assert "airflow db migrate" in one.log.read_text()
        with centre.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO edge_ws_claim")
        ready(one)
        one.signal()
        wait_until(lambda: one.code is not None)
        assert one.code == 0


def test_tls_and_a_path(tmp_path: Path, database: str) -> None:
    authority = Authority(tmp_path)
    made = authority.server()
    flags = ("--ssl-cert", str(made.certificate), "--ssl-key", str(made.key))
    url = "https://localhost/af/"
    with server(tmp_path, database, *flags, AIRFLOW__API__BASE_URL=url) as one:
        context = ssl.create_default_context(cafile=authority.file)
        with httpx2.Client(verify=context, base_url=f"https://127.0.0.1:{one.port}") as client:

            def answers() -> bool:
                try:
                    return client.get("/af/edge-ws/health").status_code == 200
                except httpx2.TransportError:
                    return False

            wait_until(answers, 60, every_s=0.1)
            assert client.get("/edge-ws/health").json()["edge_ws"] == "gateway"


def test_several_processes_serve_one_port(tmp_path: Path, database: str, centre: Centre) -> None:
    first = free_port()
    last = min(first + 9, 65535)
    with server(tmp_path, database, "-w", "2", "--metrics-listen", f"127.0.0.1:{first}-{last}") as one:

        def seen() -> bool:
            assert one.code is None, one.log.read_text()
            found = one.health()
            if found is not None and found[0] == 200:
                gateways.add(found[1]["gateway"])
            return len(gateways) == 2

        gateways: set[str] = set()
        wait_until(seen, 60, every_s=0.05)
        assert {known.id for known in Store(centre.engine).views.gateways()} == gateways
        assert {gateway for gateway, _ in shown(first, last)} == gateways
        assert sorted(speaks for _, speaks in shown(first, last)) == [False, True]
        one.signal()
        wait_until(lambda: one.code is not None, 20)
        assert one.code == 0
        # Each has taken its leave.
        assert Store(centre.engine).views.gateways() == []


def shown(first: int, last: int) -> Iterator[tuple[str, bool]]:
    """Yield each gateway that shows metrics at one of the ports, and whether it shows the fleet's."""
    for port in range(first, last + 1):
        with suppress(httpx2.TransportError):
            text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
            gateway = re.search(r'edgews_gateway_info{.*gateway="([^"]+)"', text)
            assert gateway is not None
            yield gateway[1], "edgews_fleet_exporter 1.0" in text


# Leaving


def running(one: Server) -> RunningGateway:
    return RunningGateway(one.port, Tasks(), LogFolder())


async def closed(peer: Peer) -> int | None:
    """Wait until the gateway closes the connection; return its code."""
    try:
        with anyio.fail_after(10):
            while True:
                await peer.receive()
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else None


def test_a_worker_is_sent_away_and_the_gateway_waits_for_it(
    tmp_path: Path, database: str, centre: Centre
) -> None:
    async def scenario(one: Server) -> None:
        async with (
            httpx2.AsyncClient(base_url=one.url) as client,
            connected(running(one), make_token(Store(centre.engine)), queues=("q",)) as peer,
        ):
            assert (await client.get("/edge-ws/health")).status_code == 200
            one.signal()
            drain = await peer.expect(Drain)
            assert 0 <= drain.come_back_s < 1
            # Over a connection that was open before; nobody gets a new one.
            health = await client.get("/edge-ws/health")
            assert health.status_code == 503
            assert "draining" in health.json()["sentence"]
            assert one.health() is None
            enqueue(centre.engine, new_job("late"))
            # It is served all the same: a frame is answered, and no job is offered any more.
            await peer.send(Beat())
            assert one.code is None

    with server(tmp_path, database) as one:
        ready(one)
        anyio.run(scenario, one)
        wait_until(lambda: one.code is not None)
        assert one.code == 0
        with centre.engine.connect() as connection:
            assert connection.scalar(sa.select(edge_job.c.state)) == "queued"
        assert Store(centre.engine).views.gateways() == []


def test_who_stays_is_closed_in_the_end(tmp_path: Path, database: str, centre: Centre) -> None:
    async def scenario(one: Server) -> int | None:
        async with connected(running(one), make_token(Store(centre.engine)), queues=("q",)) as peer:
            one.signal()
            return await closed(peer)

    with server(tmp_path, database, "--drain-timeout", "0.5") as one:
        ready(one)
        assert anyio.run(scenario, one) == 1001
        wait_until(lambda: one.code is not None)
        assert one.code == 0


def test_the_second_signal_ends_it_at_once(tmp_path: Path, database: str, centre: Centre) -> None:
    async def scenario(one: Server) -> None:
        async with connected(running(one), make_token(Store(centre.engine)), queues=("q",)) as peer:
            one.signal()
            await peer.expect(Drain)
            one.signal(signal.SIGINT)
            await closed(peer)
            wait_until(lambda: one.code is not None)

    with server(tmp_path, database, "--drain-timeout", "600") as one:
        ready(one)
        anyio.run(scenario, one)
        assert one.code == 130


# A rolling restart under a stream of jobs


SLOTS = 4


@dataclass
class Stream:
    """Jobs that come one after another."""

    centre: Centre
    jobs: list[TaskWorkload] = field(default_factory=list)

    def one_more(self) -> None:
        made = task_workload("hello")
        body = json.loads(made.payload)
        body["ti"]["id"] = str(self.centre.task(state="running").id)
        job = TaskWorkload(body["ti"]["id"], made.log_path, json.dumps(body))
        self.jobs.append(job)
        enqueue(self.centre.engine, new_job(f"t{len(self.jobs)}", ti_id=job.id, command=job.payload))

    def states(self) -> list[str]:
        with self.centre.engine.connect() as connection:
            return list(connection.scalars(sa.select(edge_job.c.state)))

    def flow(self, until: Callable[[], bool], deadline_s: float = 120.0) -> None:
        """Let jobs come until the condition holds: one at least, and more the longer that takes, but no crowd."""

        def look() -> bool:
            if len(self.jobs) - self.states().count("success") < SLOTS:
                self.one_more()
            return until()

        wait_until(look, deadline_s, every_s=1.0)


@contextmanager
def worker(folder: Path, url: str, token: str, transport: str) -> Iterator[Path]:
    """Run a real worker; gives its log."""
    site = make_site(folder / "site")
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(token)
    command = [sys.executable, "-m", "edge_ws.cli", "worker", "--url", url, "-H", "w1", "-q", "q"]
    command += ["-c", str(SLOTS), "--token-file", str(path), "--state-dir", str(folder / "state")]
    command += ["--transport", transport]
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=site.environment(HOME=str(site.folder)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


LEAVING = ("the gateway is leaving", "closed the connection in place of an answer")
"""What a worker may meet at a gateway that leaves."""


def starts(api: ExecutionApi, job: TaskWorkload) -> int:
    return sum(call.path.endswith("/run") for call in api.calls_of(job.id))


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
def test_gateways_restart_in_turn_while_jobs_flow(
    tmp_path: Path, database: str, centre: Centre, transport: str
) -> None:
    stream = Stream(centre)
    token = make_token(Store(centre.engine))
    with (
        execution_api() as api,
        server(tmp_path, database, "--airflow-url", api.url.removesuffix("/execution/")) as first,
        server(tmp_path, database, "--airflow-url", api.url.removesuffix("/execution/")) as second,
    ):
        ready(first, second)
        with (
            forwarding([first.port, second.port]) as forwarder,
            worker(tmp_path, f"http://127.0.0.1:{forwarder.port}", token, transport) as log,
        ):
            wait_until(lambda: "taking jobs" in log.read_text(), 60)
            stream.flow(lambda: stream.states().count("success") >= 5)
            for one in (first, second):
                one.signal()
                stream.flow(lambda one=one: one.code is not None)
                assert one.code == 0
                one.start()
                stream.flow(one.is_ready)
            wait_until(lambda: set(stream.states()) == {"success"}, 120, every_s=0.1)
            said = log.read_text()
            assert "the gateway is leaving" in said
            # A balancer that does not ask who is well may still hand a request to the one that leaves.
            away = [line for line in said.splitlines() if "not connected" in line]
            assert [line for line in away if not any(why in line for why in LEAVING)] == []
            # Each ran once, and its whole log arrived.
            assert [job.id for job in stream.jobs if starts(api, job) != 1] == []
            central = tmp_path / "central"
            wait_until(lambda: all((central / job.log_path).exists() for job in stream.jobs), 60)
            for job in stream.jobs:
                assert (central / job.log_path).read_text().count("hello from the task") == 1
