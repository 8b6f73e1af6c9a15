"""Whom the gateway takes a worker for, asked without a connection."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from tests.support.gateway import RunningGateway, make_token, serving


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    settings = GatewaySettings(
        hostname="test",
        versions={"airflow": "3.3.2"},
        execution_api_url="https://airflow.example.com/execution/",
    )
    with serving(store, settings) as gateway:
        yield gateway


def _ask(
    gateway: RunningGateway, token: str, name: str = "w1", *, within_s: float = 10, **query: str
) -> httpx2.Response:
    headers = {"edge-ws-token": token, "edge-ws-worker": name}
    return httpx2.get(
        f"{gateway.base_url}/edge-ws/v1/whoami", params=query, headers=headers, timeout=within_s
    )


def test_it_tells_whom_it_takes_us_for(store: Store, gateway: RunningGateway) -> None:
    before = time.time()
    answer = _ask(gateway, make_token(store, queues=["b", "a"], team="red"))
    told = answer.json()
    assert before <= told.pop("time") <= time.time()
    assert told.pop("gateway")
    assert told == {
        "worker": "w1",
        "queues": ["a", "b"],
        "team": "red",
        "protocol": 1,
        "oldest_protocol": 1,
        "versions": {"airflow": "3.3.2"},
        "execution_api_url": "https://airflow.example.com/execution/",
        "held_s": 0.0,
    }
    assert answer.headers["cache-control"] == "no-store"
    assert store.views.workers() == []


def test_it_holds_its_answer(store: Store, gateway: RunningGateway) -> None:
    token, began = make_token(store), time.monotonic()
    told = _ask(gateway, token, hold_s="0.3").json()
    assert told["held_s"] == 0.3
    assert time.monotonic() - began >= 0.3
    # One that is held keeps nobody waiting, and ends when the asker leaves: the gateway stops at once below.
    with pytest.raises(httpx2.ReadTimeout):
        _ask(gateway, token, hold_s="60", within_s=0.3)
    assert _ask(gateway, token).status_code == 200


@pytest.mark.parametrize("hold_s", ["-1", "61", "nan", "inf", "soon", ""])
def test_a_hold_that_makes_no_sense(store: Store, gateway: RunningGateway, hold_s: str) -> None:
    answer = _ask(gateway, make_token(store), hold_s=hold_s)
    assert (answer.status_code, answer.headers["edge-ws-error"]) == (400, "protocol")
    assert "hold_s must be a number of seconds from 0 to 60" in answer.json()["sentence"]


@pytest.mark.parametrize(
    ("secret", "name", "part"),
    [
        ("wrong", "w1", "unknown"),
        ("", "w1", "none was sent"),
        (None, "", "names no worker"),
        (None, "x", "not x"),
    ],
)
def test_refusals_are_marked(
    store: Store, gateway: RunningGateway, secret: str | None, name: str, part: str
) -> None:
    answer = _ask(gateway, make_token(store) if secret is None else secret, name, hold_s="60")
    assert (answer.status_code, answer.headers["edge-ws-error"]) == (401, "token")
    assert part in answer.json()["sentence"]
