"""The long-poll transport against a server that does what the test says: cuts, strangers, news in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc
import pytest

from edge_ws.errors import EdgeWsError, RefusedError, RemoteProtocolError, Unreachable, UnreachableError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Ack,
    Beat,
    Bye,
    Hello,
    Refuse,
    ServerFrame,
    Status,
    Timers,
    Welcome,
    Wish,
)
from edge_ws.protocol.ids import CONTROL, ClaimId, GatewayId, HostId, WorkerName, new_id
from edge_ws.protocol.session import Close, CloseCode
from edge_ws.protocol.states import Phase
from edge_ws.worker.network import Network
from edge_ws.worker.transports.longpoll import FORGET_AFTER, LongPollChannel, LongPollTransport
from tests.support.gateway import inventory
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
W = WorkerName("w1")
WISH = Wish(revision=1, concurrency=2, queues=None)
WELCOME = Welcome(protocol=1, gateway=GatewayId("g"), timers=Timers(), wish=WISH, execution_api_url=None)


@dataclass
class Asked:
    """A request as the server got it."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What the server does with a request: waits, then answers, or breaks off if it has no status."""

    status: int | None = 200
    frames: Sequence[ServerFrame] = ()
    after_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    kind: str = "application/json"


@dataclass
class Server:
    """A server with one answer for each request, in their order; then polls are held."""

    port: int
    polls: list[Answer]
    sends: list[Answer]
    asked: list[Asked] = field(default_factory=list)

    @property
    def way(self) -> Network:
        return Network(f"http://127.0.0.1:{self.port}", None, None)

    def requests(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path.endswith(path)]

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                await self._serve(stream)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            size = int(headers.get("content-length", "0"))
            while len(data) < size:
                data += await stream.receive()
            body, data = data[:size], data[size:]
            path = first.split()[1]
            self.asked.append(Asked(path, headers, body))
            planned = self.polls if path.endswith("poll") else self.sends
            answer = planned.pop(0) if planned else Answer(after_s=3600.0)
            await anyio.sleep(answer.after_s)
            if answer.status is None:
                return
            said = codec.encode_batch(answer.frames or [Beat()]) if answer.body is None else answer.body
            told = {"content-type": answer.kind, "content-length": str(len(said)), **answer.headers}
            lines = [f"HTTP/1.1 {answer.status} x", *(f"{name}: {value}" for name, value in told.items())]
            await stream.send("\r\n".join(lines).encode() + b"\r\n\r\n" + said)


@asynccontextmanager
async def answering(*polls: Answer, sends: Sequence[Answer] = ()) -> AsyncIterator[Server]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    server = Server(port, list(polls), list(sends))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


def hello() -> Hello:
    return Hello(
        protocol=1,
        oldest_protocol=1,
        worker=W,
        team=None,
        concurrency=4,
        queues=None,
        inventory=inventory(HostId(new_id())),
    )


def greeted(number: int = 1, **more: str) -> Answer:
    marks = {"edge-ws-connection": "c1", "edge-ws-answer": str(number)}
    return Answer(frames=[WELCOME], headers={**marks, **more})


@asynccontextmanager
async def channel_to(server: Server) -> AsyncIterator[tuple[LongPollTransport, LongPollChannel]]:
    transport = LongPollTransport(server.way, hello)
    async with transport.open(W, "secret") as channel:
        await channel.send([hello()])
        yield transport, channel


@contextmanager
def failing(error: type[EdgeWsError], sentence: str) -> Iterator[Callable[[], EdgeWsError]]:
    with pytest.raises(error, match=sentence) as raised, anyio.fail_after(10):
        yield lambda: raised.value


async def test_a_poll_says_what_arrived_last_and_how_long_to_wait() -> None:
    again = Answer(frames=[WISH], headers={"edge-ws-connection": "c1", "edge-ws-answer": "2"})
    async with answering(greeted(), again) as server, channel_to(server) as (_, channel):
        assert await channel.receive() == [WELCOME]
        assert await channel.receive() == [WISH]
        await until(lambda: len(server.asked) == 3)
        first, second, third = (one.headers for one in server.asked)
        assert "edge-ws-connection" not in first
        assert first["edge-ws-token"] == "secret"
        assert (second["edge-ws-connection"], second["edge-ws-answer"]) == ("c1", "1")
        assert (third["edge-ws-connection"], third["edge-ws-answer"]) == ("c1", "2")
        assert float(third["edge-ws-hold"]) == pytest.approx(25.0)


async def test_statements_are_answered_by_their_own_request() -> None:
    claim = ClaimId(new_id())
    ack = Ack(claim=claim, phase=Phase.ENDED)
    async with (
        answering(greeted(), sends=[Answer(frames=[ack])]) as server,
        channel_to(server) as (_, channel),
    ):
        await channel.receive()
        await channel.send([Refuse(claim=claim, reason="full")])
        assert await channel.receive() == [ack]
        (sent,) = server.requests("send")
        assert sent.headers["edge-ws-connection"] == "c1"
        assert codec.decode_batch_from_worker(sent.body) == (Refuse(claim=claim, reason="full"),)


async def test_statements_are_said_again_over_a_new_connection_if_an_idle_one_was_closed() -> None:
    sends = [Answer(None), Answer()]
    async with answering(greeted(), sends=sends) as server, channel_to(server) as (_, channel):
        await channel.receive()
        await channel.send([Refuse(claim=ClaimId("c"), reason="")])
        assert len(server.requests("send")) == 2


async def test_a_new_state_goes_with_a_new_poll() -> None:
    async with answering(greeted()) as server, channel_to(server) as (_, channel):
        await channel.receive()
        await until(lambda: len(server.requests("poll")) == 2)
        await channel.send([Status(inventory=inventory(HostId(new_id())))])
        await until(lambda: len(server.requests("poll")) == 3)
        assert not server.requests("send")


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_who_holds_the_poll_hears_of_free_slots(elsewhere: bool) -> None:
    sends = [Answer(headers={"edge-ws-elsewhere": "1"} if elsewhere else {}), Answer(frames=[WISH])]
    async with answering(greeted(), sends=sends) as server, channel_to(server) as (_, channel):
        await channel.receive()
        await until(lambda: len(server.requests("poll")) == 2)
        await channel.send([Refuse(claim=ClaimId("c"), reason="")])
        if elsewhere:
            await until(lambda: len(server.requests("poll")) == 3)
        # A round trip later there is no further one.
        await channel.send([Refuse(claim=ClaimId("c"), reason="")])
        assert len(server.requests("poll")) == (3 if elsewhere else 2)


async def test_another_gateways_welcome_is_the_news_of_a_wish() -> None:
    async with answering(greeted(), greeted(1)) as server, channel_to(server) as (_, channel):
        assert await channel.receive() == [WELCOME]
        assert await channel.receive() == [WISH]


async def test_an_older_gateways_wish_leaves_what_it_does_not_know() -> None:
    wish = replace(WISH, maintenance=True, comment="audit", asked=3)
    first = replace(WELCOME, wish=wish, capabilities=(CONTROL,))
    older = replace(WELCOME, wish=Wish(revision=2, concurrency=5, queues=("a",)))
    its_next = Wish(revision=3, concurrency=6, queues=("a",))
    newer = replace(first, wish=Wish(revision=4, concurrency=5, queues=None))
    its_last = replace(wish, revision=5)
    marks = {"edge-ws-connection": "c1", "edge-ws-answer": "1"}
    answers = [Answer(frames=[one], headers=marks) for one in (first, older, its_next, newer, its_last)]
    async with answering(*answers) as server, channel_to(server) as (_, channel):
        assert await channel.receive() == [first]
        assert await channel.receive() == [replace(wish, revision=2, concurrency=5, queues=("a",))]
        assert await channel.receive() == [replace(wish, revision=3, concurrency=6, queues=("a",))]
        assert await channel.receive() == [newer.wish]
        assert await channel.receive() == [its_last]


async def test_a_time_out_on_the_way_makes_polls_shorter() -> None:
    cut = Answer(504, after_s=1.5, kind="text/html", body=b"timed out")
    async with answering(greeted(), cut) as server, channel_to(server) as (transport, channel):
        await channel.receive()
        await until(lambda: len(server.requests("poll")) == 3)
        assert transport.hold_s is not None
        assert 0.9 < transport.hold_s < 1.5
        held = float(server.requests("poll")[-1].headers["edge-ws-hold"])
        assert held == pytest.approx(transport.hold_s, abs=0.01)


async def test_one_broken_poll_may_be_chance_two_alike_are_not() -> None:
    cut = Answer(None, after_s=1.2)
    async with answering(greeted(), cut, cut) as server, channel_to(server) as (transport, channel):
        await channel.receive()
        await until(lambda: len(server.requests("poll")) == 3)
        assert transport.hold_s is None
        await until(lambda: len(server.requests("poll")) == 4)
        assert transport.hold_s is not None


async def test_what_breaks_again_and_again_is_closed() -> None:
    cut = Answer(None, after_s=1.1)
    async with answering(greeted(), cut, cut, cut) as server, channel_to(server) as (_, channel):
        await channel.receive()
        with failing(UnreachableError, "closed the connection in place of an answer") as error:
            await channel.receive()
        assert error().kind is Unreachable.BROKE_OFF


def test_after_many_polls_that_lasted_longer_ones_are_tried_again() -> None:
    transport = LongPollTransport(Network("http://localhost", None, None), hello)
    transport.cut(10.0, timed_out=True)
    assert transport.hold_s == pytest.approx(7.0)
    for _ in range(FORGET_AFTER - 1):
        transport.answered(7.1)
        transport.answered(0.5)
    assert transport.hold_s is not None
    transport.answered(7.1)
    assert transport.hold_s is None


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (Answer(404, body=b"{}"), UnreachableError, "no edge-ws is there; --url is Airflow's base URL"),
        (Answer(200, body=b"<html>", kind="text/html"), UnreachableError, "no edge-ws is there"),
        (Answer(429, body=b""), UnreachableError, "status 429; it is not ready or not there"),
        (
            Answer(502, body=b"", kind="text/html"),
            UnreachableError,
            "status 502; it is not ready or not there",
        ),
        (Answer(None), UnreachableError, "closed the connection in place of an answer"),
        (Answer(body=b"{"), RemoteProtocolError, "not JSON"),
        (Answer(body=codec.encode(Bye(reason=""))), RemoteProtocolError, "may come from this side"),
        (
            Answer(
                401,
                headers={"edge-ws-error": "token"},
                body=json.dumps({"error": "token", "sentence": "expired", "retry_after_s": None}).encode(),
            ),
            RefusedError,
            r"token refused by http://.* \(expired\); at the centre",
        ),
        (
            Answer(503, headers={"edge-ws-error": "unavailable"}, body=b"garbage"),
            RefusedError,
            "refused by http://.*: unavailable",
        ),
    ],
)
async def test_what_an_answer_means(answer: Answer, error: type[EdgeWsError], sentence: str) -> None:
    async with answering(answer) as server, channel_to(server) as (_, channel):
        with failing(error, sentence):
            await channel.receive()
        with failing(error, sentence):
            await channel.send([Refuse(claim=ClaimId("c"), reason="")])


async def test_the_servers_close_comes_after_what_it_had_to_say() -> None:
    last = greeted(1, **{"edge-ws-close": "4001 a newer connection took over"})
    async with answering(last) as server, channel_to(server) as (_, channel):
        assert await channel.receive() == [WELCOME]
        with failing(UnreachableError, "4001 a newer connection took over") as error:
            await channel.receive()
        assert error().kind is Unreachable.CLOSED


async def test_a_retired_channel_hears_the_open_poll_and_polls_no_more() -> None:
    news = Answer(frames=[WISH], after_s=0.3)
    async with answering(greeted(), news) as server, channel_to(server) as (_, channel):
        await channel.receive()
        await until(lambda: len(server.requests("poll")) == 2)
        channel.retire()
        assert await channel.receive() == [WISH]
        await channel.close(Close(CloseCode.LEAVING, ""))
        assert len(server.requests("poll")) == 2


async def test_no_server_is_said() -> None:
    async with answering() as server:
        way = server.way
    async with LongPollTransport(way, hello).open(W, "secret") as channel:
        await channel.send([hello()])
        with failing(UnreachableError, "cannot be reached"):
            await channel.receive()
