"""What tokens may admit, how tokens and workers are shown, and waiting for a wish."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from edge_ws.errors import TimedOutError, UsageError
from edge_ws.protocol.ids import WorkerName
from edge_ws.provider.admin import (
    Applied,
    TokenRequest,
    parse_expires,
    token_request,
    token_rows,
    wish_concurrency,
    worker_rows,
)
from edge_ws.store.records import TokenRecord, WorkerRecord
from edge_ws.store.store import Store
from tests.support.waiting import wait_until
from tests.support.workers import register_worker

# Tokens


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("1m", 60), ("3650d", 315_360_000)],
)
def test_expires(text: str, seconds: float) -> None:
    assert parse_expires(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "90",
        "d",
        "90 d",
        "90s",
        "-1d",
        "+1d",
        "1.5d",
        "1d12h",
        "0d",
        "0m",
        "3651d",
        "99999999h",
        "9" * 40 + "d",
        "٣d",
    ],
)
def test_absurd_expires(text: str) -> None:
    with pytest.raises(UsageError, match="--expires: "):
        parse_expires(text)


def _request(name: str, **more: str) -> TokenRequest:
    asked: dict[str, str | None] = {"pattern": None, "queues": None, "team": None, "expires": None}
    return token_request(name, **{**asked, **more})


def test_a_name_admits_the_worker_of_that_name() -> None:
    request = _request("press-2")
    assert (request.name, request.worker_pattern) == ("press-2", "press-2")
    assert (request.queues, request.team, request.expires_in_s) == (None, None, None)
    assert request.told() == (
        "token 'press-2' admits workers named press-2, every queue, any team, until it is revoked"
    )


def test_a_pattern_admits_others() -> None:
    request = _request("line 4", pattern="line4-*", queues="a, b,a", team="red", expires="2h")
    assert (request.worker_pattern, request.queues, request.team) == ("line4-*", ("a", "b"), "red")
    assert request.expires_in_s == 7200
    assert "line4-*, queues a, b, team red, until 20" in request.told()


@pytest.mark.parametrize("name", ["", "two words", "a*", "-x", "x" * 65, "größe", "a\nb"])
def test_without_a_pattern_the_name_must_be_a_workers(name: str) -> None:
    with pytest.raises(UsageError, match="--worker-name-pattern"):
        _request(name)


@pytest.mark.parametrize("name", ["", " a", "a\nb", "x" * 251])
def test_a_token_needs_a_printable_name(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a token"):
        _request(name, pattern="*")


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"pattern": ""}, "--worker-name-pattern: ''"),
        ({"pattern": "a b"}, "--worker-name-pattern: 'a b'"),
        ({"pattern": "[ab]"}, "--worker-name-pattern: "),
        ({"pattern": "x" * 251}, "--worker-name-pattern: "),
        ({"queues": ""}, "--queues: ''"),
        ({"queues": "a,,b"}, "--queues: ''"),
        ({"queues": "q" * 257}, "--queues: "),
        ({"team": ""}, "--team-name: ''"),
        ({"team": "t" * 65}, "--team-name: "),
        ({"expires": "soon"}, "--expires: 'soon'"),
    ],
)
def test_wrong_bounds_name_their_flag(more: dict[str, str], part: str) -> None:
    with pytest.raises(UsageError) as caught:
        _request("press-2", **more)
    assert str(caught.value).startswith(part)


def _token(**more: float | None) -> TokenRecord:
    return TokenRecord(
        id="i",
        name="n",
        worker_pattern="w*",
        queues=("a",),
        team=None,
        created_at=0.0,
        expires_at=more.get("expires_at"),
        revoked_at=more.get("revoked_at"),
    )


def test_tokens_are_shown_with_their_state() -> None:
    tokens = [
        _token(),
        _token(expires_at=100.0),
        _token(expires_at=99.0),
        _token(expires_at=99.0, revoked_at=5.0),
    ]
    rows = token_rows(tokens, now=99.5)
    assert [row["state"] for row in rows] == ["valid", "valid", "expired", "revoked"]
    assert rows[1]["expires"] == "1970-01-01T00:01:40+00:00"
    assert rows[0]["queues"] == ["a"]
    json.dumps(rows)


# Workers


def _worker(kind: str, wish: int, applied: int) -> WorkerRecord:
    return WorkerRecord(
        name=WorkerName("w"),
        kind=kind,
        state="idle",
        queues=None,
        team=None,
        concurrency=8,
        wished_concurrency=3,
        wish_revision=wish,
        applied_revision=applied,
        jobs_active=0,
        transport=None,
        first_online=None,
        last_update=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        sysinfo={"free_concurrency": 8},
    )


def test_workers_show_the_wish_and_what_is_in_force() -> None:
    waiting, done, theirs = worker_rows(
        [_worker("edge-ws", 2, 1), _worker("edge-ws", 2, 2), _worker("edge3", 0, 0)]
    )
    assert (waiting["concurrency"], waiting["wished_concurrency"], waiting["applied"]) == (8, 3, False)
    assert done["applied"] is True
    assert theirs["applied"] is None
    assert (done["free_concurrency"], done["last_update"]) == (8, "2026-01-02T03:04:05+00:00")
    json.dumps([waiting, done, theirs])


def test_a_wish_is_numbered(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    register_worker(store, "press-2")
    first = wish_concurrency(store, "press-2", 3, None)
    second = wish_concurrency(store, "press-2", 0, None)
    assert second.revision == first.revision + 1
    assert second.told() == f"wish {second.revision}: concurrency 0 for press-2"
    assert json.loads(second.as_json())["applied_ms"] is None


def test_waits_until_it_is_applied(engine: sa.Engine) -> None:
    store = Store(engine)
    principal = register_worker(store, "press-2")

    def apply_it() -> None:
        wait_until(lambda: store.wish(principal).concurrency == 3)
        store.note_applied(principal, store.wish(principal).revision, 3, None)

    with ThreadPoolExecutor(1) as pool:
        applying = pool.submit(apply_it)
        outcome = wish_concurrency(store, "press-2", 3, 20.0)
        applying.result()
    assert outcome.applied_ms is not None
    assert 0 < outcome.applied_ms < 20_000
    assert outcome.told() == f"applied by press-2 in {outcome.applied_ms:.0f} ms"
    told = json.loads(outcome.as_json())
    assert (told["worker_name"], told["concurrency"], told["revision"]) == ("press-2", 3, outcome.revision)
    assert (outcome.revision, store.applied("press-2")) == (told["revision"], told["revision"])


def test_gives_up_waiting_but_the_wish_stands(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    principal = register_worker(store, "press-2")
    with pytest.raises(TimedOutError, match=r"press-2 \(\w+\) has not applied concurrency 3 within 0.05 s"):
        wish_concurrency(store, "press-2", 3, 0.05)
    assert store.wish(principal).concurrency == 3


def test_an_unknown_worker_is_a_sentence(sqlite_engine: sa.Engine) -> None:
    with pytest.raises(UsageError, match="press-9"):
        wish_concurrency(Store(sqlite_engine), "press-9", 3, 1.0)


@pytest.mark.parametrize("concurrency", [-1, 1025, 10**12])
def test_concurrency_has_bounds(sqlite_engine: sa.Engine, concurrency: int) -> None:
    with pytest.raises(UsageError, match=r"--concurrency: .* not between 0 and 1024"):
        wish_concurrency(Store(sqlite_engine), "press-2", concurrency, None)


@pytest.mark.parametrize("wait_s", [0.0, -1.0, math.inf, math.nan, 1e9])
def test_waiting_has_bounds(sqlite_engine: sa.Engine, wait_s: float) -> None:
    with pytest.raises(UsageError, match="--wait-timeout: "):
        wish_concurrency(Store(sqlite_engine), "press-2", 3, wait_s)


def test_an_outcome_rounds_for_people_only() -> None:
    outcome = Applied(worker="w", concurrency=3, revision=4, applied_ms=12.345)
    assert outcome.told() == "applied by w in 12 ms"
    assert json.loads(outcome.as_json()) == {
        "worker_name": "w",
        "concurrency": 3,
        "revision": 4,
        "applied_ms": 12.3,
    }
