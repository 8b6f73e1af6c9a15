"""Messages through a firewall with a limit: what is learnt, and that all arrives in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa

from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    LOG_CHUNK,
    MAX_FRAME,
    Accept,
    Ack,
    Applied,
    Bye,
    Finished,
    Held,
    Hello,
    Log,
    LogAck,
    NotStarted,
    Offer,
    ServerFrame,
    Started,
    Status,
    Welcome,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, HostId, SiteId, WorkerName, new_id
from edge_ws.protocol.states import Phase
from edge_ws.store.store import Store
from edge_ws.texts import words
from edge_ws.worker.link import Link
from edge_ws.worker.logs import Logs
from edge_ws.worker.message_limits import MessageLimits
from edge_ws.worker.network import Network
from edge_ws.worker.transports.longpoll import LongPollTransport
from edge_ws.worker.transports.sizes import AGAIN_FIRST_S, FLOOR, TRIES, Aside, Sizes, pack
from edge_ws.worker.transports.websocket import WebSocketTransport
from tests.support.firewall import Verdict, firewall
from tests.support.gateway import RunningGateway, inventory, make_token, serving
from tests.support.rows import enqueue, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
W = WorkerName("w1")
HOST = HostId(new_id())
LINE = b"the task's own words, again and again\n"


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    with serving(store) as gateway:
        yield gateway


class Worker:
    """A worker that runs whatever it is offered, with a long log and a long detail at its end."""

    def __init__(
        self, url: str, token: str, transport: str, *, claims: int = 0, sizes: Callable[[str], Sizes] = Sizes
    ) -> None:
        way = Network(url, None, None)
        held = tuple(
            Held(claim=ClaimId(new_id()), phase=Phase.STARTED, log_end=0, host=HOST) for _ in range(claims)
        )
        self.stated = replace(inventory(HOST, site=SiteId(new_id())), claims=held)
        self.acked: list[Ack] = []
        ways = [WebSocketTransport(way, sizes), LongPollTransport(way, self.hello, sizes)]
        self.way = next(one for one in ways if one.name == transport)
        self.link = Link(W, [self.way], self, read_token=lambda: token, proven=True, on_proven=lambda: None)
        self.logs = Logs(self.link.send, self._flushed, lambda: self.link.log_chunk)
        self.unsaid: Finished | None = None
        self.log_end = 0
        """What the gateway has of the log."""

    def hello(self) -> Hello:
        return Hello(
            protocol=1,
            oldest_protocol=1,
            worker=W,
            team=None,
            concurrency=4,
            queues=("q",),
            inventory=self.stated,
        )

    def status(self) -> Status:
        return Status(inventory=self.stated)

    def welcomed(self, welcome: Welcome, opened_in_s: float, transport: str) -> None:
        self.link.send(Applied(revision=0, concurrency=4, queues=("q",)))
        self.logs.resend(only_stuck=False)
        if self.unsaid is not None:
            self.link.send(self.unsaid)

    def take(self, frame: ServerFrame) -> None:
        match frame:
            case Offer():
                self.link.send(Accept(claim=frame.claim, host=HOST))
                self.link.send(Started(claim=frame.claim, host=HOST))
                self.logs.flush(frame.claim, LINE * 8000)
            case LogAck():
                self.logs.acked(frame.claim, frame.log_end)
            case Ack():
                self.acked.append(frame)
                if frame.phase is Phase.ENDED:
                    self.unsaid = None
            case _:
                pass

    def _flushed(self, claim: ClaimId, log_end: int) -> None:
        self.log_end = log_end
        self.unsaid = Finished(claim=claim, exit_code=1, log_end=log_end, detail="because " * 30_000)
        self.link.send(self.unsaid)

    @property
    def has_ended(self) -> bool:
        return any(ack.phase is Phase.ENDED for ack in self.acked)


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
@pytest.mark.parametrize(
    ("verdict", "limit"), [*((verdict, 8_000) for verdict in Verdict), (Verdict.FORBIDDEN, 64_000)]
)
async def test_reports_and_logs_pass_in_smaller_pieces(  # noqa: PLR0917
    sqlite_engine: sa.Engine,
    store: Store,
    gateway: RunningGateway,
    transport: str,
    verdict: Verdict,
    limit: int,
) -> None:
    with firewall(gateway.port, limit, verdict) as wall:
        worker = Worker(wall.url, make_token(store), transport)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.link.run)
            tasks.start_soon(worker.logs.run)
            await until(lambda: worker.link.ready, 20)
            job = new_job()
            enqueue(sqlite_engine, job)
            await until(lambda: worker.has_ended, 150)
            tasks.cancel_scope.cancel()
    assert worker.way.sizes.limit <= limit
    # It is remembered: hardly anything more has been tried in vain.
    assert len(wall.stopped) <= 16
    assert worker.log_end == 8000 * len(LINE)


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
async def test_what_was_learnt_holds_from_the_beginning_after_a_restart(
    sqlite_engine: sa.Engine, store: Store, gateway: RunningGateway, transport: str, tmp_path: Path
) -> None:
    stopped: list[int] = []
    with firewall(gateway.port, 8_000, Verdict.FORBIDDEN) as wall:
        token = make_token(store)
        for life in range(2):
            limits = MessageLimits(tmp_path / "sizes")
            worker = Worker(wall.url, token, transport, sizes=limits.sizes)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.link.run)
                tasks.start_soon(worker.logs.run)
                await until(lambda worker=worker: worker.link.ready, 20)  # type: ignore[misc]
                assert (worker.link.message_limit is None) is (life == 0)
                enqueue(sqlite_engine, new_job(f"t{life}"))
                await until(lambda worker=worker: worker.has_ended, 150)  # type: ignore[misc]
                assert worker.link.message_limit == worker.way.sizes.learnt
                assert FLOOR <= worker.way.sizes.learnt <= 8_000
                worker.link.leave(Bye(reason="restart"))
                # The next one has the name, and another site.
                await until(lambda worker=worker: not worker.link.ready, 20)  # type: ignore[misc]
                tasks.cancel_scope.cancel()
            stopped.append(len(wall.stopped))
    assert stopped[0] > 0
    # A larger one is tried again as ever, and no more than that.
    assert stopped[1] <= stopped[0] + 1


async def test_a_large_inventory_passes_without_some_of_its_claims(
    store: Store, gateway: RunningGateway
) -> None:
    for transport in ("websocket", "longpoll"):
        with firewall(gateway.port, 16_000, Verdict.RESET) as wall:
            worker = Worker(wall.url, make_token(store), transport, claims=1000)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.link.run)
                await until(lambda one=worker: one.link.ready, 60)
                worker.link.leave(Bye(reason="drained"))
    assert wall.stopped


async def test_one_body_that_offends_keeps_nobody_waiting(
    sqlite_engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    with firewall(gateway.port, MAX_FRAME, Verdict.FORBIDDEN, word=b"because because") as wall:
        worker = Worker(wall.url, make_token(store), "longpoll")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.link.run)
            tasks.start_soon(worker.logs.run)
            await until(lambda: worker.link.ready, 20)
            enqueue(sqlite_engine, new_job())
            await until(lambda: worker.has_ended, 150)
            tasks.cancel_scope.cancel()
    assert wall.stopped


def test_less_is_tried_down_to_a_floor_and_more_again_later() -> None:
    now = 0.0
    sizes = Sizes(clock=lambda: now)
    assert (sizes.limit, sizes.log_chunk) == (MAX_FRAME, LOG_CHUNK)
    assert sizes.failed(100_000, "reset", is_told=False)
    assert sizes.limit == 25_000
    assert sizes.failed(100_000, "reset", is_told=False), "one that was on its way says nothing new"
    assert sizes.limit == 25_000
    for _ in range(2):
        sizes.failed(sizes.limit, "413", is_told=True)
    assert sizes.limit == FLOOR
    assert not sizes.failed(FLOOR, "reset", is_told=False)
    now += AGAIN_FIRST_S
    assert sizes.limit == 4 * FLOOR
    sizes.failed(3 * FLOOR, "413", is_told=True)
    assert sizes.limit == FLOOR
    now += AGAIN_FIRST_S
    assert sizes.limit == FLOOR, "the next trial comes later"
    now += AGAIN_FIRST_S
    sizes.passed(sizes.limit)
    now += AGAIN_FIRST_S
    assert sizes.limit == 16 * FLOOR


def test_what_is_kept_is_what_is_in_force_and_it_is_tried_to_exceed_it(tmp_path: Path) -> None:
    now, kept = 0.0, list[int]()
    sizes = Sizes("w", lambda: now, limit=20_000, keep=kept.append)
    assert (sizes.limit, sizes.learnt, sizes.is_limited) == (20_000, 20_000, True)
    now += AGAIN_FIRST_S
    assert (sizes.limit, sizes.learnt) == (80_000, 20_000)
    sizes.failed(70_000, "413", is_told=True)
    assert (sizes.learnt, kept) == (20_000, [])
    now += 2 * AGAIN_FIRST_S
    sizes.passed(sizes.limit)
    assert (sizes.learnt, kept) == (80_000, [80_000])
    sizes.failed(80_000, "413", is_told=True)
    assert kept == [80_000, 20_000]

    path = tmp_path / "sizes"
    assert MessageLimits(path).sizes("w").limit == MAX_FRAME
    MessageLimits(path).sizes("w").failed(100_000, "413", is_told=True)
    assert (MessageLimits(path).sizes("w").limit, MessageLimits(path).sizes("v").limit) == (25_000, MAX_FRAME)
    for told, limit in (
        ('{"w": 1}', FLOOR),
        ('{"w": "many"}', MAX_FRAME),
        ("[1]", MAX_FRAME),
        ("", MAX_FRAME),
    ):
        path.write_text(told)
        assert MessageLimits(path).sizes("w").limit == limit
    path.unlink()
    path.mkdir()
    # It cannot be kept: it holds in this life.
    sizes = MessageLimits(path).sizes("w")
    sizes.failed(100_000, "413", is_told=True)
    assert sizes.limit == 25_000


def test_what_has_passed_before_fails_once_without_being_made_smaller() -> None:
    sizes = Sizes()
    sizes.passed(50_000)
    assert not sizes.failed(50_000, "reset", is_told=False)
    assert sizes.failed(50_000, "reset", is_told=False)


@pytest.mark.parametrize("limit", [FLOOR, 20_000, MAX_FRAME])
def test_whatever_is_packed_fits_and_says_the_same(limit: int) -> None:
    claims = tuple(
        Held(claim=ClaimId(new_id()), phase=Phase.ENDED, log_end=2**53 - 1, host=HOST) for _ in range(500)
    )
    stated = replace(inventory(HOST), claims=claims)
    frames = [
        Log(claim=ClaimId("c"), offset=7, data=bytes(range(256)) * 256),
        Finished(claim=ClaimId("c"), exit_code=1, log_end=1, detail="\x01ü" * 300_000),
        NotStarted(claim=ClaimId("c"), reason='"' * 90_000),
        Status(inventory=stated),
        Accept(claim=ClaimId("c"), host=HOST),
    ]
    data, said = b"", []
    for body, held in pack(frames, limit):
        assert len(body) <= limit
        # Words are cut again where they arrive.
        assert codec.decode_batch_from_worker(body) == tuple(map(_read, held))
        said += held
    for frame in said:
        if isinstance(frame, Log):
            assert frame.offset == 7 + len(data)
            data += frame.data
    assert data == frames[0].data  # type: ignore[attr-defined]
    assert {type(frame) for frame in said} == {type(frame) for frame in frames}
    status = next(frame for frame in said if isinstance(frame, Status))
    assert set(status.inventory.claims) <= set(claims)


def _read(frame: WorkerFrame) -> WorkerFrame:
    match frame:
        case Finished():
            return replace(frame, detail=words(frame.detail))
        case NotStarted():
            return replace(frame, reason=words(frame.reason))
        case _:
            return frame


def test_a_statement_is_set_aside_only_where_others_pass() -> None:
    aside, frame = Aside(), Log(claim=ClaimId("c"), offset=0, data=b"x" * 400)
    other = Accept(claim=ClaimId("d"), host=HOST)
    assert aside.failed([frame, other], "403") == [frame, other]
    assert aside.alone
    assert [aside.failed([frame], "403") for _ in range(TRIES)] == [None] * TRIES
    aside.passed([other])
    found = aside.failed([frame], "403")
    assert found is not None
    (substitute,) = found
    assert isinstance(substitute, Log)
    assert (substitute.offset, len(substitute.data)) == (0, 400)
    assert substitute.data.startswith(b"[400 bytes left out, as it did not pass")
    assert [aside.failed([substitute], "403") for _ in range(TRIES - 1)][-1] == []
