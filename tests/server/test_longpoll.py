"""A real gateway over plain HTTP: a poll is answered the moment there is something to say, by whichever gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Applied,
    Beat,
    Bye,
    Finished,
    Go,
    Hello,
    Inventory,
    Log,
    LogAck,
    Offer,
    Refuse,
    Refused,
    ServerFrame,
    Stale,
    Started,
    Timers,
    Welcome,
    Wish,
    WorkerFrame,
)
from edge_ws.protocol.ids import HostId, WorkerName, new_id
from edge_ws.protocol.states import Phase
from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from tests.support.gateway import RunningGateway, connected, inventory, is_connected, make_token, serving
from tests.support.rows import enqueue, job_row, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
SHORT = GatewaySettings(hostname="test", timers=Timers(heartbeat_s=1.0))


@dataclass
class Poller:
    """A worker that a test plays by hand; `to` is the gateway that its next request reaches."""

    to: RunningGateway
    token: str
    client: httpx2.AsyncClient
    name: str = "w1"
    host: HostId = field(default_factory=lambda: HostId(new_id()))
    marks: dict[str, str] = field(default_factory=dict)
    stated: Inventory | None = None
    slots: int = 4

    def hello(self) -> Hello:
        self.stated = self.stated or inventory(self.host, concurrency=self.slots)
        return Hello(
            protocol=1,
            oldest_protocol=1,
            worker=WorkerName(self.name),
            team=None,
            concurrency=self.slots,
            queues=("q",),
            inventory=self.stated,
        )

    async def post(self, path: str, frames: Sequence[WorkerFrame], **headers: str) -> httpx2.Response:
        told = {"edge-ws-token": self.token, "edge-ws-worker": self.name, "content-type": "application/json"}
        return await self.client.post(
            f"{self.to.base_url}/edge-ws/v1/{path}",
            content=codec.encode_batch(frames),
            headers={**told, **self.marks, **headers},
        )

    async def poll(self, hold_s: float = 10.0, *, arrives: bool = True) -> tuple[ServerFrame, ...]:
        """Poll; an answer that does not `arrive` is lost on its way back."""
        response = await self.post("poll", [self.hello()], **{"edge-ws-hold": f"{hold_s}"})
        assert response.status_code == 200, response.text
        assert int(response.headers["content-length"]) == len(response.content)
        if arrives:
            self.marks = {name: response.headers[f"edge-ws-{name}"] for name in ("connection", "answer")}
            self.marks = {f"edge-ws-{name}": value for name, value in self.marks.items()}
        return codec.decode_batch_from_server(response.content)

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[list[httpx2.Response]]:
        """Have a poll held while the block runs; its answer is there after the block."""
        answers: list[httpx2.Response] = []

        async def hold() -> None:
            answers.append(await self.post("poll", [self.hello()]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await anyio.wait_all_tasks_blocked()
            yield answers

    async def send(self, *frames: WorkerFrame) -> tuple[ServerFrame, ...]:
        response = await self.post("send", frames)
        assert response.status_code == 200, response.text
        return codec.decode_batch_from_server(response.content)


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def gateway(store: Store) -> object:
    with serving(store) as gateway:
        yield gateway


async def offered(poller: Poller) -> Offer:
    """Poll until a job comes; what else there is to say may come first."""
    with anyio.fail_after(10):
        while True:
            for frame in await poller.poll():
                if isinstance(frame, Offer):
                    return frame


async def test_a_job_from_its_offer_to_its_end(
    engine: sa.Engine, store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    (welcome,) = await poller.poll()
    assert isinstance(welcome, Welcome)
    job = new_job()
    enqueue(engine, job)
    claim = (await offered(poller)).claim
    (go,) = await poller.send(Accept(claim=claim, host=poller.host))
    assert isinstance(go, Go)
    data = b"a line\n"
    answers = await poller.send(Started(claim=claim, host=poller.host), Log(claim=claim, offset=0, data=data))
    assert set(answers) == {Ack(claim=claim, phase=Phase.STARTED), LogAck(claim=claim, log_end=len(data))}
    (ack,) = await poller.send(Finished(claim=claim, exit_code=0, log_end=len(data)))
    assert ack == Ack(claim=claim, phase=Phase.ENDED)
    assert job_row(engine, job.key).state == "success"
    (found,) = store.views.workers()
    assert (found.transport, found.state) == ("longpoll", "idle")


async def test_a_held_poll_is_answered_by_what_happens(
    engine: sa.Engine, store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    said: list[tuple[ServerFrame, ...]] = []

    async def hold() -> None:
        said.append(await poller.poll())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        store.operators.wish_concurrency("w1", 2)
    ((wish,),) = said
    assert isinstance(wish, Wish)
    assert wish.concurrency == 2


async def test_without_news_it_is_answered_in_time(
    store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    begun = anyio.current_time()
    assert await poller.poll(0.5) == (Beat(),)
    assert anyio.current_time() - begun >= 0.5


async def test_an_answer_that_was_lost_is_given_again(
    engine: sa.Engine, store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    enqueue(engine, new_job())
    (lost,) = await poller.poll(arrives=False)
    (again,) = await poller.poll()
    assert isinstance(lost, Offer)
    assert again == lost
    assert await poller.poll(0.1) == (Beat(),)


async def test_any_gateway_answers(engine: sa.Engine, store: Store, client: httpx2.AsyncClient) -> None:
    with serving(Store(engine)) as one, serving(Store(engine)) as two:
        poller = Poller(one, make_token(store), client)
        await poller.poll()
        poller.to = two
        enqueue(engine, new_job())
        claim = (await offered(poller)).claim
        poller.to = one
        assert isinstance((await poller.send(Accept(claim=claim, host=poller.host)))[0], Go)
        poller.to = two
        await poller.send(Started(claim=claim, host=poller.host))
        poller.to = one
        assert await poller.send(Finished(claim=claim, exit_code=0, log_end=0)) == (
            Ack(claim=claim, phase=Phase.ENDED),
        )


async def test_slots_that_came_free_at_another_gateway_are_known_at_the_next_poll(
    engine: sa.Engine, store: Store, client: httpx2.AsyncClient
) -> None:
    with serving(Store(engine)) as one, serving(Store(engine)) as two:
        poller = Poller(one, make_token(store), client, slots=1)
        await poller.poll()
        enqueue(engine, new_job())
        claim = (await offered(poller)).claim
        enqueue(engine, new_job("second"))
        poller.to = two
        response = await poller.post("send", [Refuse(claim=claim, reason="full")])
        assert "edge-ws-elsewhere" in response.headers
        poller.to = one
        assert (await offered(poller)).claim != claim


async def test_nothing_is_offered_while_no_poll_is_open(
    engine: sa.Engine, store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    enqueue(engine, new_job())
    async with connected(gateway, make_token(store, "other"), "other") as peer:
        # It is there later, and alone can take it.
        await peer.expect(Offer)


async def test_leaving_lets_the_open_poll_return(
    store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    async with poller.holding() as said:
        await poller.send(Bye(reason="drained"))
    assert said[0].headers["edge-ws-close"].startswith("1000 ")
    assert store.views.workers()[0].state == "offline"


async def test_goodbye_reaches_a_gateway_that_does_not_know_the_worker(
    engine: sa.Engine, store: Store, client: httpx2.AsyncClient
) -> None:
    with serving(Store(engine)) as one, serving(Store(engine)) as two:
        poller = Poller(one, make_token(store), client)
        await poller.poll()
        poller.to = two
        await poller.send(Bye(reason="drained"))
        assert store.views.workers()[0].state == "offline"


async def test_a_worker_whose_polls_cease_is_gone(store: Store, client: httpx2.AsyncClient) -> None:
    with serving(store, SHORT) as gateway:
        poller = Poller(gateway, make_token(store), client)
        await poller.poll()
        health = f"{gateway.base_url}/edge-ws/health"
        assert (await client.get(health)).json()["workers"] == 1
        # What the database has of it goes with the last of its polls, and a little later.
        await until(lambda: not is_connected(store))
        assert (await client.get(health)).json()["workers"] == 0


async def test_a_websocket_takes_the_place_of_polls_and_an_old_poll_does_not_take_it_back(
    store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    token = make_token(store)
    poller = Poller(gateway, token, client)
    await poller.poll()
    assert poller.stated is not None
    async with poller.holding() as said, connected(gateway, token, greet=False) as peer:
        await peer.hello(inventory=poller.stated)
        await peer.expect(Welcome)
        late = await poller.post("poll", [poller.hello()])
        assert late.headers["edge-ws-close"].startswith("4001 ")
        assert store.views.workers()[0].transport == "websocket"
    assert said[0].headers["edge-ws-close"].startswith("4001 ")


async def test_a_revoked_token_ends_polling(
    store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    async with poller.holding() as said:
        store.tokens.revoke_token("test")
    assert any(isinstance(frame, Refused) for frame in codec.decode_batch_from_server(said[0].content))
    again = await poller.post("poll", [poller.hello()])
    assert (again.status_code, again.headers["edge-ws-error"]) == (401, "token")


async def test_a_poll_with_another_secret_is_not_taken_for_the_connections_own(
    store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    poller.token = "edgews_wrong"
    for path, frame in (("poll", poller.hello()), ("send", Bye(reason=""))):
        answer = await poller.post(path, [frame])
        assert (answer.status_code, answer.headers["edge-ws-error"]) == (401, "token")
    assert store.views.workers()[0].state == "idle"


@pytest.mark.parametrize("path", ["poll", "send"])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("GET", 405),
        ("PUT", 405),
        ("text/plain", 415),
        ("too large", 413),
        ("no JSON", 400),
        ("no frame", 400),
        ("nothing", 400),
        ("wrong order", 400),
        ("the server's", 400),
        ("another's name", 401),
        ("no secret", 401),
    ],
)
async def test_bad_requests_are_refused_and_change_nothing(
    sqlite_engine: sa.Engine, client: httpx2.AsyncClient, path: str, fault: str, status: int
) -> None:
    store = Store(sqlite_engine)
    with serving(store) as gateway:
        await check_bad_request(store, gateway, client, path, fault, status)


async def check_bad_request(  # noqa: PLR0917
    store: Store, gateway: RunningGateway, client: httpx2.AsyncClient, path: str, fault: str, status: int
) -> None:
    poller = Poller(gateway, make_token(store), client)
    hello = codec.encode(poller.hello())
    bodies = {
        "too large": b" " * (codec.MAX_FRAME + 1),
        "no JSON": b"{",
        "no frame": b'{"type": "nonsense"}',
        "nothing": b"",
        "wrong order": (
            codec.encode(Bye(reason="")) if path == "poll" else codec.encode_batch([poller.hello()])
        ),
        "the server's": codec.encode(Beat()),
        "another's name": hello,
        "no secret": hello,
    }
    headers = {"edge-ws-token": poller.token, "edge-ws-worker": "w1", "content-type": "application/json"}
    if fault == "another's name":
        headers["edge-ws-worker"] = "w2" if path == "poll" else "not a name"
        if path == "send":
            bodies[fault] = codec.encode(Bye(reason=""))
    if fault == "no secret":
        del headers["edge-ws-token"]
        if path == "send":
            bodies[fault] = codec.encode(Bye(reason=""))
    if fault == "text/plain":
        headers["content-type"] = fault
    answer = await client.request(
        fault if fault in {"GET", "PUT"} else "POST",
        f"{gateway.base_url}/edge-ws/v1/{path}",
        content=bodies.get(fault, hello),
        headers=headers,
    )
    assert answer.status_code == status
    told = json.loads(answer.content)
    assert answer.headers["edge-ws-error"] == told["error"]
    assert told["sentence"]
    assert store.views.workers() == []


async def test_the_reason_is_recorded(
    store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    since = store.views.workers()[0].sysinfo["transport_since"]
    hello = replace(poller.hello(), sysinfo={"transport_reason": "a proxy"})
    answer = await poller.post("poll", [hello])
    assert isinstance(codec.decode_batch_from_server(answer.content)[0], Welcome)
    (found,) = store.views.workers()
    assert found.sysinfo["transport_reason"] == "a proxy"
    assert found.sysinfo["transport_since"] == since


async def test_a_late_word_about_an_older_wish_changes_nothing(
    engine: sa.Engine, store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    revision = store.operators.wish_concurrency("w1", 1).revision
    (wish,) = await poller.poll()
    assert isinstance(wish, Wish)
    await poller.send(Applied(revision=revision, concurrency=1, queues=("q",)))
    await poller.send(Applied(revision=revision - 1, concurrency=0, queues=("q",)))
    assert store.operators.applied("w1") == revision
    enqueue(engine, new_job())
    assert isinstance((await poller.poll())[0], Offer)


async def test_what_is_in_force_is_heard_of_with_the_next_poll(
    engine: sa.Engine, store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    poller.stated = replace(inventory(poller.host), concurrency=0)
    await poller.poll()
    # What the worker sent of it came to another gateway.
    poller.stated = replace(poller.stated, concurrency=1)
    enqueue(engine, new_job())
    assert isinstance((await poller.poll())[0], Offer)


async def test_two_polls_at_once_the_newest_hears(
    engine: sa.Engine, store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    poller = Poller(gateway, make_token(store), client)
    await poller.poll()
    answers: list[tuple[int, type]] = []

    async def poll(number: int) -> None:
        answer = await poller.post("poll", [poller.hello()])
        assert answer.headers["edge-ws-connection"] == poller.marks["edge-ws-connection"]
        answers.append((number, type(codec.decode_batch_from_server(answer.content)[0])))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poll, 1)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(poll, 2)
        await until(lambda: len(answers) == 1)
        enqueue(engine, new_job())
    # The first may have been the worker's own, and the second an old one that came late: it asks again.
    assert answers == [(1, Beat), (2, Offer)]


async def test_the_same_words_by_both_ways_and_many_times_count_once(
    engine: sa.Engine, store: Store, gateway: RunningGateway, client: httpx2.AsyncClient
) -> None:
    token = make_token(store)
    job = new_job()
    polled = Poller(gateway, token, client)
    await polled.poll()
    assert polled.stated is not None
    async with connected(gateway, token, greet=False) as peer:
        await peer.hello(inventory=polled.stated)
        await peer.expect(Welcome)
        enqueue(engine, job)
        claim = (await peer.expect(Offer)).claim
        by_poll = Poller(gateway, token, client, marks=polled.marks)
        said = {
            Go: Accept(claim=claim, host=peer.host),
            LogAck: Log(claim=claim, offset=0, data=b"once\n"),
            Ack: Started(claim=claim, host=peer.host),
        }
        for answer, statement in said.items():
            await peer.send(statement)
            await peer.expect(answer)
            for _ in range(2):
                assert isinstance((await by_poll.send(statement))[0], answer)
        finished = Finished(claim=claim, exit_code=0, log_end=5)
        for _ in range(3):
            assert (await by_poll.send(finished)) == (Ack(claim=claim, phase=Phase.ENDED),)
        await peer.send(finished)
        assert (await peer.expect(Ack)).phase is Phase.ENDED
    assert job_row(engine, job.key).state == "success"
    await until(lambda: gateway.logs.files == {"t.log": b"once\n"})


async def test_what_comes_late_by_another_gateway_touches_no_other_job(
    engine: sa.Engine, store: Store, client: httpx2.AsyncClient
) -> None:
    job = new_job()
    with serving(Store(engine)) as one, serving(Store(engine)) as two:
        poller = Poller(one, make_token(store), client)
        await poller.poll()
        enqueue(engine, job)
        old = (await offered(poller)).claim
        await poller.send(Refuse(claim=old, reason="full"))
        new = (await offered(poller)).claim
        assert new != old
        await poller.send(Accept(claim=new, host=poller.host))
        poller.to = two
        late = (
            Accept(claim=old, host=poller.host),
            Started(claim=old, host=poller.host),
            Log(claim=old, offset=0, data=b"late"),
            Finished(claim=old, exit_code=1, log_end=4),
        )
        assert set(await poller.send(*late)) == {Stale(claim=old)}
        assert job_row(engine, job.key).state == "restarting"
        poller.to = one
        await poller.send(Started(claim=new, host=poller.host))
        await poller.send(Finished(claim=new, exit_code=0, log_end=0))
        assert job_row(engine, job.key).state == "success"
