"""Tokens' operations, on the store and by `v1/admin/`: what they take, what they tell, and who learns a secret."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from edge_ws.errors import UsageError
from edge_ws.server.admin import OPERATIONS, perform
from edge_ws.server.admin_routes import Admin
from edge_ws.server.token_admin import LONGEST_S, seconds
from edge_ws.store.store import Store
from tests.server.test_admin_routes import KnownUsers
from tests.server.test_audit import Log
from tests.support.rows import FakeWorker


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def client(store: Store, log: Log) -> TestClient:
    admin = Admin(store, KnownUsers(), None, log)
    return TestClient(
        Starlette(routes=[Route("/v1/admin/{name:path}", admin.answer, methods=["GET", "POST"])]),
        headers={"authorization": "Bearer mary"},
    )


def _do(store: Store, operation: str, /, **given: object) -> Any:
    return perform(store, operation, given)


# Parameters


@pytest.mark.parametrize(
    ("text", "length_s"),
    [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("1m", 60), ("3650d", LONGEST_S)],
)
def test_times(text: str, length_s: float) -> None:
    assert seconds(text) == length_s


@pytest.mark.parametrize(
    "text",
    [
        *("", "90", "d", "90 d", "90s", "-1d", "+1d", "1.5d", "1d12h", "0d", "0m", "3651d", "99999999h"),
        *("9" * 40 + "d", "٣d"),
    ],
)
def test_absurd_times_name_their_parameter(store: Store, text: str) -> None:
    with pytest.raises(UsageError, match=r"^expires: "):
        _do(store, "token-create", name="n", expires=text)
    with pytest.raises(UsageError, match=r"^overlap: "):
        _do(store, "token-rotate", token="n", overlap=text)


@pytest.mark.parametrize("name", ["two words", "a*", "-x", "x" * 65, "größe"])
def test_without_a_pattern_the_name_must_be_a_workers(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="by a pattern of workers' names"):
        _do(store, "token-create", name=name)
    assert _do(store, "token-create", name=name, worker_name_pattern="*")["worker_name_pattern"] == "*"


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"name": ""}, "name: ''"),
        ({"name": " a"}, "name: ' a'"),
        ({"name": "a\nb"}, "name: 'a\\nb'"),
        ({"name": "x" * 251}, "name: 'x"),
        ({"worker_name_pattern": ""}, "worker_name_pattern: ''"),
        ({"worker_name_pattern": "a b"}, "worker_name_pattern: 'a b'"),
        ({"worker_name_pattern": "[ab]"}, "worker_name_pattern: "),
        ({"worker_name_pattern": "x" * 251}, "worker_name_pattern: "),
        ({"queues": [""]}, "queues: ''"),
        ({"queues": []}, "queues must be a list"),
        ({"queues": ["q" * 257]}, "queues: "),
        ({"team_name": ""}, "team_name: ''"),
        ({"team_name": "t" * 65}, "team_name: "),
        ({"max_workers": 0}, "max_workers: 0"),
        ({"max_workers": 2**31}, "max_workers: "),
        ({"expires": "soon"}, "expires: 'soon'"),
        ({"secret": "mine"}, "token-create takes name"),
    ],
)
def test_wrong_limits_name_their_parameter(store: Store, more: dict[str, object], part: str) -> None:
    with pytest.raises(UsageError) as caught:
        _do(store, "token-create", **{"name": "press-2", **more})
    assert str(caught.value).startswith(part)
    assert store.tokens.all_tokens() == []


# By HTTP


def test_a_token_from_its_making_to_its_end(client: TestClient, store: Store) -> None:
    asked = {"name": "press-2", "queues": ["a", "b"], "expires": "90d"}
    answer = client.post("/v1/admin/token-create", json=asked)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    made = answer.json()
    found = store.tokens.find_token(made["secret"])
    assert found is not None
    token, now = found
    assert (made["id"], made["state"], made["queues"]) == (token.id, "valid", ["a", "b"])
    assert token.expires_at == pytest.approx(now + 90 * 86400, abs=60)
    assert made["told"].startswith(
        "token 'press-2' admits workers named press-2, queues a, b, any team, until 20"
    )

    FakeWorker(store, token_id=token.id, secret_hash=token.secret_hash).register(address="192.0.2.7")
    rotated = client.post("/v1/admin/token-rotate", json={"token": "press-2"}).json()
    assert rotated["id"] == token.id
    assert store.tokens.find_token(rotated["secret"]) is not None
    assert rotated["old_secret_until"] is not None
    (shown,) = client.get("/v1/admin/token-show?token=press-2").json()
    assert (shown["workers_by_old_secret"], shown["address"]) == (["w1"], "192.0.2.7")
    assert shown["last_used"] == shown["workers"][0]["last_seen"] is not None

    narrowed = client.post(
        "/v1/admin/token-narrow", json={"token": token.id, "queues": ["b"], "team_name": "red"}
    )
    assert (narrowed.json()["queues"], narrowed.json()["team_name"]) == (["b"], "red")
    wider = client.post("/v1/admin/token-narrow", json={"token": token.id, "queues": ["b", "c"]})
    assert (wider.status_code, "does not admit c" in wider.json()["sentence"]) == (400, True)
    assert client.post("/v1/admin/token-narrow", json={"token": token.id}).status_code == 400

    assert client.post("/v1/admin/token-revoke", json={"token": token.id}).json()["revoked"] == 1
    assert client.post("/v1/admin/token-revoke", json={"token": token.id}).json()["revoked"] == 0
    (row,) = client.get("/v1/admin/token-list").json()
    assert (row["state"], row["old_secret_until"]) == ("revoked", None)
    for name in ("token-revoke", "token-rotate", "token-narrow"):
        answer = client.post(
            f"/v1/admin/{name}",
            json={"token": "m", "queues": ["a"]} if name == "token-narrow" else {"token": "m"},
        )
        assert (answer.status_code, "no " in answer.json()["sentence"]) == (400, True)
    assert client.get("/v1/admin/token-show?token=m").status_code == 400


def test_a_secret_is_in_its_own_answer_only(
    client: TestClient, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        made = client.post("/v1/admin/token-create", json={"name": "n"}).json()
        again = client.post("/v1/admin/token-rotate", json={"token": "n", "overlap": "1h"}).json()
        seen = [
            client.get("/v1/admin/token-list").text,
            client.get("/v1/admin/token-show?token=n").text,
            client.post("/v1/admin/token-narrow", json={"token": "n", "expires": "1d"}).text,
            client.post("/v1/admin/token-revoke", json={"token": "n"}).text,
        ]
    everywhere = "\n".join([*seen, caplog.text, json.dumps([one.extra for one in log.entries])])
    assert made["secret"] != again["secret"]
    for secret in (made["secret"], again["secret"]):
        assert secret.startswith("edgews_")
        assert secret not in everywhere
    assert '"mary" wishes: token-rotate {"token": "n", "overlap": "1h"}' in caplog.text


TOKENS = [name for name in OPERATIONS if name.startswith("token-")]
GIVEN: dict[str, dict[str, Any]] = {
    "token-list": {},
    "token-create": {"name": "new"},
    "token-narrow": {"token": "n", "expires": "1d"},
}


@pytest.mark.parametrize("name", TOKENS)
def test_each_takes_the_right_to_manage(client: TestClient, store: Store, log: Log, name: str) -> None:
    store.tokens.create_token("n", worker_pattern="*", queues=None, team=None, expires_in_s=None)
    before = store.tokens.all_tokens()
    given = GIVEN.get(name, {"token": "n"})
    for user, refused in (("vera", True), ("mary", False)):
        headers = {"authorization": f"Bearer {user}"}
        if OPERATIONS[name].changes:
            answer = client.post(f"/v1/admin/{name}", json=given, headers=headers)
        else:
            answer = client.get(f"/v1/admin/{name}", params=given, headers=headers)
        assert answer.status_code == (403 if refused else 200), answer.text
        (entry,) = log.entries or [None]
        if refused:
            assert "the right to touch" in answer.json()["sentence"]
            assert store.tokens.all_tokens() == before
            assert entry is not None
            assert (entry.event, entry.user, entry.extra["refused"]) == (name, "vera", "not_admitted")
        else:
            expected = (name, "mary", given) if OPERATIONS[name].changes else None
            assert (entry and (entry.event, entry.user, entry.extra)) == expected
        log.entries.clear()


@pytest.mark.parametrize("name", [one for one in TOKENS if OPERATIONS[one].changes])
def test_nothing_is_changed_that_cannot_be_written_down(
    client: TestClient, store: Store, log: Log, name: str
) -> None:
    store.tokens.create_token("n", worker_pattern="*", queues=None, team=None, expires_in_s=None)
    before = store.tokens.all_tokens()
    log.is_away = True
    given = GIVEN.get(name, {"token": "n"})
    assert client.post(f"/v1/admin/{name}", json=given).status_code == 503
    assert store.tokens.all_tokens() == before


def test_what_is_refused_is_written_down(client: TestClient, log: Log) -> None:
    assert client.post("/v1/admin/token-revoke", json={"token": "m"}).status_code == 400
    asked, refused = log.entries
    assert (asked.extra, refused.extra["token"]) == ({"token": "m"}, "m")
    assert "there is no token 'm'" in str(refused.extra["refused"])


def test_a_secret_given_for_a_name_is_not_written_down(
    client: TestClient, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    secret = client.post("/v1/admin/token-create", json={"name": "n"}).json()["secret"]
    log.entries.clear()
    with caplog.at_level(logging.DEBUG):
        for given in ({"token": secret}, {"token": "n", "secret": secret}, {"token": [secret]}):
            answer = client.post("/v1/admin/token-revoke", json=given)
            assert answer.status_code == 400
    assert secret not in caplog.text
    assert log.entries == []


def test_a_name_may_be_several_tokens(client: TestClient, store: Store) -> None:
    for _ in range(2):
        store.tokens.create_token("n", worker_pattern="*", queues=None, team=None, expires_in_s=None)
    assert len(client.get("/v1/admin/token-show?token=n").json()) == 2
    answer = client.post("/v1/admin/token-rotate", json={"token": "n"})
    assert (answer.status_code, "give the id of one" in answer.json()["sentence"]) == (400, True)
    assert client.post("/v1/admin/token-revoke", json={"token": "n"}).json()["told"] == "revoked 2 tokens"


def test_tokens_are_listed_with_their_state(store: Store) -> None:
    for name, expires_in_s in (("a", None), ("b", 3600.0), ("c", -1.0), ("d", -1.0)):
        store.tokens.create_token(
            name, worker_pattern="w*", queues=["q"], team=None, expires_in_s=expires_in_s
        )
    store.tokens.revoke_token("d")
    rows = _do(store, "token-list")
    assert [row["state"] for row in rows] == ["valid", "valid", "expired", "revoked"]
    assert [row["expires"] is None for row in rows] == [True, False, False, False]
    assert rows[0]["queues"] == ["q"]
