"""`--url`: what is sent to a gateway, what is refused before, and what becomes of each answer."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from edge_ws.cli import main
from edge_ws.cli.main import INTERRUPTED
from tests.support.certificates import Authority
from tests.support.entrances import Entrance, open_entrance, server_context
from tests.support.http import http_server
from tests.support.programs import clean_environment, run_python, start_python
from tests.support.waiting import free_port

SET = ("set-worker-concurrency", "-H", "oven", "-c", "3")
TOLD = {
    "worker_name": "oven",
    "kind": "edge-ws",
    "state": "idle",
    "revision": 7,
    "told": "concurrency 3",
    "error": None,
}


class Gateway:
    """Answers as it is told to, and notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, bytes]] = []
        self.answers: dict[str, Response] = {"set-worker-concurrency": JSONResponse(TOLD)}
        self.url = ""

    async def answer(self, request: Request) -> Response:
        name = request.path_params["name"]
        target = f"{name}?{request.url.query}" if request.url.query else name
        token = request.headers.get("authorization", "")
        self.asked.append((request.method, target, token, await request.body()))
        return self.answers[name]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    routes = [Route("/af/edge-ws/v1/admin/{name}", gateway.answer, methods=["GET", "POST"])]
    with http_server(Starlette(routes=routes)) as url:
        gateway.url = f"{url}/af/"
        yield gateway


@pytest.fixture(autouse=True)
def _my_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_WS_ADMIN_TOKEN", "my.jwt.token")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_change_is_a_post_with_the_users_token(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SET, "--url", gateway.url]) == 0
    assert capsys.readouterr().out == "oven: concurrency 3\n"
    ((method, target, token, body),) = gateway.asked
    assert (method, target, token) == ("POST", "set-worker-concurrency", "Bearer my.jwt.token")
    assert json.loads(body) == {"worker": "oven", "concurrency": 3}


def test_a_look_is_a_get_and_lists_are_repeated(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("another.token\n")
    gateway.answers["list-workers"] = JSONResponse([])
    words = ["list-workers", "-s", "idle", "maintenance mode", "-q", "a,b", "-o", "json"]
    assert main([*words, "--url", gateway.url, "--token-file", str(tmp_path / "token")]) == 0
    assert capsys.readouterr().out == "[]\n"
    ((method, target, token, _),) = gateway.asked
    assert (method, token) == ("GET", "Bearer another.token")
    assert target == "list-workers?state=idle&state=maintenance+mode&queues=a&queues=b"


def test_it_waits_there_too(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.answers["list-workers"] = JSONResponse([{"worker_name": "oven", "kind": "edge-ws"}])
    gateway.answers["applied"] = JSONResponse({"oven": 7})
    assert main([*SET, "-w", "--url", gateway.url]) == 0
    assert capsys.readouterr().out.startswith("oven: concurrency 3; applied in ")
    assert [target for _, target, _, _ in gateway.asked] == [
        "list-workers?worker_name_pattern=oven",
        "set-worker-concurrency",
        "applied?worker=oven",
    ]
    gateway.answers["applied"] = JSONResponse({"oven": 6})
    assert main([*SET, "-w", "--wait-timeout", "0.05", "--url", gateway.url]) == 1


def _refusal(status: int, code: str, sentence: str) -> Response:
    body = {"error": code, "sentence": sentence, "retry_after_s": None}
    return JSONResponse(body, status_code=status, headers={"edge-ws-error": code})


@pytest.mark.parametrize(
    ("answer", "code", "part"),
    [
        (_refusal(400, "usage", "no worker named oven"), 2, "no worker named oven"),
        (_refusal(401, "token", "the token has expired"), 3, "the token has expired"),
        (_refusal(403, "not_admitted", "user vera may not"), 3, "user vera may not"),
        (_refusal(404, "not_found", "there is no v1/admin/x"), 2, "there is no"),
        (_refusal(503, "unavailable", "the gateway is starting"), 4, "the gateway is starting"),
        (PlainTextResponse("Not Found", 404), 4, "answered HTTP 404, and not as a gateway of edge-ws does"),
        (PlainTextResponse("hello"), 4, "answered HTTP 200, and not as a gateway"),
        (JSONResponse({"detail": "no"}, 401), 4, "answered HTTP 401, and not as a gateway"),
        (Response(status_code=302, headers={"location": "/login"}), 4, "answered HTTP 302"),
    ],
)
def test_each_refusal_has_its_code(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], answer: Response, code: int, part: str
) -> None:
    gateway.answers["set-worker-concurrency"] = answer
    assert main([*SET, "--url", gateway.url]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert part in told.err
    assert len(told.err.splitlines()) == 1
    assert "my.jwt" not in told.err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--url nonsense", "--url: it must be Airflow's URL"),
        ("--url http://me:geheim@localhost", "--url: it must be Airflow's URL"),
        ("--url http://airflow.example.com", "airflow.example.com is plain http, and leads to another"),
        ("--url https://a..b.example", "--url: it must be Airflow's URL"),
        (f"--url https://{'a' * 64}.example", "--url: it must be Airflow's URL"),
        ("--url https://1.2.3.999", "--url: it must be Airflow's URL"),
        ("--url https://\u200d.example", "--url: "),
        (f"--url https://airflow.example.com/{'x' * 70_000}", "--url: URL too long"),
        ("--url http://localhost --token-file /nowhere", "--token-file: /nowhere cannot be read"),
        ("--url http://localhost --token-file {empty}", "holds no token"),
        ("--url http://localhost --ca-file {empty}", "--ca-file: there is no certificate in PEM form"),
        ("--url http://localhost --ca-file /nowhere", "--ca-file: /nowhere cannot be read"),
    ],
)
def test_a_wrong_flag_is_a_sentence(
    words: str, part: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert main([*SET, *words.format(empty=empty).split()]) == 2
    told = capsys.readouterr().err
    assert part in told
    assert "geheim" not in told


def test_an_empty_url_is_not_taken_for_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SET, "--url", ""]) == 2
    assert "--url: it must be Airflow's URL" in capsys.readouterr().err


def test_a_wrong_proxy_says_how_to_go_past_it(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://proxy:1080")
    assert main([*SET, "--url", gateway.url]) == 2
    told = capsys.readouterr().err
    assert "HTTP_PROXY: a SOCKS proxy" in told
    assert "to go past it, name 127.0.0.1 in NO_PROXY" in told
    assert "--proxy" not in told
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert main([*SET, "--url", gateway.url]) == 0


NASTY = "x\rw2 | running \x1b[2J\u202e\x85"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["show-job", "d", "r", "t"], {"verdict": NASTY, "advice": NASTY, "worker": NASTY}),
        (["show-worker", "-H", "w"], {"worker_name": "w", "sysinfo": {NASTY: NASTY}}),
        (["list-workers"], [{"worker_name": "w", "maintenance_comment": NASTY, "queues": [NASTY]}]),
        ([*SET], {**TOLD, "told": NASTY}),
        ([*SET], {**TOLD, "error": NASTY}),
        (["set-worker-concurrency", "-H", "*", "-c", "3"], [{"worker_name": NASTY, "kind": "edge-ws"}]),
    ],
)
def test_a_workers_words_do_nothing_to_the_terminal(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], words: list[str], answer: object
) -> None:
    for name in (words[0], "list-workers"):
        gateway.answers[name] = JSONResponse(answer)
    main([*words, "--url", gateway.url])
    told = capsys.readouterr()
    assert "w2 | running  [2J" in told.out + told.err
    assert all(one.isprintable() for one in (told.out + told.err).replace("\n", ""))


def test_without_a_token_nobody_is_asked(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_WS_ADMIN_TOKEN")
    assert main([*SET, "--url", gateway.url]) == 2
    told = capsys.readouterr().err
    assert "--url: there is no --token-file, and EDGE_WS_ADMIN_TOKEN holds no token; Airflow's POST" in told
    assert gateway.asked == []


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SET, "--url", f"http://127.0.0.1:{free_port()}"]) == 4
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize("more", ["edge-ws", "edge-ws/"])
def test_the_gateways_own_url_is_taken_too(gateway: Gateway, more: str) -> None:
    assert main([*SET, "--url", f"{gateway.url}{more}"]) == 0
    assert len(gateway.asked) == 1


def test_ctrl_c_stops_the_waiting_and_says_so(gateway: Gateway, tmp_path: Path) -> None:
    gateway.answers["list-workers"] = JSONResponse([{"worker_name": "oven", "kind": "edge-ws"}])
    gateway.answers["applied"] = JSONResponse({"oven": 6})
    program = (
        "import signal, sys; from edge_ws.cli import main\n"
        # A shell has its background jobs ignore it, and their children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    environment = clean_environment(tmp_path, EDGE_WS_ADMIN_TOKEN="x.y.z")
    words = ("-c", program, *SET, "-w", "--url", gateway.url)
    with start_python(*words, environment=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = process.stderr.readline()
        assert told == "oven: concurrency 3; waiting up to 30 s until it has applied it\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped waiting; the wish stands\n"
        assert process.stdout.read() == ""
    assert process.returncode == INTERRUPTED


def test_a_private_authority(gateway: Gateway, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    port = int(gateway.url.split(":")[2].removesuffix("/af/"))
    with open_entrance(Entrance(target=port, context=server_context(authority.server()))) as entrance:
        words = [*SET, "--url", f"https://localhost:{entrance.port}/af"]
        assert main(words) == 4
        assert "certificate" in capsys.readouterr().err
        assert main([*words, "--ca-file", str(authority.file)]) == 0


def test_it_needs_neither_airflow_nor_a_database(gateway: Gateway, tmp_path: Path) -> None:
    heavy = ("airflow", "sqlalchemy", "alembic", "starlette", "fastapi")
    program = (
        "import sys; from edge_ws.cli import main; code = main(sys.argv[1:]);"
        f"print({{m.split('.')[0] for m in sys.modules}} & set({heavy!r})); sys.exit(code)"
    )
    environment = clean_environment(tmp_path, EDGE_WS_ADMIN_TOKEN="x.y.z")
    done = run_python("-c", program, *SET, "--url", gateway.url, environment=environment)
    assert (done.returncode, done.stdout) == (0, "oven: concurrency 3\nset()\n"), done.stderr
