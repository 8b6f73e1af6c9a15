"""Airflow's cookie at `v1/admin/`: it counts for what Airflow's own pages ask, and for nothing else."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from edge_ws.server.admin_routes import Admin
from edge_ws.server.app import _ANY_METHOD
from edge_ws.store.store import Store
from tests.server.test_admin_routes import KnownUsers, NoTasks
from tests.server.test_audit import Log
from tests.support.workers import register_worker

Headers = list[tuple[str, str]]
SEE = "/v1/admin/list-workers"
SET = "/v1/admin/set-worker-concurrency"
BODY = {"worker": "oven", "concurrency": 3}
OUR_PAGE: Headers = [("sec-fetch-site", "same-origin")]
STRANGE_PAGES: list[Headers] = [
    # What a browser sends for another site's page, for one of another port or subdomain, and for a link that
    # is typed in or opened from a mail.
    [("sec-fetch-site", "cross-site")],
    [("sec-fetch-site", "same-site")],
    [("sec-fetch-site", "none")],
    [("sec-fetch-site", "cross-site"), ("origin", "http://testserver")],
    [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
    [("sec-fetch-site", "")],
    # What an old browser sends, or any over plain http.
    [],
    [("origin", "null")],
    [("origin", "http://evil.example")],
    [("origin", "http://testserver.evil.example")],
    [("origin", "http://testserver:8443")],
    [("origin", "http://testserver@evil.example")],
    [("origin", "https://testserver:80")],
    [("origin", "ftp://testserver")],
    [("origin", "testserver")],
    [("origin", "http://[")],
    [("origin", "")],
    [("origin", "http://evil.example"), ("referer", "http://testserver/page")],
    [("origin", "http://testserver"), ("origin", "http://evil.example")],
    [("referer", "http://evil.example/http://testserver/")],
    [("referer", "http://evil.example/?http://testserver")],
    [("host", "evil.example"), ("origin", "http://testserver")],
]
OUR_PAGES: list[Headers] = [
    OUR_PAGE,
    [("origin", "http://testserver")],
    [("origin", "http://testserver:80")],
    # TLS ends at the proxy.
    [("origin", "https://testserver")],
    [("referer", "https://testserver/airflow/plugin/edge-ws")],
    [("host", "airflow.example:8443"), ("origin", "https://airflow.example:8443")],
    [("host", "Airflow.Example"), ("referer", "https://airflow.example:443/")],
]


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    store = Store(sqlite_engine)
    register_worker(store, "oven")
    return store


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def client(store: Store, log: Log) -> TestClient:
    admin = Admin(store, KnownUsers(), NoTasks(), log)
    route = Route("/v1/admin/{name:path}", admin.answer, methods=_ANY_METHOD)
    return TestClient(Starlette(routes=[Mount("/airflow", routes=[route]), route]))


def _cookie(name: str, *more: Headers) -> Headers:
    return [("cookie", f"other=1; _token={name}; more=2"), *(pair for one in more for pair in one)]


def _wished(store: Store) -> int | None:
    (oven,) = store.views.workers()
    return oven.wished_concurrency


@pytest.mark.parametrize("path", ["", "/airflow"])
@pytest.mark.parametrize("page", OUR_PAGES)
def test_our_own_page_may_see_and_change(client: TestClient, store: Store, page: Headers, path: str) -> None:
    assert client.get(path + SEE, headers=_cookie("otto", page)).status_code == 200
    assert client.post(path + SET, json=BODY, headers=_cookie("otto", page)).status_code == 200
    assert _wished(store) == 3


@pytest.mark.parametrize("page", STRANGE_PAGES)
def test_a_strange_page_neither_sees_nor_changes(
    client: TestClient, store: Store, log: Log, page: Headers
) -> None:
    seen = client.get(SEE, headers=_cookie("otto", page))
    changed = client.post(SET, json=BODY, headers=_cookie("otto", page))
    for answer in (seen, changed):
        assert (answer.status_code, answer.headers["edge-ws-error"]) == (403, "cross_origin")
        assert "worker_name" not in answer.text
    assert _wished(store) is None
    assert [(one.event, one.user, one.extra["refused"]) for one in log.entries] == [
        ("list-workers", "otto", "cross_origin"),
        ("set-worker-concurrency", "otto", "cross_origin"),
    ]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_change_by_cookie_wants_json(client: TestClient, store: Store, log: Log, kind: str) -> None:
    headers = _cookie("otto", OUR_PAGE, [("content-type", kind)])
    answer = client.post(SET, content=b'{"worker": "oven", "concurrency": 3}', headers=headers)
    assert (answer.status_code, answer.headers["edge-ws-error"]) == (415, "type")
    assert _wished(store) is None
    assert [one.extra["refused"] for one in log.entries] == ["type"]


def test_a_viewers_cookie_changes_nothing(client: TestClient, store: Store, log: Log) -> None:
    assert client.get(SEE, headers=_cookie("vera", OUR_PAGE)).status_code == 200
    answer = client.post(SET, json=BODY, headers=_cookie("vera", OUR_PAGE))
    assert (answer.status_code, answer.headers["edge-ws-error"]) == (403, "not_admitted")
    assert _wished(store) is None
    assert [(one.user, one.extra["refused"]) for one in log.entries] == [("vera", "not_admitted")]


def test_a_get_changes_nothing_whoever_asks(client: TestClient, store: Store) -> None:
    answer = client.get(f"{SET}?worker=oven&concurrency=3", headers=_cookie("otto", OUR_PAGE))
    assert answer.status_code == 405
    assert _wished(store) is None


def test_a_token_goes_before_the_cookie_and_asks_for_no_page(client: TestClient, store: Store) -> None:
    by = [("authorization", "Bearer vera")]
    strange: Headers = [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example")]
    assert client.get(SEE, headers=_cookie("nobody", by, strange)).status_code == 200
    answer = client.post(SET, json=BODY, headers=_cookie("otto", by, OUR_PAGE))
    assert (answer.status_code, answer.headers["edge-ws-error"]) == (403, "not_admitted")
    wrong = [("authorization", "Bearer nobody")]
    assert client.get(SEE, headers=_cookie("otto", wrong, OUR_PAGE)).status_code == 401
    assert _wished(store) is None


def test_no_answer_lets_another_origin_read_it(client: TestClient) -> None:
    strange: Headers = [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example")]
    preflight = [
        ("origin", "http://evil.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type"),
    ]
    for answer in (
        client.options(SET, headers=_cookie("otto", preflight)),
        client.get(SEE, headers=_cookie("otto", strange)),
    ):
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control-")]
