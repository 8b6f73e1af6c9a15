"""How soon a token's end acts on every way in, at the gateway that heard of it and at another one.

Measured from the commit, or from the moment at which the token expires, until the worker hears of it; `-s`
shows the numbers. The limit is a second and what the machine itself is late by meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import anyio.lowlevel
import httpx2
import pytest
import sqlalchemy as sa
from anyio import to_thread

from edge_ws.protocol import codec
from edge_ws.protocol.frames import Applied, Hello, Refused, ServerFrame, Welcome
from edge_ws.protocol.ids import new_id
from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from tests.server.test_longpoll import Poller
from tests.server.test_tokens import DeafStore
from tests.support.gateway import Peer, RunningGateway, connected, make_token, serving

pytestmark = pytest.mark.anyio
WITHIN_S = 1.0
ROUNDS = 3
TICK_S = 0.01
LIFE_S = 1.5
"""Of a token that expires: all are connected by then."""
RARELY = GatewaySettings(hostname="test", backup_scan_s=600.0)


@dataclass
class Clock:
    """When the token ended, when each way heard of it, and how late this machine is meanwhile."""

    ended_at: float = 0.0
    heard_at: dict[str, float] = field(default_factory=dict)
    late_s: float = 0.0

    def hear(self, way: str) -> None:
        self.heard_at[way] = time.time()

    async def watch_lateness(self) -> None:
        while True:
            begun = time.monotonic()
            await anyio.sleep(TICK_S)
            self.late_s = max(self.late_s, time.monotonic() - begun - TICK_S)


class Blue(Poller):
    """One of a team."""

    def hello(self) -> Hello:
        return replace(super().hello(), team="blue")


@pytest.fixture(params=[Store, DeafStore], ids=["told", "by looking"])
def gateways(
    request: pytest.FixtureRequest, engine: sa.Engine
) -> Iterator[tuple[RunningGateway, RunningGateway]]:
    with ExitStack() as stack:
        one, two = (stack.enter_context(serving(request.param(engine), RARELY)) for _ in range(2))
        yield one, two


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


@asynccontextmanager
async def _all_ways(
    gateways: tuple[RunningGateway, RunningGateway],
    token: str,
    client: httpx2.AsyncClient,
    clock: Clock,
    sends: bool = True,
) -> AsyncIterator[None]:
    """Have a worker on each way at each gateway; the block ends the token, and all have heard of it after it."""

    async def wait_on_websocket(way: str, peer: Peer) -> None:
        await peer.expect(Refused, within_s=30)
        clock.hear(way)

    async def wait_on_poll(way: str, poller: Poller) -> None:
        frames: tuple[ServerFrame, ...] = ()
        while not any(isinstance(frame, Refused) for frame in frames):
            answer = await poller.post("poll", [poller.hello()])
            if answer.status_code != 200:
                break
            frames = codec.decode_batch_from_server(answer.content)
        clock.hear(way)

    async def wait_on_sends(way: str, poller: Poller) -> None:
        said = [Applied(revision=0, concurrency=4, queues=("q",))]
        while True:
            if (await poller.post("send", said)).status_code != 200:
                break
            await anyio.sleep(TICK_S)
        clock.hear(way)

    mark = new_id()[:8]
    waits: list[tuple[Callable[..., Awaitable[None]], str, Peer | Poller]] = []
    async with AsyncExitStack() as stack:
        for number, gateway in enumerate(gateways):
            peer = await stack.enter_async_context(
                connected(gateway, token, f"ws-{number}-{mark}", greet=False)
            )
            await peer.hello(team="blue")
            await peer.expect(Welcome, within_s=30)
            waits.append((wait_on_websocket, f"WebSocket {number}", peer))
            for kind, wait in (("poll", wait_on_poll), *([("send", wait_on_sends)] if sends else [])):
                poller = Blue(gateway, token, client, name=f"{kind}-{number}-{mark}")
                await poller.poll()
                waits.append((wait, f"{kind} {number}", poller))
        async with anyio.create_task_group() as watching:
            watching.start_soon(clock.watch_lateness)
            async with anyio.create_task_group() as tasks:
                for wait, way, who in waits:
                    tasks.start_soon(wait, way, who)
                yield
            watching.cancel_scope.cancel()


def _judge(what: str, clocks: list[Clock], capsys: pytest.CaptureFixture[str]) -> None:
    late_s = max(clock.late_s for clock in clocks)
    with capsys.disabled():
        print(f"\n{what}; this machine is up to {late_s * 1000:.0f} ms late")
        for way in clocks[0].heard_at:
            took = [clock.heard_at[way] - clock.ended_at for clock in clocks]
            print(f"  {way:12} median {statistics.median(took):.3f} s, worst {max(took):.3f} s")
    for clock in clocks:
        took = {way: at - clock.ended_at for way, at in clock.heard_at.items()}
        assert max(took.values()) < WITHIN_S + 4 * clock.late_s, (took, clock.late_s)


@pytest.mark.parametrize("how", ["revoked", "narrowed"])
async def test_what_ends_a_token_is_heard_within_a_second(
    gateways: tuple[RunningGateway, RunningGateway],
    engine: sa.Engine,
    client: httpx2.AsyncClient,
    how: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, clocks = Store(engine), []
    for _ in range(ROUNDS):
        token, clock = make_token(store, "*"), Clock()
        (mine,) = [one for one in store.tokens.all_tokens() if one.revoked_at is None]

        def end(clock: Clock, of: str) -> None:
            if how == "revoked":
                store.tokens.revoke_token(of)
            else:
                store.tokens.narrow_token(of, team="red")
            clock.ended_at = time.time()

        # What runs of another team goes on, and may be reported.
        async with _all_ways(gateways, token, client, clock, sends=how == "revoked"):
            # All have begun to wait.
            await anyio.sleep(TICK_S)
            await to_thread.run_sync(end, clock, mine.id)
        store.tokens.revoke_token(mine.id)
        clocks.append(clock)
    _judge(f"{how}, {engine.dialect.name}", clocks, capsys)


async def test_an_expiry_is_heard_within_a_second(
    gateways: tuple[RunningGateway, RunningGateway],
    engine: sa.Engine,
    client: httpx2.AsyncClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, clocks = Store(engine), []
    for _ in range(ROUNDS):
        known = {one.id for one in store.tokens.all_tokens()}
        token, clock = make_token(store, "*", expires_in_s=LIFE_S + 8.0), Clock()
        (mine,) = [one for one in store.tokens.all_tokens() if one.id not in known]
        async with _all_ways(gateways, token, client, clock):
            shorten = partial(store.tokens.narrow_token, mine.id, expires_in_s=LIFE_S)
            left = await to_thread.run_sync(shorten)
            assert left.expires_at is not None
            # The databases have this machine's clock.
            clock.ended_at = left.expires_at
        clocks.append(clock)
    _judge(f"expired, {engine.dialect.name}", clocks, capsys)
