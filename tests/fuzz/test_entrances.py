"""Whatever comes to a gateway's entrances is answered or refused, and ends nothing for others."""

from __future__ import annotations

import http.client
import logging
import os
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from edge_ws.protocol.http import (
    ANSWER_HEADER,
    CONNECTION_HEADER,
    ERROR_HEADER,
    HOLD_HEADER,
    TOKEN_HEADER,
    WORKER_HEADER,
)
from edge_ws.server.views import list_workers
from edge_ws.store.store import Store
from tests.fuzz.messages import CORPUS, WORKER, messages
from tests.support.gateway import RunningGateway, make_token, serving
from tests.support.waiting import wait_until

INPUTS = int(os.environ.get("FUZZ", "300"))
"""Of all tests together; a million in the long form, `make fuzz`, most of them test_layers.py's."""
MOST = 2000
"""Of one test here: each input costs a connection, and what differs between most of them the layers judge."""
LONG = 64 * 1024
CUT = 0
"""In place of a status: the gateway has closed the connection."""
ANSWERS = {CUT, 200, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 426, 429, 431, 503}
CLOSES = {None, 1002, 1003, 1007, 1009, *range(4000, 5000)}
"""Never 1006, cut without a word, nor 1011, a fault of the gateway's."""
_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
# Not shrunk: each try of the larger ones takes long, and says enough.
_PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
_some = settings(max_examples=min(INPUTS // 3, MOST), suppress_health_check=_CHECKS, phases=_PHASES)
_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)


class Gate:
    """A gateway, and whoever talks to it."""

    def __init__(self, gateway: RunningGateway, store: Store) -> None:
        self.gateway = gateway
        self.credentials = {TOKEN_HEADER: make_token(store), WORKER_HEADER: WORKER}

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=60)
        try:
            try:
                connection.request(method, f"/edge-ws{path}", body, headers)
                answer = connection.getresponse()
                answer.read()
            except ConnectionError:
                # A refusal does not wait for the rest of a long body, and may be lost with it.
                assert len(body) > LONG
                return CUT, http.client.HTTPMessage()
            return answer.status, answer.headers
        finally:
            connection.close()

    def talk(self, said: list[bytes]) -> int | None:
        """Say it by a WebSocket; return the code with which the gateway closed it, None: it listens on."""
        with connect(
            self.gateway.ws_url, additional_headers=self.credentials, compression=None, close_timeout=5
        ) as peer:
            try:
                for one in said:
                    peer.send(one, text=True)
                pong = peer.ping()
                # None comes over a connection that is being closed.
                wait_until(lambda: pong.is_set() or peer.close_code is not None, 60)
            except ConnectionClosed:
                return peer.close_code
            return peer.close_code


@pytest.fixture
def gate(
    postgres_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Gate]:
    """A gateway on PostgreSQL, the stricter kind; it is well at the end, and operators see its workers."""
    # Wrong credentials would be answered ever more slowly.
    monkeypatch.setattr("edge_ws.server.entrance.LONGEST_DELAY_S", 0.0)
    store = Store(postgres_engine)
    with serving(store) as gateway, caplog.at_level(logging.WARNING):
        gate = Gate(gateway, store)
        yield gate
        assert gate.ask("GET", "/health", b"", {})[0] == 200
        list_workers(store.views)
    assert not [one.getMessage() for one in caplog.records if one.exc_info and one.name.startswith("edge_ws")]


_odd_headers = st.fixed_dictionaries(
    {},
    optional={
        CONNECTION_HEADER: _text,
        ANSWER_HEADER: _text,
        HOLD_HEADER: st.sampled_from(("0", "-1", "nan", "-inf", "1e-9", "x", "")),
        "content-type": _text | st.just("application/json; charset=utf-16"),
        TOKEN_HEADER: _text,
        WORKER_HEADER: _text | st.sampled_from(("w2", "w" * 65, "../w1", "w1,w2")),
    },
)


@_some
@given(path=st.sampled_from(("/v1/poll", "/v1/send")), body=messages(), odd=_odd_headers)
def test_requests_of_workers(gate: Gate, path: str, body: bytes, odd: dict[str, str]) -> None:
    headers = {"content-type": "application/json", HOLD_HEADER: "0.001", **gate.credentials, **odd}
    status, told = gate.ask("POST", path, body, headers)
    assert status in ANSWERS
    assert (status in {CUT, 200}) == (ERROR_HEADER not in told)


@_some
@given(said=st.lists(messages(), min_size=1, max_size=4))
def test_what_comes_by_a_websocket(gate: Gate, said: list[bytes]) -> None:
    # Where a message is no text the server closes with 1007, and what is sent after it may reset the connection.
    assert gate.talk(said) in (CLOSES if all(map(_is_text, said)) else {*CLOSES, 1006})


def _is_text(message: bytes) -> bool:
    return message.decode(errors="replace").encode() == message


@_some
@given(
    method=st.sampled_from(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X")),
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)
    | st.sampled_from(
        ("v1/poll", "v1/send", "v1/ws", "v1/whoami?hold_s=nan", "v1/admin/list-workers", "health")
    ),
    body=messages(),
    odd=_odd_headers,
)
def test_anything_else(gate: Gate, method: str, path: str, body: bytes, odd: dict[str, str]) -> None:
    status, _ = gate.ask(method, f"/{path}", body, {HOLD_HEADER: "0.001", **gate.credentials, **odd})
    assert status in ANSWERS


@pytest.mark.parametrize("name", CORPUS)
def test_what_once_did_harm(gate: Gate, name: str) -> None:
    headers = {"content-type": "application/json", HOLD_HEADER: "0.001", **gate.credentials}
    for path in ("/v1/poll", "/v1/send"):
        assert gate.ask("POST", path, CORPUS[name], headers)[0] in ANSWERS
    assert gate.talk([CORPUS[name]]) in CLOSES
