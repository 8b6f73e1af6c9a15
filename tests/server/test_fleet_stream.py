"""The operators' page's `view` and `stream`, of real gateways: what changes is seen, by whom, and when it ends."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from edge_ws.errors import RefusedError
from edge_ws.protocol.ids import GatewayId
from edge_ws.server import fleet as fleet_module
from edge_ws.server import fleet_stream
from edge_ws.server.app import Gateway
from edge_ws.server.config import GatewaySettings
from edge_ws.server.ports import User
from edge_ws.store.store import Store
from edge_ws.store.watch import Changes
from tests.server.test_admin_routes import KnownUsers, NoTasks
from tests.support.gateway import LogFolder, Tasks, running_gateway
from tests.support.rows import enqueue, new_job
from tests.support.streams import EventSource, event_source
from tests.support.waiting import wait_until
from tests.support.workers import register_worker

pytestmark = pytest.mark.processes
VERA = {"authorization": "Bearer vera"}
MARY = {"authorization": "Bearer mary"}
OTTO = {"authorization": "Bearer otto"}
BY_COOKIE = {"cookie": "_token=vera", "sec-fetch-site": "same-origin"}


class ChangingUsers(KnownUsers):
    """Whose rights and sign-in end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.signed_out = False
        self.without_right = False
        self.expires_at: float | None = None

    def user(self, token: str) -> User:
        if self.signed_out:
            raise RefusedError("token", "the Airflow user's token has expired; get a new one")
        known = replace(super().user(token), expires_at=self.expires_at)
        return replace(known, may_read=False) if self.without_right else known


@dataclass
class Served:
    url: str
    gateway: Gateway
    store: Store

    def admin(self, path: str) -> str:
        return f"{self.url}/edge-ws/v1/admin/{path}"

    def ask(
        self, path: str, headers: Mapping[str, str] = VERA, method: str = "GET", body: object = None
    ) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and what the answer's JSON holds."""
        parts = urlsplit(self.url)
        assert parts.hostname
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        try:
            sent = {**headers, **({"content-type": "application/json"} if body is not None else {})}
            connection.request(
                method, f"/edge-ws/v1/admin/{path}", json.dumps(body) if body is not None else None, sent
            )
            answer = connection.getresponse()
            read = answer.read()
            given = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, given, json.loads(read) if read else None
        finally:
            connection.close()

    def stream(self, query: str, headers: Mapping[str, str] = VERA) -> Any:
        return event_source(self.admin(f"stream?{query}"), headers)


@contextmanager
def _served(engine: sa.Engine, users: KnownUsers | None = None) -> Iterator[Served]:
    tasks, store = Tasks(), Store(engine)
    settings = GatewaySettings(hostname="centre", versions={"edge_ws": "0.1.0", "airflow": "3.3.2"})
    gateway = Gateway(
        store, settings, tasks, tasks, LogFolder(), users=users or KnownUsers(), tasks=NoTasks()
    )
    with running_gateway(gateway) as url:
        yield Served(url, gateway, store)


def _first(source: EventSource) -> dict[str, Any]:
    assert source.status == 200, source.body
    return source.page(bool)


def test_what_changes_by_another_gateway_is_seen_within_a_second(engine: sa.Engine) -> None:
    with _served(engine) as one, _served(engine) as other:
        register_worker(one.store, "oven", queues=("a",))
        with one.stream("of=workers") as workers, one.stream("of=jobs&queue=b") as jobs:
            first = _first(workers)
            assert [row["worker_name"] for row in first["rows"]] == ["oven"]
            assert first["me"]["user"] == "vera"
            assert first["me"]["may_manage"] is False
            assert workers.headers["content-type"].startswith("text/event-stream")
            assert 1000 <= int(workers.retry) <= 3000
            _first(jobs)
            # The other one has heard by now that somebody watches, or it would tell nobody.
            wait_until(lambda: other.gateway._watched._told_until > time.monotonic() or _hears_all(one))
            latencies = []

            def seen(source: EventSource, has: Any) -> None:
                began = time.monotonic()
                source.page(has)
                latencies.append(source.came_at[-1] - began)

            status, _, told = other.ask(
                "set-worker-concurrency", MARY, "POST", {"worker": "oven", "concurrency": 3}
            )
            assert (status, told["error"]) == (200, None)
            seen(workers, lambda page: page["rows"][0]["wished_concurrency"] == 3)
            # No trigger tells of these: the gateway does that wrote them.
            body = {"worker": "oven", "comment": "new belt"}
            assert other.ask("remote-edge-worker-request-maintenance", MARY, "POST", body)[0] == 200
            seen(workers, lambda page: page["rows"][0]["status"] == "maintenance")
            body["comment"] = "another belt"
            assert other.ask("remote-edge-worker-update-maintenance-comment", MARY, "POST", body)[0] == 200
            seen(workers, lambda page: "another belt" in page["rows"][0]["maintenance_comment"])
            register_worker(other.store, "press", queues=("b",))
            seen(workers, lambda page: page["total"] == 2)
            enqueue(other.gateway._store._database.engine, new_job("bake", queue="b"))
            seen(jobs, lambda page: page["total"] == 1 and page["rows"][0]["task_id"] == "bake")
            assert max(latencies) < _limit_s(), latencies


def _hears_all(one: Served) -> bool:
    return one.store.picture._database.dialect != "postgresql"


def _limit_s() -> float:
    # A second, and what a busy machine adds.
    return 3.0


def test_what_is_written_while_news_are_told_is_told_next(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(sqlite_engine)
    here = GatewayId("here")
    fleet = fleet_module.Fleet(store.picture, here, hears=lambda: True)
    store.picture.on_news(fleet.wrote)
    told = 0

    def tell(_: GatewayId) -> None:
        nonlocal told
        told += 1
        if told == 1:
            register_worker(store, "oven")

    monkeypatch.setattr(store.picture, "tell_news", tell)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.tell_for_ever)
            await anyio.wait_all_tasks_blocked()
            fleet.heard(Changes(watchers=frozenset({"there"})))
            register_worker(store, "press")
            with anyio.fail_after(10):
                while told < 2:  # noqa: ASYNC110 - it is told in another thread
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    anyio.run(main)


def test_where_nothing_tells_of_changes_traces_do(sqlite_engine: sa.Engine) -> None:
    with _served(sqlite_engine) as one:
        # As on a database of which no change is heard.
        one.gateway._watched._hears = lambda: False
        one.gateway._watched.heard = bool  # type: ignore[method-assign, assignment]
        with one.stream("of=jobs") as jobs:
            assert _first(jobs)["total"] == 0
            enqueue(sqlite_engine, new_job("bake", queue="b"))
            jobs.page(lambda page: page["total"] == 1, deadline_s=5.0)


def test_a_page_costs_as_many_statements_as_its_picture_whoever_looks(engine: sa.Engine) -> None:
    statements: list[str] = []
    with _served(engine) as one:
        for number in range(30):
            register_worker(one.store, f"press-{number}", queues=(f"q{number}",))

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if "edge_ws_token" in statement and "edge_worker" in statement:
                statements.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        with (
            one.stream("of=workers") as a,
            one.stream("of=workers&q=press-1*&sort=worker_name&desc=1") as b,
            one.stream("of=queues", OTTO) as c,
        ):
            assert _first(a)["total"] == 30
            names = [row["worker_name"] for row in _first(b)["rows"]]
            assert names == sorted((f"press-{n}" for n in (1, *range(10, 20))), reverse=True)
            assert len(_first(c)["rows"]) == 30
            assert 1 <= len(statements) <= one.gateway._watched._number + 1
        event.remove(engine, "before_cursor_execute", note)


def test_while_nobody_watches_no_picture_is_taken(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "KEPT_S", 0.2)
    with _served(sqlite_engine) as one:
        with one.stream("of=workers") as workers:
            _first(workers)
        fleet = one.gateway._watched
        wait_until(lambda: not fleet._is_watched(time.monotonic()))
        fleet.touch()
        wait_until(lambda: fleet._picture is None)
        number = fleet._number
        register_worker(one.store, "oven")
        with one.stream("of=workers") as workers:
            assert _first(workers)["total"] == 1
        assert fleet._number > number


def test_asking_again_and_again_is_answered_by_what_has_changed(sqlite_engine: sa.Engine) -> None:
    with _served(sqlite_engine) as one:
        register_worker(one.store, "oven")
        status, headers, page = one.ask("view?of=workers", BY_COOKIE)
        assert (status, page["total"], page["me"]["signed_in_by"]) == (200, 1, "cookie")
        assert headers["cache-control"] == "no-store"
        tag = {"if-none-match": headers["etag"], **BY_COOKIE}
        assert one.ask("view?of=workers", tag)[0] == 304
        # Another user's page is another one, and so is another's of the same user.
        assert one.ask("view?of=workers", {**OTTO, "if-none-match": headers["etag"]})[0] == 200
        assert one.ask("view?of=queues", tag)[0] == 200
        one.store.operators.wish_concurrency("oven", 2)
        wait_until(lambda: one.ask("view?of=workers", tag)[0] == 200)


@pytest.mark.parametrize("path", ["view?of=workers", "stream?of=workers"])
def test_who_may_not_see_is_refused(sqlite_engine: sa.Engine, path: str) -> None:
    with _served(sqlite_engine) as one:
        for headers, status, code in (
            (MARY, 403, "not_admitted"),
            ({}, 401, "token"),
            ({"cookie": "_token=otto", "sec-fetch-site": "cross-site"}, 403, "cross_origin"),
            ({"cookie": "_token=otto"}, 403, "cross_origin"),
            ({"cookie": "_token=forged", "sec-fetch-site": "same-origin"}, 401, "token"),
        ):
            answer = one.ask(path, headers)
            assert (answer[0], answer[2]["error"]) == (status, code)
            assert "rows" not in answer[2]
        assert one.ask(path, OTTO, "POST", {})[0] == 405
        # Who they are they may know.
        assert one.ask("me", MARY)[2]["may_see"] is False
        assert one.gateway._watched._picture is None, "a picture was taken for who may not see it"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "of=",
        "of=nothing",
        "of=workers&of=jobs",
        "of=workers&colour=red",
        "of=workers&limit=501",
        "of=workers&limit=-1",
        "of=workers&offset=x",
        "of=workers&sort=secret_hash",
        "of=workers&state=sad",
        "of=workers&q=" + "x" * 300,
        "of=jobs&map_index=x",
        "of=worker",
        "of=worker&worker=a&worker=b",
        "of=verdict",
        "of=verdict&dag_id=d&run_id=r&task_id=t&map_index=x",
    ],
)
def test_a_page_that_there_is_not_is_a_sentence(sqlite_engine: sa.Engine, query: str) -> None:
    with _served(sqlite_engine) as one:
        status, _, told = one.ask(f"view?{query}")
        assert (status, told["error"]) == (400, "usage")
        assert told["sentence"]


def test_a_verdict_on_one_task(sqlite_engine: sa.Engine) -> None:
    with _served(sqlite_engine) as one:
        enqueue(sqlite_engine, new_job("bake", queue="b"))
        status, _, page = one.ask("view?of=verdict&dag_id=dag&run_id=run&task_id=bake&map_index=-1")
        assert (status, page["row"]["code"]) == (200, "no_worker_serves_queue")
        status, _, told = one.ask("view?of=verdict&dag_id=dag&run_id=run&task_id=gone")
        assert (status, told["sentence"]) == (400, "Airflow knows no DAG dag")


@pytest.mark.parametrize(("what", "code"), [("signed_out", "token"), ("without_right", "not_admitted")])
def test_a_stream_ends_with_the_sign_in_and_with_the_right(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, what: str, code: str
) -> None:
    monkeypatch.setattr(fleet_stream, "JUDGED_EVERY_S", 0.2)
    monkeypatch.setattr(fleet_stream, "SOONEST_S", 0.2)
    users = ChangingUsers()
    with _served(sqlite_engine, users) as one, one.stream("of=workers", BY_COOKIE) as workers:
        _first(workers)
        setattr(users, what, True)
        one.gateway._watched.stir()
        wait_until(lambda: workers.is_over)
        assert [end["code"] for end in workers.ends] == [code]
        assert one.ask("view?of=workers", BY_COOKIE)[0] in {401, 403}
        assert not one.gateway._admin[0]._pages.streams  # type: ignore[union-attr]


def test_a_sign_in_that_expires_is_looked_at_when_it_does(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_stream, "SOONEST_S", 0.1)
    users = ChangingUsers()
    users.expires_at = time.time() + 1.0
    with _served(sqlite_engine, users) as one, one.stream("of=workers") as workers:
        _first(workers)
        users.signed_out = True
        # Well before the minute is over after which everybody is looked at.
        wait_until(lambda: workers.ends, deadline_s=15.0)
        assert workers.ends[0]["code"] == "token"


def test_streams_are_counted_and_a_page_that_is_closed_counts_no_more(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_stream, "OF_ONE", 1)
    with _served(sqlite_engine) as one:
        with one.stream("of=workers") as first:
            _first(first)
            with one.stream("of=workers") as second, one.stream("of=workers", OTTO) as others:
                wait_until(lambda: second.is_over)
                assert second.status == 503
                assert json.loads(second.body)["error"] == "crowded"
                _first(others)
        streams = one.gateway._admin[0]._pages.streams  # type: ignore[union-attr]
        wait_until(lambda: not len(streams))
        with one.stream("of=workers") as again:
            _first(again)


def test_a_gateway_that_leaves_sends_its_pages_elsewhere(sqlite_engine: sa.Engine) -> None:
    with _served(sqlite_engine) as one, one.stream("of=workers") as workers:
        _first(workers)
        one.gateway.end_polls()
        wait_until(lambda: workers.is_over)
        assert [end["code"] for end in workers.ends] == ["going"]
        with one.stream("of=workers") as late:
            wait_until(lambda: late.is_over)
            assert late.status == 503


def test_a_sign_of_life_comes_where_nothing_changes(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_stream, "ALIVE_S", 0.2)
    with _served(sqlite_engine) as one, one.stream("of=summary") as summary:
        _first(summary)
        wait_until(lambda: len(summary.comments) >= 2)
        assert set(summary.comments) == {"alive"}


def test_who_does_not_read_is_cut_off(sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_stream, "SLOW_S", 0.5)
    with _served(sqlite_engine) as one:
        for number in range(400):
            register_worker(one.store, f"press-{number:03}", queues=tuple(f"queue-{n}" for n in range(40)))
        parts = urlsplit(one.url)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((parts.hostname, parts.port))
            request = "GET /edge-ws/v1/admin/stream?of=workers&limit=500 HTTP/1.1\r\nHost: x\r\n"
            slow.sendall(f"{request}Authorization: Bearer vera\r\n\r\n".encode())
            streams = one.gateway._admin[0]._pages.streams  # type: ignore[union-attr]
            wait_until(lambda: len(streams) == 1)
            # Each change is another page that it does not take.
            concurrency = 0

            def is_cut() -> bool:
                nonlocal concurrency
                concurrency = concurrency % 100 + 1
                one.store.operators.wish_concurrency("press-000", concurrency)
                return not len(streams)

            wait_until(is_cut, deadline_s=30.0, every_s=0.2)


def test_a_regular_look_reads_only_when_workers_were_heard_of(engine: sa.Engine) -> None:
    store = Store(engine)
    for name in ("oven", "press"):
        register_worker(store, name, queues=("a",))
    before = store.picture.read(with_jobs=False)
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    again = store.picture.read(with_jobs=False, before=before)
    assert not any("sysinfo" in one for one in statements)
    for old, new in zip(before.workers, again.workers, strict=True):
        assert (new.seen_s or 0.0) > (old.seen_s or 0.0)
        assert new.seen_at == old.seen_at
        assert replace(new, seen_s=old.seen_s) == old
    # Whatever shows that more has changed has all of it read.
    store.operators.request_maintenance("oven", "new belt")
    states = [one.state for one in store.picture.read(with_jobs=False, before=before).workers]
    assert states == ["maintenance request", "idle"]
    register_worker(store, "scale", queues=("a",))
    assert len(store.picture.read(with_jobs=False, before=before).workers) == 3
    event.remove(engine, "before_cursor_execute", note)
