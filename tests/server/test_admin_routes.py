"""`v1/admin/` by HTTP, with users of the test's own: who may do what, and what is refused how."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from edge_ws.errors import EdgeWsError, RefusedError, UnreachableError, UsageError
from edge_ws.protocol.ids import GatewayId
from edge_ws.server.admin_routes import MAX_BODY, Admin
from edge_ws.server.app import _ANY_METHOD
from edge_ws.server.events import Events
from edge_ws.server.figures import Figures
from edge_ws.server.ports import User
from edge_ws.store.store import Store
from tests.support.rows import enqueue, new_job
from tests.support.workers import register_worker

SET = "/v1/admin/set-worker-concurrency"
BODY = {"worker": "oven", "concurrency": 3}


class KnownUsers:
    """Users whose token is their name."""

    def __init__(self, **faults: Exception) -> None:
        self._faults = faults

    def user(self, token: str) -> User:
        if token in self._faults:
            raise self._faults[token]
        if token not in {"vera", "otto", "mary"}:
            raise RefusedError("token", "the token is nobody's")
        return User(
            name=token,
            may_read=token != "mary",
            may_manage=token != "vera",
            read_right="the right to look",
            manage_right="the right to touch",
        )


class NoTasks:
    """Airflow knows none."""

    def look_up(
        self, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int | None = None
    ) -> NoReturn:
        raise UsageError(f"Airflow knows no DAG {dag_id}")

    def log_end(self, log_path: str) -> bytes:
        return b""


def _client(store: Store, users: KnownUsers | None = None, here: Here | None = None) -> TestClient:
    admin = Admin(store, users or KnownUsers(), NoTasks(), here=here)
    return TestClient(Starlette(routes=[Route("/v1/admin/{name:path}", admin.answer, methods=_ANY_METHOD)]))


def _by(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    store = Store(sqlite_engine)
    for name in ("oven", "press-1", "press-2"):
        register_worker(store, name, queues=("a",))
    return store


@pytest.fixture
def client(store: Store) -> TestClient:
    return _client(store)


def _names(client: TestClient, query: str) -> list[str]:
    answer = client.get(f"/v1/admin/list-workers{query}", headers=_by("vera"))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return [row["worker_name"] for row in answer.json()]


def test_to_see_takes_the_right_to_see(client: TestClient) -> None:
    assert _names(client, "") == ["oven", "press-1", "press-2"]
    assert _names(client, "?worker_name_pattern=press-*&state=idle&state=running&queues=a") == [
        "press-1",
        "press-2",
    ]
    refused = client.get("/v1/admin/list-workers", headers=_by("mary"))
    assert refused.status_code == 403
    assert refused.json()["error"] == refused.headers["edge-ws-error"] == "not_admitted"
    assert refused.json()["sentence"] == "user mary may not see workers and jobs: it takes the right to look"


def test_to_change_takes_the_right_to_manage(
    client: TestClient, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    refused = client.post(SET, json=BODY, headers=_by("vera"))
    assert refused.status_code == 403
    assert refused.json()["sentence"] == "user vera may not change workers: it takes the right to touch"
    with caplog.at_level(logging.INFO, "edge_ws.server.admin_routes"):
        done = client.post(SET, json=BODY, headers=_by("mary"))
    assert done.status_code == 200
    assert (done.json()["worker_name"], done.json()["told"]) == ("oven", "concurrency 3")
    ours = [one.getMessage() for one in caplog.records if one.name == "edge_ws.server.admin_routes"]
    assert ours == ['"mary" wishes: set-worker-concurrency {"worker": "oven", "concurrency": 3}']
    (oven,) = [worker for worker in store.views.workers() if worker.name == "oven"]
    assert oven.wished_concurrency == 3


def test_many_at_once(client: TestClient) -> None:
    told = client.post(SET, json={**BODY, "worker": ["oven", "nobody"]}, headers=_by("otto")).json()
    assert [row["error"] is None for row in told] == [True, False]
    unsure = client.post(SET, json={**BODY, "worker": "press-*"}, headers=_by("otto"))
    assert (unsure.status_code, unsure.json()["error"]) == (400, "usage")
    sure = client.post(SET, json={**BODY, "worker": "press-*", "yes": True}, headers=_by("otto"))
    assert [row["worker_name"] for row in sure.json()] == ["press-1", "press-2"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer nobody")],
        [("authorization", "Bearer ")],
        [("authorization", "Basic b3R0bzpvdHRv")],
        [("cookie", "_token=nobody"), ("sec-fetch-site", "same-origin")],
        [("cookie", "session=otto"), ("sec-fetch-site", "same-origin")],
        [("cookie", "_token=otto"), ("sec-fetch-site", "same-origin"), ("authorization", "Bearer nobody")],
        [("edge-ws-token", "otto")],
        # The client's own is the first; Airflow may append another.
        [("authorization", "Bearer nobody"), ("authorization", "Bearer otto")],
        [("authorization", "Basic b3R0bzpvdHRv"), ("authorization", "Bearer otto")],
    ],
)
def test_without_a_good_token_of_ones_own_nobody_is_let_in(
    client: TestClient, store: Store, headers: list[tuple[str, str]]
) -> None:
    for answer in (
        client.get("/v1/admin/list-workers", headers=headers),
        client.post(SET, json=BODY, headers=headers),
        client.get("/v1/admin/no-such-thing", headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["edge-ws-error"] == "token"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "worker" not in answer.json()
    assert all(worker.wished_concurrency is None for worker in store.views.workers())


def test_the_clients_header_goes_before_one_that_is_appended(client: TestClient) -> None:
    headers = [("authorization", "Bearer vera"), ("authorization", "Bearer otto")]
    assert client.post(SET, json=BODY, headers=headers).status_code == 403


def _post(client: TestClient, body: bytes, kind: str = "application/json") -> tuple[int, str, str]:
    answer = client.post(SET, content=body, headers={**_by("otto"), "content-type": kind})
    return answer.status_code, answer.headers["edge-ws-error"], answer.json()["sentence"]


@pytest.mark.parametrize(
    ("body", "status", "code", "part"),
    [
        (b"[]", 400, "usage", "no JSON object such as"),
        (b"{", 400, "usage", "no JSON object"),
        (b"\xff", 400, "usage", "no JSON object"),
        (b"[" * 100_000, 400, "usage", "no JSON object"),
        (b"", 400, "usage", "needs worker"),
        (b'{"worker": "oven", "concurrency": "3"}', 400, "usage", "concurrency must be a whole number"),
        (b'{"worker": "nobody", "concurrency": 3}', 400, "usage", "no worker named nobody"),
        (b'{"worker": "\\u0000", "concurrency": 3}', 400, "usage", "worker: '\\x00' has a character"),
        (b'{"worker": "\\ud800", "concurrency": 3}', 400, "usage", "worker: '\\ud800' has a character"),
        (b'{"worker": ["\\ud800"], "concurrency": 3}', 400, "usage", "worker: '\\ud800' has a character"),
        (b'{"\\ud800": "oven"}', 400, "usage", "not '\\ud800'"),
        (b'{"worker": "oven", "concurrency": 99999999999999999999}', 400, "usage", "the number is not"),
        (b" " * (MAX_BODY + 1), 413, "too_large", "over the limit"),
    ],
)
def test_a_wrong_body_is_a_sentence(
    client: TestClient, body: bytes, status: int, code: str, part: str
) -> None:
    told = _post(client, body)
    assert told[:2] == (status, code)
    assert part in told[2]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_of_a_strange_page_changes_nothing(client: TestClient, store: Store, kind: str) -> None:
    assert _post(client, json.dumps(BODY).encode(), kind)[:2] == (415, "type")
    assert all(worker.wished_concurrency is None for worker in store.views.workers())


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", SET, 405, "method"),
        ("POST", "/v1/admin/list-workers", 405, "method"),
        ("DELETE", "/v1/admin/list-workers", 405, "method"),
        ("GET", "/v1/admin/no-such-thing", 404, "not_found"),
        ("GET", "/v1/admin/", 404, "not_found"),
        ("GET", "/v1/admin/list-workers/more", 404, "not_found"),
        ("GET", "/v1/admin/list-workers?color=red", 400, "usage"),
        ("GET", "/v1/admin/list-workers?worker_name_pattern=a&worker_name_pattern=b", 400, "usage"),
        ("GET", "/v1/admin/list-workers?state=sad", 400, "usage"),
        ("GET", "/v1/admin/list-jobs?limit=many", 400, "usage"),
        ("GET", "/v1/admin/list-jobs?limit=0", 400, "usage"),
        ("GET", "/v1/admin/list-jobs?limit=" + "9" * 5000, 400, "usage"),
        ("GET", "/v1/admin/show-job?dag_id=d&run_id=r&task_id=t", 400, "usage"),
        ("GET", "/v1/admin/show-job?dag_id=%00&run_id=r&task_id=t", 400, "usage"),
        ("GET", "/v1/admin/show-job?dag_id=d&run_id=r&task_id=t&map_index=" + "9" * 19, 400, "usage"),
        ("GET", "/v1/admin/show-job?dag_id=d&run_id=r&task_id=t&try_number=2147483648", 400, "usage"),
        ("GET", "/v1/admin/show-worker?worker=%ED%A0%80", 400, "usage"),
    ],
)
def test_a_wrong_address_is_a_sentence(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path, headers=_by("otto"))
    assert (answer.status_code, answer.headers["edge-ws-error"]) == (status, code)
    assert answer.json()["error"] == code
    assert answer.json()["sentence"]
    if status == 405:
        assert answer.headers["allow"] in {"GET", "POST"}


def test_jobs_and_queues_are_seen(client: TestClient, sqlite_engine: sa.Engine) -> None:
    enqueue(sqlite_engine, new_job("press", queue="a"))

    def get(path: str) -> Any:
        answer = client.get(f"/v1/admin/{path}", headers=_by("vera"))
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert [row["task_id"] for row in get("list-jobs?queue=a&limit=5")] == ["press"]
    assert [row["queue"] for row in get("list-queues")] == ["a"]
    assert get("show-worker?worker=oven")["worker_name"] == "oven"
    job = get("show-job?dag_id=dag&run_id=run&task_id=press&map_index=-1&try_number=1")
    assert (job["task_id"], job["state"]) == ("press", "queued")
    assert get("applied?worker=oven") == {"oven": 0}


def test_faults_of_the_centre_are_told_without_its_secrets(store: Store) -> None:
    secret = "postgresql://airflow@db.internal"
    users = KnownUsers(a=UnreachableError(f"{secret} failed"), b=EdgeWsError("the auth manager failed"))
    client = _client(store, users)
    away = client.get("/v1/admin/list-workers", headers=_by("a"))
    assert (away.status_code, away.json()["error"]) == (503, "unavailable")
    assert secret not in away.text
    assert client.get("/v1/admin/list-workers", headers=_by("b")).status_code == 500


def test_a_line_of_the_log_cannot_be_made_up(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edge_ws.server.admin_routes"):
        client.post(SET, json={**BODY, "worker": "x\nERROR all is lost"}, headers=_by("otto"))
    (told,) = [one.getMessage() for one in caplog.records if one.name == "edge_ws.server.admin_routes"]
    assert len(told.splitlines()) == 1


class Here:
    """The gateway that is asked."""

    def __init__(self, store: Store) -> None:
        self.id = GatewayId("g")
        self.figures = Figures()
        self.events = Events(store.events, "api-1/7")


def test_the_figures_are_as_new_as_the_gateway_that_is_asked(store: Store) -> None:
    here = Here(store)
    store.liveness.announce(here.id, "api-1", 7)
    client = _client(store, here=here)
    here.figures.aligned(store.views.clock(), time.monotonic())
    here.figures.count("offers")
    row = client.get("/v1/admin/figures", headers=_by("vera")).json()
    assert row["hour"]["offers"] == 1
    assert client.get("/v1/admin/figures", headers=_by("mary")).status_code == 403
    assert client.get("/v1/admin/figures?minutes=3", headers=_by("vera")).status_code == 400


def test_what_is_changed_by_http_is_an_event_of_its_user(store: Store) -> None:
    here = Here(store)
    client = _client(store, here=here)
    assert client.post(SET, json=BODY, headers=_by("mary")).status_code == 200
    here.events.flush()
    (one,) = client.get("/v1/admin/events?worker=ov*&limit=5", headers=_by("vera")).json()
    assert (one["kind"], one["worker"], one["who"]) == ("wished", "oven", "mary")
    assert (one["words"], one["gateway"]) == ("concurrency 3", "api-1/7")
    assert client.get(f"/v1/admin/events?since={one['id']}", headers=_by("vera")).json() == []
    for query in ("limit=0", "limit=501", "since=-1", "kind=party", "since=x"):
        assert client.get(f"/v1/admin/events?{query}", headers=_by("vera")).status_code == 400, query
