"""What the audit log is told of `v1/admin/`: each change before it is made, refused attempts, and no flood."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from edge_ws.errors import UnreachableError
from edge_ws.server.admin import OPERATIONS, Operation, perform
from edge_ws.server.admin_routes import REFUSED_OF_ONE, Admin
from edge_ws.server.ports import AuditEntry
from edge_ws.server.quota import Quota
from edge_ws.store.store import Store
from tests.server.test_admin_routes import KnownUsers
from tests.support.workers import register_worker

SET = "set-worker-concurrency"
GIVEN = {
    "concurrency": 3,
    "queues": ["b"],
    "comment": "new belt",
    "yes": True,
}


class Log:
    """An audit log that is away when it is told to be."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.is_away = False

    def record(self, entries: Sequence[AuditEntry]) -> None:
        if self.is_away:
            raise UnreachableError("the database is away")
        self.entries += entries


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    store = Store(sqlite_engine)
    for name in ("oven", "press-1", "press-2"):
        register_worker(store, name, queues=("a",))
    return store


@pytest.fixture
def client(store: Store, log: Log) -> TestClient:
    admin = Admin(store, KnownUsers(), None, log)
    route = Route("/v1/admin/{name:path}", admin.answer, methods=["GET", "POST"])
    return TestClient(Starlette(routes=[route]))


def _by(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


CHANGES = {name: one for name, one in OPERATIONS.items() if one.changes and "queue" not in one.parameters}
"""What changes workers; for queues see test_paused_queues.py."""


@pytest.mark.parametrize(("name", "operation"), CHANGES.items(), ids=CHANGES)
def test_each_change_has_an_entry_for_each_worker(
    store: Store, log: Log, name: str, operation: Operation
) -> None:
    given = {one: GIVEN[one] for one in operation.parameters if one in GIVEN}
    meant = ["oven", "press-1", "press-2"]
    if "worker" in operation.parameters:
        given["worker"] = "*"
    perform(store, name, given, user="mary", audit=log)
    asked = {one: value for one, value in given.items() if one not in {"worker", "yes"}}
    first = log.entries[:3]
    assert [(one.event, one.user, one.extra) for one in first] == [
        (name, "mary", {"worker_name": worker, **asked}) for worker in meant
    ]
    # What the store has refused, such as to remove one that is there, is said as well.
    assert all("refused" in one.extra for one in log.entries[3:])


def test_who_only_looks_leaves_no_entry(client: TestClient, log: Log) -> None:
    assert client.get("/v1/admin/list-workers", headers=_by("vera")).status_code == 200
    assert log.entries == []


def test_nothing_is_changed_that_cannot_be_written_down(client: TestClient, store: Store, log: Log) -> None:
    log.is_away = True
    body = {"worker": "oven", "concurrency": 3}
    assert client.post(f"/v1/admin/{SET}", json=body, headers=_by("mary")).status_code == 503
    log.is_away = False
    assert (
        client.post(f"/v1/admin/{SET}", json={**body, "worker": "nobody"}, headers=_by("mary")).status_code
        == 400
    )
    assert [one.extra["worker_name"] for one in log.entries] == ["nobody", "nobody"]
    assert "refused" in log.entries[1].extra
    (row,) = perform(store, "list-workers", {"worker_name_pattern": "oven"})  # type: ignore[misc]
    assert row["wished_concurrency"] is None


def test_refused_attempts_are_written_down(client: TestClient, log: Log) -> None:
    path, body = f"/v1/admin/{SET}", json.dumps({"worker": "oven", "concurrency": 3})
    as_json = {"content-type": "application/json"}
    assert client.post(path, content=body, headers={**_by("vera"), **as_json}).status_code == 403
    # As another site's page could have a browser send it.
    assert (
        client.post(path, content=body, headers={**_by("mary"), "content-type": "text/plain"}).status_code
        == 415
    )
    assert client.post(path, content=body, headers={"cookie": "_token=mary", **as_json}).status_code == 403
    assert client.post(path, content=body, headers=as_json).status_code == 401
    assert client.post(path, content=body, headers={**_by("forged"), **as_json}).status_code == 401
    told = [(one.event, one.user, one.extra["refused"]) for one in log.entries]
    assert told == [
        (SET, "vera", "not_admitted"),
        (SET, "mary", "type"),
        (SET, "mary", "cross_origin"),
        (SET, "(unknown)", "token"),
        (SET, "(unknown)", "token"),
    ]


def test_a_flood_of_strangers_makes_few_entries_and_hides_no_user(
    monkeypatch: pytest.MonkeyPatch, client: TestClient, log: Log
) -> None:
    monkeypatch.setattr("edge_ws.server.entrance.LONGEST_DELAY_S", 0.0)
    for _ in range(10 * REFUSED_OF_ONE):
        assert client.post(f"/v1/admin/{SET}", headers=_by("forged")).status_code == 401
        assert client.post("/v1/admin/nothing", headers=_by("forged")).status_code == 401
    assert len(log.entries) == REFUSED_OF_ONE
    client.post(f"/v1/admin/{SET}", json={}, headers=_by("vera"))
    assert log.entries[-1].user == "vera"


def test_what_was_left_out_is_counted() -> None:
    attempts = Quota(5, 60.0, known=10, of_all=20)
    assert [attempts.admit("a", 1.0) for _ in range(7)] == [0] * 5 + [None, None]
    assert attempts.admit("a", 61.0) == 2
    many = [attempts.admit(f"from-{number}", 130.0) for number in range(30)]
    assert sum(one is not None for one in many) == 20
    # Of each that was forgotten for others' sake nothing is told.
    assert set(attempts.over(200.0)) <= {f"from-{number}" for number in range(20, 30)}
    assert attempts.over(200.0) == {}
