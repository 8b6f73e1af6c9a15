"""A real gateway under uvicorn on a free port, with small ports of its own, and a worker that speaks frames."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import sqlalchemy as sa
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import ClientConnection, connect

from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Frame,
    Go,
    Hello,
    Inventory,
    Offer,
    ServerFrame,
    Started,
    Timers,
    Welcome,
)
from edge_ws.protocol.ids import ClaimId, HostId, SiteId, WorkerName, new_id
from edge_ws.server.app import Gateway
from edge_ws.server.config import GatewaySettings
from edge_ws.server.ports import CentreMetrics, Identities, JobTraces
from edge_ws.store.store import Store
from edge_ws.store.tables import worker
from tests.support.waiting import wait_until

F = TypeVar("F")


class Tasks:
    """Task states and tokens as a test sets them; unknown ids are running."""

    def __init__(self) -> None:
        self.known: dict[str, str | None] = {}
        self.gone: set[str] = set()

    def states(self, subjects: Collection[str]) -> dict[str, str | None]:
        return {one: self.known.get(one, "running") for one in subjects if one not in self.gone}

    def mint(self, subject: str, *, is_callback: bool, valid_s: float) -> str:
        return f"token for {subject}"

    def mint_for_outcome(self, subject: str, *, valid_s: float) -> str:
        return f"token for the outcome of {subject}"


class LogFolder:
    """Finished logs in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.copies: dict[tuple[str, str], bytes] = {}
        self.uploaded: list[str] = []

    def size(self, log_path: str) -> int:
        return len(self.files.get(log_path, b""))

    def write(self, log_path: str, base: int, chunks: Iterable[bytes]) -> None:
        self.files[log_path] = self.files.get(log_path, b"")[:base] + b"".join(chunks)

    def copied(self, log_path: str, claim: str) -> int:
        return len(self.copies.get((log_path, claim), b""))

    def copy(self, log_path: str, claim: str, begin: int, data: bytes) -> None:
        there = self.copies.get((log_path, claim), b"")
        assert begin <= len(there), "a hole"
        self.copies[log_path, claim] = there[:begin] + data + there[begin + len(data) :]

    def drop_copy(self, log_path: str, claim: str) -> None:
        self.copies.pop((log_path, claim), None)

    def upload(self, log_path: str, command: str) -> None:
        self.uploaded.append(log_path)


@dataclass
class RunningGateway:
    """A gateway that serves."""

    port: int
    tasks: Tasks
    logs: LogFolder
    stop: Callable[[], None] = lambda: None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/edge-ws/v1/ws"


@contextmanager
def serving(
    store: Store,
    settings: GatewaySettings | None = None,
    port: int = 0,
    identities: Identities | None = None,
    *,
    metrics: CentreMetrics | None = None,
    traces: JobTraces | None = None,
) -> Iterator[RunningGateway]:
    """Serve a gateway in a thread for the length of the block."""
    tasks, logs = Tasks(), LogFolder()
    settings = settings or GatewaySettings(hostname="test")
    gateway = Gateway(
        store, settings, tasks, tasks, logs, identities=identities, metrics=metrics, traces=traces
    )
    with _running(gateway, port) as (taken, stop):
        yield RunningGateway(taken, tasks, logs, stop)


@contextmanager
def running_gateway(gateway: Gateway) -> Iterator[str]:
    """Serve that gateway for the length of the block; gives its URL."""
    with _running(gateway, 0) as (port, _):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(gateway: Gateway, port: int) -> Iterator[tuple[int, Callable[[], None]]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = Starlette(lifespan=lifespan, routes=[Mount("/edge-ws", gateway.app)])
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join()
        listener.close()

    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield listener.getsockname()[1], stop
    finally:
        stop()


def make_token(store: Store, name: str = "w*", **more: Any) -> str:
    values = {"worker_pattern": name, "queues": None, "team": None, "expires_in_s": None}
    return store.tokens.create_token("test", **{**values, **more})


def is_connected(store: Store) -> bool:
    """Whether the one worker that there is counts as connected."""
    with store._database.read() as connection:
        return connection.execute(sa.select(worker.c.gateway)).scalar_one() is not None


@dataclass
class Peer:
    """A worker that a test plays by hand."""

    connection: ClientConnection
    inventory: Inventory
    host: HostId
    name: str = "w1"
    welcome: Welcome | None = None
    timers: Timers = field(default_factory=Timers)
    received: deque[ServerFrame] = field(default_factory=deque)

    async def send(self, frame: Frame) -> None:
        await self.connection.send(codec.encode(frame), text=True)

    async def receive(self) -> ServerFrame:
        while not self.received:
            self.received.extend(codec.decode_batch_from_server(await self.connection.recv()))
        return self.received.popleft()

    async def expect(self, kind: type[F], within_s: float = 5.0) -> F:
        """Return the next frame of that kind, leaving out others."""
        with anyio.fail_after(within_s):
            while True:
                frame = await self.receive()
                if isinstance(frame, kind):
                    return frame

    async def hello(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "protocol": 1,
            "oldest_protocol": 1,
            "worker": WorkerName(self.name),
            "team": None,
            "concurrency": self.inventory.concurrency,
            "queues": self.inventory.queues,
            "inventory": self.inventory,
        }
        await self.send(Hello(**{**values, **changes}))


def inventory(host: HostId, **changes: Any) -> Inventory:
    values = Inventory(
        site=SiteId(new_id()),
        hosts=(host,),
        dead_hosts=(),
        claims=(),
        revision=0,
        concurrency=4,
        queues=("q",),
        stale_slots=0,
        draining=False,
    )
    return replace(values, **changes)


@asynccontextmanager
async def connected(
    gateway: RunningGateway, token: str, name: str = "w1", *, greet: bool = True, **changes: Any
) -> AsyncIterator[Peer]:
    """Connect a peer and, unless told otherwise, exchange the greeting."""
    headers = {"edge-ws-token": token, "edge-ws-worker": name}
    host = HostId(new_id())
    async with connect(gateway.ws_url, additional_headers=headers, compression=None) as connection:
        peer = Peer(connection, inventory(host, **changes), host, name)
        if greet:
            await peer.hello()
            peer.welcome = await peer.expect(Welcome)
        yield peer


def claims_of(frames: Iterable[Frame]) -> set[ClaimId]:
    return {frame.claim for frame in frames if hasattr(frame, "claim")}


async def run_to_started(peer: Peer) -> ClaimId:
    """Take the next offer and report its start; return its claim."""
    offer = await peer.expect(Offer)
    await peer.send(Accept(claim=offer.claim, host=peer.host))
    await peer.expect(Go)
    await peer.send(Started(claim=offer.claim, host=peer.host))
    await peer.expect(Ack)
    return offer.claim
