"""Attacks on a real gateway by those whom it does not know, and by one that it does, with a good worker beside."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import anyio
import httpx2
import pytest
import sqlalchemy as sa
from starlette.types import Message
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from edge_ws.protocol import codec
from edge_ws.protocol.frames import MAX_ELEMENTS, MAX_FRAME, Offer, Welcome
from edge_ws.server.bodies import BodyError, read_whole
from edge_ws.server.workers import GREETED_AT_ONCE, GREETED_OF_ONE
from edge_ws.store.store import Store
from tests.support.gateway import RunningGateway, connected, make_token, serving
from tests.support.rows import enqueue, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    with serving(store) as gateway:
        yield gateway


def ask(gateway: RunningGateway, path: str, token: str, body: bytes) -> socket.socket:
    """Begin a request with a body of 1 MiB, of which that much comes."""
    raw = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
    head = f"POST /edge-ws/v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"edge-ws-token: {token}\r\nedge-ws-worker: w9\r\ncontent-length: {MAX_FRAME}\r\n\r\n"
    raw.sendall(head.encode() + body)
    return raw


def answer(raw: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    try:
        return b"".join(iter(lambda: raw.recv(65536), b""))
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("path", ["poll", "send"])
def test_a_strangers_body_is_not_waited_for(gateway: RunningGateway, path: str) -> None:
    with ask(gateway, path, "edgews_wrong", b"[") as raw:
        assert answer(raw).startswith(b"HTTP/1.1 401 ")


async def test_half_bodies_of_strangers_hold_nothing(
    sqlite_engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store, "w1"), "w1") as good:
        with ExitStack() as all_of_them:
            for number in range(40):
                raw = ask(gateway, "poll", f"edgews_wrong{number}", b"[" + b"{}," * 10_000)
                all_of_them.enter_context(raw)
            enqueue(sqlite_engine, new_job())
            await good.expect(Offer)


async def test_a_body_must_come_in_time_and_not_be_too_large() -> None:
    async def never() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def endless() -> Message:
        return {"type": "http.request", "body": bytes(1000), "more_body": True}

    async def trickle() -> Message:
        await anyio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    for receive, status in ((never, 408), (trickle, 408), (endless, 413)):
        with pytest.raises(BodyError) as refused:
            await read_whole(receive, 100_000, 0.1 if status == 408 else 10.0)
        assert refused.value.status == status


def wide(elements: int) -> str:
    return "[" + "{}," * elements + "{}]"


async def test_a_message_of_too_many_values_is_not_read(
    sqlite_engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    async with connected(gateway, token, "w1") as good:
        for data in (wide(MAX_ELEMENTS), wide(MAX_ELEMENTS // 3), "[" * MAX_FRAME):
            async with connected(gateway, token, "w2") as bad:
                await bad.connection.send(data)
                with pytest.raises(ConnectionClosed) as closed:
                    await bad.expect(Welcome)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4400
            headers = {"edge-ws-token": token, "edge-ws-worker": "w3", "content-type": "application/json"}
            async with httpx2.AsyncClient(timeout=30) as client:
                url = f"{gateway.base_url}/edge-ws/v1/poll"
                told = await client.post(url, content=data.encode(), headers=headers)
            assert (told.status_code, told.headers["edge-ws-error"]) == (400, "protocol")
        enqueue(sqlite_engine, new_job())
        await good.expect(Offer)


def test_what_takes_long_to_read_is_told_by_a_look_at_it() -> None:
    assert not codec.is_heavy(b'{"data":"' + b"A" * 100_000 + b'"}')
    assert codec.is_heavy(wide(10_000))
    assert codec.is_heavy("[" * 10_000)
    assert codec.is_heavy(b" " * MAX_FRAME)


async def test_bad_tokens_and_mute_sockets_take_no_places(store: Store, gateway: RunningGateway) -> None:
    token = make_token(store)
    refused: list[int] = []
    release = anyio.Event()

    async def come(secret: str) -> None:
        headers = {"edge-ws-token": secret, "edge-ws-worker": "w1"}
        try:
            async with connect(gateway.ws_url, additional_headers=headers, compression=None):
                await release.wait()
        except InvalidStatus as error:
            refused.append(error.response.status_code)

    async with anyio.create_task_group() as tasks:
        for number in range(GREETED_AT_ONCE):
            tasks.start_soon(come, f"edgews_wrong{number}")
        for _ in range(GREETED_OF_ONE + 2):
            tasks.start_soon(come, token)
        await until(lambda: refused.count(503) >= 2 and len(refused) >= GREETED_AT_ONCE + 2, 20)
        async with connected(gateway, token, "w2"):
            release.set()
    assert refused.count(401) == GREETED_AT_ONCE
