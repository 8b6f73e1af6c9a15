"""Attacks on a real server's connections, with somebody beside who goes on."""

from __future__ import annotations

import resource
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
import sqlalchemy as sa
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from edge_ws.protocol.frames import Offer
from edge_ws.server.app import Gateway
from edge_ws.server.config import GatewaySettings
from edge_ws.server.guarded import (
    MAX_HEAD,
    MOST_PIECES,
    UNSENT,
    GuardedHttp,
    GuardedState,
    GuardedWebSocket,
    Limits,
    limits_by_files,
)
from edge_ws.server.uvicorn_server import DrainingServer
from edge_ws.store.store import Store
from tests.support.certificates import Authority, Certificate
from tests.support.gateway import LogFolder, RunningGateway, Tasks, connected, make_token
from tests.support.rows import enqueue, new_job
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@contextmanager
def guarded(
    store: Store, limits: Limits, certificate: Certificate | None = None, log_level: str = "critical"
) -> Iterator[RunningGateway]:
    """Serve a gateway as `edge-ws server` does."""
    tasks, logs = Tasks(), LogFolder()
    gateway = Gateway(store, GatewaySettings(hostname="test"), tasks, tasks, logs)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    async def drain() -> None:
        await gateway.drain(0.1)

    config = uvicorn.Config(
        Starlette(lifespan=lifespan, routes=[Mount("/edge-ws", gateway.app)]),
        http=GuardedHttp,
        ws=GuardedWebSocket,
        h11_max_incomplete_event_size=MAX_HEAD,
        log_level=log_level,
        timeout_graceful_shutdown=1,
        ssl_certfile=None if certificate is None else certificate.certificate,
        ssl_keyfile=None if certificate is None else certificate.key,
    )
    server = DrainingServer(config, drain, limits=limits)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive())
            yield RunningGateway(listener.getsockname()[1], tasks, logs)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


def open_raw(gateway: RunningGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=30)


def is_cut(raw: socket.socket) -> bool:
    """Wait until the other side has ended the connection; tell whether it has."""
    try:
        while raw.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def is_well(gateway: RunningGateway) -> bool:
    return httpx2.get(f"{gateway.base_url}/edge-ws/health", timeout=30).status_code == 200


async def test_connections_of_one_address_leave_room_for_others(
    sqlite_engine: sa.Engine, store: Store
) -> None:
    with guarded(store, Limits(connections=40)) as gateway, ExitStack() as all_of_them:
        idle = [all_of_them.enter_context(open_raw(gateway)) for _ in range(30)]
        cut = await anyio.to_thread.run_sync(lambda: [one for one in idle[20:] if is_cut(one)])
        assert len(cut) == 10
        # Another address.
        await anyio.to_thread.run_sync(_ask_from, "127.0.0.2", gateway.port)
        for one in idle[:5]:
            one.close()
        async with connected(gateway, make_token(store)) as good:
            enqueue(sqlite_engine, new_job())
            await good.expect(Offer)


def _ask_from(address: str, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(address, 0)) as raw:
        raw.sendall(b"GET /edge-ws/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_what_is_counted_is_forgotten() -> None:
    state = GuardedState(Limits(connections=4))
    assert [state.enter("a") for _ in range(3)] == [True, True, False]
    assert [state.enter("b") for _ in range(3)] == [True, True, False]
    assert not state.enter("c")
    state.leave("a")
    assert state.enter("c")
    for one in ("a", "b", "b", "c"):
        state.leave(one)
    assert [state.enter("a") for _ in range(3)] == [True, True, False]


def test_heads_that_do_not_come_and_bodies_that_nobody_reads(store: Store) -> None:
    with guarded(store, Limits(head_s=1.0)) as gateway, ExitStack() as all_of_them:
        poll = b"POST /edge-ws/v1/whoami HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
        first = b"GET /edge-ws/health HTTP/1.1\r\nhost: x\r\n\r\n"
        for begun in (b"", b"GET /edge-ws/health HTTP/1.1\r\nx: ", first + b"GET /", poll + b"{"):
            raw = all_of_them.enter_context(open_raw(gateway))
            raw.sendall(begun)
            assert is_cut(raw)
        assert is_well(gateway)


def test_a_tls_handshake_that_does_not_come_is_cut(store: Store, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    certificate = authority.server()
    with guarded(store, Limits(head_s=1.0), certificate) as gateway, ExitStack() as all_of_them:
        # Nothing, and the begin of what a client says first.
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01"):
            raw = all_of_them.enter_context(open_raw(gateway))
            raw.settimeout(20)
            raw.sendall(begun)
            assert is_cut(raw)
        context = ssl.create_default_context(cafile=str(authority.file))
        url = f"https://127.0.0.1:{gateway.port}/edge-ws/health"
        assert httpx2.get(url, verify=context, trust_env=False, timeout=30).status_code == 200


def test_an_idle_connection_between_two_requests_stays(store: Store) -> None:
    with guarded(store, Limits(head_s=0.5)) as gateway, open_raw(gateway) as raw:
        for _ in range(2):
            raw.sendall(b"GET /edge-ws/health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
            raw.settimeout(2.5)
            with pytest.raises(TimeoutError):
                raw.recv(1)


@pytest.mark.parametrize("sent", [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000])
def test_a_head_that_is_too_large_is_cut(store: Store, sent: bytes) -> None:
    with guarded(store, Limits()) as gateway, open_raw(gateway) as raw:
        raw.sendall(b"GET /edge-ws/health HTTP/1.1\r\nhost: x\r\nz: ")
        taken = 0
        with pytest.raises(OSError):  # noqa: PT012 - reset or broken, as it happens
            while taken < 64 * MAX_HEAD:
                raw.sendall(sent)
                taken += len(sent)
        assert is_well(gateway)


async def _shake_hands(gateway: RunningGateway, token: str) -> socket.socket:
    def shake() -> socket.socket:
        raw = open_raw(gateway)
        raw.sendall(
            b"GET /edge-ws/v1/ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: ZWRnZS13cyBjaGVja3MgdQ==\r\n"
            + f"edge-ws-token: {token}\r\nedge-ws-worker: w9\r\n\r\n".encode()
        )
        assert raw.recv(65536).startswith(b"HTTP/1.1 101 ")
        return raw

    return await anyio.to_thread.run_sync(shake)


PING = b"\x89\xfd\x00\x00\x00\x00" + bytes(125)
"""Masked with nothing, of the greatest size."""


async def test_pings_of_one_who_never_reads_end_its_connection(
    sqlite_engine: sa.Engine, store: Store
) -> None:
    token = make_token(store)
    with guarded(store, Limits()) as gateway:
        async with connected(gateway, token) as good:
            raw = await _shake_hands(gateway, token)

            def flood() -> int:
                sent = 0
                # What the kernels between them hold is no concern of the server's.
                with raw, pytest.raises(OSError):  # noqa: PT012 - reset or broken, as it happens
                    while sent < 16 * UNSENT:
                        raw.sendall(PING * 1000)
                        sent += 1000 * len(PING)
                return sent

            assert await anyio.to_thread.run_sync(flood) < 16 * UNSENT
            enqueue(sqlite_engine, new_job())
            await good.expect(Offer)


async def test_a_message_of_empty_pieces_ends_its_connection(store: Store) -> None:
    with guarded(store, Limits()) as gateway:
        with await _shake_hands(gateway, make_token(store)) as raw:
            raw.sendall(b"\x01\x81\x00\x00\x00\x00[" + b"\x00\x80\x00\x00\x00\x00" * (2 * MOST_PIECES))
            assert await anyio.to_thread.run_sync(is_cut, raw)
        assert await anyio.to_thread.run_sync(is_well, gateway)


def test_as_many_files_as_may_be() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024));"
        "from edge_ws.server.guarded import limits_by_files;"
        "print(limits_by_files().connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["768", "1024"]
    assert limits_by_files().connections <= resource.getrlimit(resource.RLIMIT_NOFILE)[0]
