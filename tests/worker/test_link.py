"""The worker's link against a real gateway: greeting, refusals, coming back, leaving."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
import sqlalchemy as sa

from edge_ws.errors import RefusedError
from edge_ws.protocol.frames import Asked, Bye, Hello, ServerFrame, Status, Welcome
from edge_ws.protocol.ids import HostId, SiteId, WorkerName, new_id
from edge_ws.store.store import Store
from edge_ws.worker.faults import Faults
from edge_ws.worker.link import Link
from edge_ws.worker.network import Network
from edge_ws.worker.transports.longpoll import LongPollTransport
from edge_ws.worker.transports.websocket import WebSocketChannel, WebSocketTransport
from tests.support.foreign import answering_with
from tests.support.gateway import RunningGateway, inventory, make_token, serving
from tests.support.rows import enqueue, new_job
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.anyio
each_way = pytest.mark.parametrize("transport", ["auto", "websocket", "longpoll"])
W = WorkerName("w1")


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    with serving(store) as gateway:
        yield gateway


class Worker:
    """The daemon's place: notes what the link brings."""

    def __init__(self, **asked: object) -> None:
        self.stated = inventory(HostId(new_id()), site=SiteId(new_id()))
        self.asked = asked
        self.welcomes: list[Welcome] = []
        self.frames: list[ServerFrame] = []
        self.proven = 0

    def hello(self) -> Hello:
        values: dict[str, object] = {
            "protocol": 1,
            "oldest_protocol": 1,
            "worker": W,
            "team": None,
            "concurrency": 4,
            "queues": ("q",),
            "inventory": self.stated,
        }
        return Hello(**{**values, **self.asked})

    def status(self) -> Status:
        return Status(inventory=self.stated)

    def welcomed(self, welcome: Welcome, opened_in_s: float, transport: str) -> None:
        self.welcomes.append(welcome)

    def take(self, frame: ServerFrame) -> None:
        self.frames.append(frame)

    def link(self, url: str, token: str, *, proven: bool = False, transport: str = "auto") -> Link:
        def on_proven() -> None:
            self.proven += 1

        way = Network(url, None, None)
        both = [WebSocketTransport(way), LongPollTransport(way, self.hello)]
        return Link(
            W,
            [one for one in both if transport in {"auto", one.name}],
            self,
            read_token=lambda: token,
            proven=proven,
            on_proven=on_proven,
        )


@each_way
async def test_greeting_frames_and_goodbye(
    sqlite_engine: sa.Engine, store: Store, gateway: RunningGateway, transport: str
) -> None:
    worker = Worker()
    link = worker.link(gateway.base_url, make_token(store), transport=transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await until(lambda: link.ready)
        enqueue(sqlite_engine, new_job())
        await until(lambda: len(worker.frames) == 1)
        link.leave(Bye(reason="drained"))
    assert (len(worker.welcomes), worker.proven, link.ready) == (1, 1, False)
    await until(lambda: store.views.workers()[0].state == "offline")


class _AsksMeanwhile(Worker):
    """Is asked for maintenance on its host right after it has said hello."""

    def hello(self) -> Hello:
        hello = super().hello()
        self.stated = replace(self.stated, asked=Asked(number=1, maintenance=True, comment="new disk"))
        return hello


async def test_what_changes_between_hello_and_welcome_is_told_before_the_next_heartbeat(
    store: Store, gateway: RunningGateway
) -> None:
    worker = _AsksMeanwhile()
    link = worker.link(gateway.base_url, make_token(store), transport="websocket")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        # The heartbeat comes every 15 s.
        await until(lambda: bool(found := store.views.workers()) and found[0].comment == "new disk", 10.0)
        link.leave(Bye(reason="drained"))


@each_way
async def test_it_comes_back_when_the_gateway_does(store: Store, transport: str) -> None:
    worker, port = Worker(), free_port()
    link = worker.link(f"http://127.0.0.1:{port}", make_token(store), transport=transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        for round_ in range(2):
            with serving(store, port=port):
                await until(lambda wanted=round_ + 1: len(worker.welcomes) == wanted, 20)
            await until(lambda: not link.ready)
            link.retry_now()
        # A line that comes and goes leaves a trace.
        steady = link.steadiness
        assert (steady.losses, steady.changes, bool(steady.lost_at), bool(steady.lost_why)) == (
            2,
            0,
            True,
            True,
        )
        tasks.cancel_scope.cancel()


@each_way
@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        (
            "wrong token",
            "token",
            r"token refused by http://127.* \(it is unknown here\); at the centre: airflow",
        ),
        ("foreign queue", "not_admitted", "the worker asks for x"),
        ("old protocol", "version", "upgrade"),
    ],
)
async def test_a_first_refusal_ends_it(  # noqa: PLR0917
    store: Store, gateway: RunningGateway, fault: str, code: str, sentence: str, transport: str
) -> None:
    token = "edgews_wrong" if fault == "wrong token" else make_token(store, queues=["q"])
    asked: dict[str, object] = {"queues": ("x",)} if fault == "foreign queue" else {}
    if fault == "old protocol":
        asked = {"protocol": 0, "oldest_protocol": 0}
    link = Worker(**asked).link(gateway.base_url, token, transport=transport)
    with pytest.raises(RefusedError, match=sentence) as refused, anyio.fail_after(10):
        await link.run()
    assert refused.value.code == code


async def test_a_proven_credential_is_tried_again_for_ever(store: Store, gateway: RunningGateway) -> None:
    token = make_token(store)
    store.tokens.revoke_token("test")
    link = Worker().link(gateway.base_url, token, proven=True)
    with anyio.move_on_after(1.0) as scope:
        await link.run()
    assert scope.cancelled_caught


@each_way
async def test_leaving_before_a_connection_ends_at_once(transport: str) -> None:
    link = Worker().link(f"http://127.0.0.1:{free_port()}", "token", transport=transport)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            await anyio.lowlevel.checkpoint()
            link.leave(Bye(reason="stop"))


class _NeverOpen:
    """A way on which nothing comes back, be it a refusal."""

    where = "http://nowhere"

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = anyio.Event()

    @asynccontextmanager
    async def open(self, worker: WorkerName, token: str) -> AsyncIterator[WebSocketChannel]:
        self.begun.set()
        await anyio.sleep_forever()
        yield


@pytest.mark.parametrize("names", [["websocket", "longpoll"], ["websocket"]])
async def test_leaving_while_a_way_is_being_opened_ends_at_once(names: list[str]) -> None:
    ways = [_NeverOpen(name) for name in names]
    worker = Worker()
    link = Link(W, ways, worker, read_token=lambda: "t", proven=True, on_proven=lambda: None)
    # Less than the first way's head start, and than the time to open one.
    with anyio.fail_after(1.5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            await ways[0].begun.wait()
            link.leave(Bye(reason="stop"))


@each_way
async def test_a_server_that_is_not_ours_is_said_to_be_the_wrong_url(
    gateway: RunningGateway, transport: str
) -> None:
    link = Worker().link(f"{gateway.base_url}/elsewhere", "token", transport=transport)
    with pytest.raises(RefusedError, match="no edge-ws is there; --url is Airflow's base URL"):
        await link.run()


@pytest.mark.parametrize("answer", ["404 Not Found", "200 OK", "302 Found", "429 Slow", "403 No", "503 Away"])
@each_way
async def test_a_foreign_answer_costs_a_proven_worker_seconds(
    store: Store, answer: str, transport: str
) -> None:
    head = f"HTTP/1.1 {answer}\r\nLocation: /login\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    worker, port = Worker(), free_port()
    link = worker.link(f"http://127.0.0.1:{port}", make_token(store), proven=True, transport=transport)
    async with anyio.create_task_group() as tasks:
        with answering_with(head.encode(), port) as asked:
            tasks.start_soon(link.run)
            await until(lambda: len(asked) >= 3, 20)
        with serving(store, port=port):
            await until(lambda: link.ready, 15)
            tasks.cancel_scope.cancel()


async def test_a_first_start_that_waits_outlasts_any_answer(gateway: RunningGateway) -> None:
    worker = Worker()
    way = Network(f"{gateway.base_url}/elsewhere", None, None)
    link = Link(
        W,
        [WebSocketTransport(way)],
        worker,
        read_token=lambda: "t",
        proven=False,
        on_proven=lambda: None,
        wait=True,
    )
    with anyio.move_on_after(1.5) as scope:
        await link.run()
    assert scope.cancelled_caught
    assert "no edge-ws is there" in link.trouble


async def test_a_new_token_is_tried_at_once_while_the_old_one_is_refused(
    store: Store, gateway: RunningGateway
) -> None:
    tokens = ["edgews_wrong"]
    worker = Worker()
    link = Link(
        W,
        [WebSocketTransport(Network(gateway.base_url, None, None))],
        worker,
        read_token=lambda: tokens[-1],
        proven=True,
        on_proven=lambda: None,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await until(lambda: "token refused" in link.trouble)
        tokens.append(make_token(store))
        await until(lambda: link.ready, 5)
        tasks.cancel_scope.cancel()


async def test_a_token_that_expires_soon_is_told(
    caplog: pytest.LogCaptureFixture, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store, expires_in_s=3 * 86_400.0)
    link = Link(
        W,
        [WebSocketTransport(Network(gateway.base_url, None, None))],
        Worker(),
        read_token=lambda: token,
        proven=True,
        on_proven=lambda: None,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await until(lambda: link.ready)
        assert any("the token expires in 3.0 days" in one.getMessage() for one in caplog.records)
        tasks.cancel_scope.cancel()


async def test_a_fault_of_a_connection_or_a_frame_ends_nothing_else(
    sqlite_engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    worker, faults, token = Worker(), Faults(), make_token(store)
    good = worker.hello
    broken = [True, True]

    def hello() -> Hello:
        if broken:
            broken.pop()
            raise ZeroDivisionError
        return good()

    worker.hello = hello  # type: ignore[method-assign]
    worker.take = lambda frame: worker.frames.append(frame) or {}[frame]  # type: ignore[method-assign,func-returns-value]
    link = Link(
        W,
        [WebSocketTransport(Network(gateway.base_url, None, None))],
        worker,
        read_token=lambda: token,
        proven=False,
        on_proven=lambda: None,
        faults=faults,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await until(lambda: link.ready, 15)
        enqueue(sqlite_engine, new_job())
        await until(lambda: len(worker.frames) == 1)
        await anyio.lowlevel.checkpoint()
        assert link.ready
        tasks.cancel_scope.cancel()
    assert faults.count == 3
