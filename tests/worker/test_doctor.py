"""The doctor against a real gateway, and against ways and machines that lack something."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from edge_ws.worker.config import Machine, resolve
from edge_ws.worker.doctor import centre, here, way
from edge_ws.worker.doctor.checks import CHECKS, Check, examine
from edge_ws.worker.doctor.context import Context, Found, Status, failed, ok
from tests.support.addresses import black_hole, resolving
from tests.support.breaker import Upgrades, breaking
from tests.support.certificates import Authority
from tests.support.entrances import Entrance, open_entrance, server_context
from tests.support.firewall import Verdict, firewall
from tests.support.gateway import RunningGateway, connected, make_token, serving
from tests.support.programs import clean_environment, run_edge_ws
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.anyio
OF_THE_WAY = tuple(check for check in CHECKS if check.look not in {here.dag_bundles, centre.execution_api})


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    with serving(store, GatewaySettings(hostname="test", versions={"edge_ws": "0.1.0"})) as gateway:
        yield gateway


@pytest.fixture
def context(store: Store, gateway: RunningGateway, tmp_path: Path) -> Context:
    """One in which all is well."""
    return _context(gateway.base_url, make_token(store), tmp_path)


async def test_the_token_may_come_from_a_command(store: Store, context: Context) -> None:
    token = make_token(store)
    assert (await way.settings(context)).status is Status.OK
    context.config = replace(context.config, token=None, token_command=f"printf {token}")
    context.token = ""
    assert (await centre.token(context)).status is Status.OK
    context.config = replace(context.config, token_command="false geheim")
    context.token = ""
    found = await centre.token(context)
    assert (found.status, "exit code 1" in found.detail, "geheim" in found.detail) == (
        Status.FAILED,
        True,
        False,
    )


def _context(
    url: str, token: str, folder: Path, environ: dict[str, str] | None = None, **settings: object
) -> Context:
    flags = {name: value if isinstance(value, bool) else str(value) for name, value in settings.items()}
    machine = Machine(hostname="w1", is_root=False, default_file=folder / "worker.toml")
    told = {"url": url, "edge_hostname": "w1", "state_dir": str(folder / "state"), **flags}
    config = resolve(told, {"EDGE_WS_TOKEN": token, **(environ or {})}, machine).config
    return Context(config=config, environ=environ or {}, hold_s=0.5)


def _with(context: Context, **changes: object) -> Context:
    return replace(context, config=replace(context.config, **changes))


async def _all(context: Context, checks: Sequence[Check] = OF_THE_WAY) -> dict[str, Found]:
    return {name: found async for name, found in examine(context, checks)}


async def _until(context: Context, name: str) -> Found:
    """Return what one check finds, and that all before it were well."""
    names = [check.name for check in OF_THE_WAY]
    told = await _all(context, OF_THE_WAY[: names.index(name) + 1])
    *before, _ = (found.status for found in told.values())
    assert set(before) <= {Status.OK}, told
    return told[name]


# All is well


async def test_all_is_well(context: Context) -> None:
    told = await _all(context)
    assert {name: found for name, found in told.items() if found.status is not Status.OK} == {}
    assert told["token"].detail == "taken for w1, queues all"
    assert told["tls"].detail == "not used: plain http"
    assert told["held_poll"].detail == "a request can be held for 0.5 s"
    assert told["round_trip"].detail.endswith("(median of 5)")
    assert told["gateway"].detail == "edge-ws 0.1.0 with 0 workers"


async def test_a_worker_of_that_name_is_not_disturbed(
    context: Context, store: Store, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(gateway, context.token or make_token(store, "w1")) as peer:
        health = f"{gateway.base_url}/edge-ws/health"
        await until(lambda: httpx2.get(health, trust_env=False).json()["workers"] == 1)
        before = store.views.workers()
        caplog.set_level(logging.INFO)
        caplog.clear()
        told = await _all(context)
        assert {found.status for found in told.values()} == {Status.OK}
        assert (await peer.connection.ping()) is not None
        assert store.views.workers()[0].state == before[0].state
        assert not peer.received
        assert peer.connection.close_code is None
        # Not a word of it at the centre either.
        assert [record for record in caplog.records if record.name.startswith("edge_ws.server")] == []


async def test_through_tls_and_a_proxy(store: Store, gateway: RunningGateway, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    context = server_context(authority.server())
    with (
        open_entrance(Entrance(target=gateway.port, context=context)) as tls,
        open_entrance(Entrance(credentials="me:geheim")) as proxy,
    ):
        url = f"https://localhost:{tls.port}"
        for environ in ({"HTTPS_PROXY": f"http://me:geheim@127.0.0.1:{proxy.port}"}, {}):
            context = _context(url, make_token(store), tmp_path, environ, ca_file=authority.file)
            told = await _all(context)
            others = {name: found for name, found in told.items() if found.status is not Status.OK}
            # The test's certificates are good for a day.
            assert set(others) == {"tls"}
            assert others["tls"].status is Status.WARNING
            assert "certificate by A factory's own authority expires in 0 days" in others["tls"].detail
            assert "geheim" not in str(told)
        assert len(proxy.asked) > 5


# What is wrong


async def _sees(context: Context, name: str, status: Status, *parts: str) -> None:
    found = await _until(context, name)
    assert found.status is status, found
    for part in parts:
        assert part in f"{found.detail} -> {found.advice}"


async def test_a_limit_of_sizes_is_found(gateway: RunningGateway, context: Context) -> None:
    assert (await _all(context))["message_size"] == Found(Status.OK, "messages of 128 KiB pass")
    for verdict in (Verdict.TOO_LARGE, Verdict.RESET):
        with firewall(gateway.port, 20_000, verdict) as wall:
            limited = _with(context, url=wall.url)
            await way.settings(limited)
            limited.token = context.token
            found = await centre.message_size(limited)
        assert found.status is Status.WARNING
        limits = [int(number) for number in re.findall(r"more than about (\d+) bytes", found.detail)]
        assert len(limits) == 2, found
        assert all(15_000 <= limit <= 20_000 for limit in limits), found


@pytest.mark.parametrize("by_proxy", [False, True])
async def test_the_dead_one_of_two_addresses_is_named(
    gateway: RunningGateway, context: Context, monkeypatch: pytest.MonkeyPatch, by_proxy: bool
) -> None:
    with black_hole(gateway.port) as dead:
        resolving(monkeypatch, {"two.test": [dead, "127.0.0.1"]})
        two = f"http://two.test:{gateway.port}"
        half = _with(context, proxy=two) if by_proxy else _with(context, url=two, allow_insecure=True)
        await way.settings(half)
        found = await way.tcp(half)
    assert found.status is Status.WARNING
    assert f"127.0.0.1 can be connected to, but not {dead} (no answer within 5 s)" in found.detail


async def test_settings(context: Context, tmp_path: Path) -> None:
    gone = _with(context, ca_file=tmp_path / "gone.pem")
    told = await _all(gone)
    assert told["settings"].status is Status.FAILED
    assert "--ca-file: " in told["settings"].detail
    assert told["held_poll"] == Found(Status.SKIPPED, "needs token")
    assert (told["disk"].status, told["versions"].status) == (Status.OK, Status.OK)

    plain = _context("http://localhost.example.com", "t", tmp_path)
    assert "give an https URL, or allow it with --allow-insecure" in (await way.settings(plain)).advice
    allowed = _with(plain, allow_insecure=True)
    assert (await way.settings(allowed)).status is Status.WARNING


async def test_names_and_ports(tmp_path: Path) -> None:
    url = "https://no-such-host.invalid"
    await _sees(
        _context(url, "t", tmp_path), "dns", Status.FAILED, "no-such-host.invalid cannot be found", "--url"
    )
    url = f"https://127.0.0.1:{free_port()}"
    await _sees(_context(url, "t", tmp_path), "tcp", Status.FAILED, "Connection refused", "HTTPS_PROXY")


async def test_proxies(gateway: RunningGateway, tmp_path: Path) -> None:
    with open_entrance(Entrance(credentials="me:geheim")) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        context = _context("https://localhost", "t", tmp_path, proxy=url)
        await _sees(context, "proxy", Status.FAILED, "status 407", "--proxy http://user:password@")
    with open_entrance(Entrance(refusal=b"HTTP/1.1 403 No\r\n\r\n")) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        context = _context("https://localhost", "t", tmp_path, proxy=url)
        await _sees(context, "proxy", Status.FAILED, "status 403 -> have that allowed there")
        context = _context(gateway.base_url, "t", tmp_path, proxy=url)
        await _sees(context, "proxy", Status.WARNING, "status 403", "long-poll does not")
    with open_entrance(Entrance(refusal=b"220 mail\r\n\r\n")) as proxy:
        context = _context("https://localhost", "t", tmp_path, proxy=f"http://127.0.0.1:{proxy.port}")
        await _sees(context, "proxy", Status.FAILED, "does not speak HTTP -> see --proxy")
    context = _context("https://localhost", "t", tmp_path, proxy=f"http://127.0.0.1:{free_port()}")
    await _sees(context, "proxy", Status.FAILED, "cannot be reached: Connection refused -> see --proxy")
    context = _context(
        "https://localhost", "t", tmp_path, {"HTTPS_PROXY": "http://p", "NO_PROXY": "localhost"}
    )
    assert (await way.settings(context)).status is Status.OK
    assert await way.by_proxy(context) == ok("none, by NO_PROXY")


async def test_certificates(gateway: RunningGateway, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    context = server_context(authority.server(expired=True))
    with open_entrance(Entrance(target=gateway.port, context=context)) as tls:
        url = f"https://localhost:{tls.port}"
        context = _context(url, "t", tmp_path, ca_file=authority.file)
        await _sees(context, "tls", Status.FAILED, "has expired -> renew it at the centre")
        await _sees(_context(url, "t", tmp_path), "tls", Status.FAILED, "not trusted: ", "--ca-file")
    context = _context(f"https://127.0.0.1:{gateway.port}", "t", tmp_path)
    await _sees(context, "tls", Status.FAILED, "-> is it a plain http address?")


async def test_the_wrong_server(context: Context, gateway: RunningGateway) -> None:
    elsewhere = _with(context, url=f"{gateway.base_url}/elsewhere")
    await _sees(elsewhere, "gateway", Status.FAILED, "answered with HTTP status 404", "[edge_ws] api_enabled")


@pytest.mark.parametrize(
    ("token", "changes", "parts"),
    [
        (
            "nonsense",
            {},
            ("token refused by http://127.0.0.1", "unknown here", "airflow edge-ws token create"),
        ),
        (None, {"token": None}, ("no token: give --token-file",)),
        (None, {"token": None, "token_file": Path("/gone")}, ("the token file /gone cannot be read",)),
        (None, {"name": "other"}, ("it admits workers named w*, not other",)),
        (None, {"queues": ("a", "b")}, ("it admits queues a, c, not b", "change --queues")),
        (None, {"team": "blue"}, ("it is for team red, not blue", "change --team-name")),
    ],
)
async def test_tokens(
    context: Context, store: Store, token: str | None, changes: dict[str, object], parts: tuple[str, ...]
) -> None:
    secret = token or make_token(store, queues=["a", "c"], team="red")
    await _sees(_with(context, **{"token": secret, **changes}), "token", Status.FAILED, *parts)


async def test_what_a_token_admits_is_told(context: Context, store: Store) -> None:
    limited = _with(context, token=make_token(store, queues=["a", "c"], team="red"))
    assert await _until(limited, "token") == ok("taken for w1, queues a, c, team red")
    fewer = _with(limited, queues=("a",))
    assert await _until(fewer, "token") == ok("taken for w1, queues a, team red")


async def test_clocks(context: Context) -> None:
    assert (await centre.clock(replace(context, ahead_s=-2.0))) == ok("2.0 s from the centre's")
    told = await centre.clock(replace(context, ahead_s=600.0))
    assert (told.status, told.detail) == (Status.WARNING, "this machine's clock is 600 s behind the centre's")
    told = await centre.clock(replace(context, ahead_s=-600.0))
    assert told.detail == "this machine's clock is 600 s ahead of the centre's"


async def test_protocols(context: Context) -> None:
    told = await centre.protocol(replace(context, health={"protocol": 99, "oldest_protocol": 98}))
    assert (told.status, told.advice) == (Status.FAILED, "upgrade edge-ws here")
    told = await centre.protocol(replace(context, health={"protocol": 0, "oldest_protocol": 0}))
    assert (told.status, told.advice) == (Status.FAILED, "upgrade edge-ws at the centre")


@pytest.mark.parametrize(
    ("upgrades", "part"),
    [
        (Upgrades.REFUSED, "something on the way does not let WebSockets pass"),
        (Upgrades.CLOSED, "broke off"),
    ],
)
async def test_websockets_that_are_blocked(
    context: Context, gateway: RunningGateway, upgrades: Upgrades, part: str
) -> None:
    with breaking([gateway.port], upgrades) as firewall:
        blocked = _with(context, url=f"http://127.0.0.1:{firewall.port}")
        await _sees(blocked, "websocket", Status.WARNING, part, "the worker uses long-poll")
        only = _with(blocked, transport="websocket")
        await _sees(only, "websocket", Status.FAILED, part)


async def test_a_request_that_is_cut(context: Context, gateway: RunningGateway) -> None:
    class Impatient(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(0.2)
            self.send_error(504)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with _web_server(Impatient) as url:
        cut = _with(context, url=url)
        assert (await way.settings(cut)).status is Status.OK
        told = await centre.held_poll(cut)
        assert told.status is Status.WARNING
        assert "a request is cut after 0." in told.detail
        assert "HTTP status 504" in told.detail


async def test_quick_leaves_out_what_is_slow(context: Context) -> None:
    context.is_quick = True
    assert (await _all(context))["held_poll"] == Found(Status.SKIPPED, "left out by --quick")


@contextmanager
def _web_server(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answering(body: object, shown: list[str | None]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers["authorization"])
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


async def test_the_execution_api(context: Context, gateway: RunningGateway) -> None:
    assert (await way.settings(context)).status is Status.OK
    told = await centre.execution_api(context)
    assert told.status is Status.FAILED
    assert f"{gateway.base_url}/execution/health answered with HTTP status 404" in told.detail
    assert "[edge_ws] execution_api_url" in told.advice
    for body, status in (({"status": "healthy"}, Status.OK), ({"hello": "x"}, Status.FAILED)):
        shown: list[str | None] = []
        with _web_server(_answering(body, shown)) as url:
            elsewhere = replace(context, whoami={"execution_api_url": f"{url}/execution/"})
            told = await centre.execution_api(elsewhere)
            assert told.status is status, told
        # Neither a token nor room for one that Airflow itself would put there.
        assert shown == ["none"]
    for host, sentence in (("a..b", "cannot be found"), ("1.2.3.999", "cannot be reached")):
        elsewhere = replace(context, whoami={"execution_api_url": f"http://{host}/execution/"})
        told = await centre.execution_api(elsewhere)
        assert (told.status, sentence in told.detail) == (Status.FAILED, True), told


# This machine


async def test_versions(context: Context) -> None:
    ours = await here.versions(context)
    assert ours.status is Status.OK
    assert "here Airflow 3." in ours.detail
    assert "centre unknown" in ours.detail
    older = await here.versions(
        replace(context, health={"versions": {"airflow": "3.0.1", "python": "3.12.1"}})
    )
    assert (older.status, "older clients only" in older.advice) == (Status.WARNING, True)


@pytest.fixture
def airflow_home(tmp_path: Path) -> dict[str, str]:
    return clean_environment(tmp_path, AIRFLOW__CORE__LOAD_EXAMPLES="False")


@pytest.mark.parametrize(
    ("folder", "status", "part"),
    [
        ("elsewhere", Status.FAILED, "bundle dags-folder: {dags} is no folder that can be read"),
        ("dags", Status.WARNING, "bundle dags-folder: {dags} holds no DAG file"),
        ("dags/sub", Status.WARNING, "bundle dags-folder: {dags} holds no DAG file"),
    ],
)
async def test_dags_that_are_missing(
    context: Context, airflow_home: dict[str, str], folder: str, status: Status, part: str
) -> None:
    home = Path(airflow_home["HOME"])
    (home / folder).mkdir(parents=True)
    environ = {**airflow_home, "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags")}
    told = await here.dag_bundles(replace(context, environ=environ))
    assert told.status is status, told
    assert part.format(dags=home / "dags") in told.detail


async def test_bundles_that_cannot_be_made(
    context: Context, airflow_home: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "one.py").touch()
    bundles = [
        {
            "name": "mine",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(tmp_path)},
        },
        {
            "name": "odd",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"x": 1},
        },
    ]
    variable = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"
    told = await here.dag_bundles(replace(context, environ={**airflow_home, variable: json.dumps(bundles)}))
    assert (told.status, "bundle odd cannot be made: TypeError" in told.detail) == (Status.FAILED, True)
    told = await here.dag_bundles(
        replace(context, environ={**airflow_home, variable: json.dumps(bundles[:1])})
    )
    assert told == ok(f"mine in {tmp_path}")
    told = await here.dag_bundles(replace(context, environ={**airflow_home, variable: "nonsense"}))
    assert (told.status, "Airflow does not load: " in told.detail) == (Status.FAILED, True)


async def test_the_disk(context: Context, tmp_path: Path) -> None:
    assert "GiB free for" in (await here.disk(context)).detail
    (tmp_path / "file").touch()
    told = await here.disk(_with(context, state_dir=tmp_path / "file" / "state"))
    assert (told.status, told.advice.startswith("give another --state-dir")) == (Status.FAILED, True)
    assert not (tmp_path / "state").exists()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    told = await here.disk(_with(context, state_dir=tmp_path / "open"))
    assert told.status == Status.FAILED
    assert "chmod 700" in told.detail


# The order


async def test_what_needs_something_that_failed_is_left_out() -> None:
    looked: list[str] = []

    def look(name: str, found: Found) -> Check:
        async def run(context: Context) -> Found:
            looked.append(name)
            await asyncio.sleep(0)
            return found

        needs = {"b": "a", "c": "b", "d": "a"}
        return Check(name, run, needs.get(name))

    machine = Machine(hostname="w1", is_root=False, default_file=Path("/gone"))
    context = Context(config=resolve({"url": "https://x"}, {}, machine).config, environ={})
    checks = [look("a", ok("")), look("b", failed("no")), look("c", ok("")), look("d", ok(""))]
    told = await _all(context, checks)
    assert looked == ["a", "b", "d"]
    assert told["c"] == Found(Status.SKIPPED, "needs b")
    names = [check.name for check in CHECKS]
    assert all(check.needs in {None, *names[:index]} for index, check in enumerate(CHECKS))


# The command line


def test_the_command(store: Store, gateway: RunningGateway, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(make_token(store))
    (tmp_path / "token").chmod(0o600)
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "one.py").touch()
    words = ["--url", gateway.base_url, "-H", "w1", "--token-file", str(tmp_path / "token"), "--quick"]
    words += ["--state-dir", str(tmp_path / "state")]
    environment = clean_environment(
        tmp_path, AIRFLOW__CORE__DAGS_FOLDER=str(dags), AIRFLOW__CORE__LOAD_EXAMPLES="False"
    )
    done = run_edge_ws("doctor", *words, environment=environment)
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == [check.name for check in CHECKS]
    # Nothing serves an Execution API beside the test's gateway.
    assert (done.returncode, [line.split()[:2] for line in lines if not line.startswith(("OK", "skip"))]) == (
        1,
        [["FAIL", "execution_api"]],
    )
    assert done.stderr == ""

    done = run_edge_ws("doctor", *words, "-o", "json", environment=environment)
    rows = json.loads(done.stdout)
    assert [row["check"] for row in rows] == [check.name for check in CHECKS]
    assert {frozenset(row) for row in rows} == {frozenset({"check", "status", "detail", "advice"})}
    assert not (tmp_path / "state").exists()


def test_the_command_without_a_url(tmp_path: Path) -> None:
    done = run_edge_ws("doctor", environment=clean_environment(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "no URL: give --url" in done.stderr
