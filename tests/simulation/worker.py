"""A worker: the real daemon's decisions (its table of jobs, slots, session) over models of disk, hosts and network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import anyio
from anyio.abc import TaskGroup
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Close as CloseFrame

from edge_ws.errors import EdgeWsError, RefusedError, RemoteProtocolError, Unreachable, UnreachableError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import Cancel, Refusal, ServerFrame, Timers, Welcome, WorkerFrame
from edge_ws.protocol.ids import ClaimId, LifeId, WorkerName
from edge_ws.worker import logs as real_logs
from edge_ws.worker.conversation import Conversation
from edge_ws.worker.daemon import Daemon
from edge_ws.worker.disk import DiskWatch
from edge_ws.worker.drain import Patience, WorkerDrain
from edge_ws.worker.faults import Faults
from edge_ws.worker.host_events import Prepared
from edge_ws.worker.host_news import JobEvent
from edge_ws.worker.job_log import JobLog
from edge_ws.worker.jobs import Action, Jobs, Prepare
from edge_ws.worker.link import Link
from edge_ws.worker.logs import Logs
from edge_ws.worker.outcomes import Call, Fate
from edge_ws.worker.readiness import Fitness, Hindrances, Told
from edge_ws.worker.sender import Sender
from edge_ws.worker.slots import Slots
from edge_ws.worker.transport_choice import AUTO
from edge_ws.worker.transports.base import Channel
from edge_ws.worker.transports.longpoll import LongPollChannel, LongPollTransport
from edge_ws.worker.transports.sizes import Aside, Sizes
from edge_ws.worker.transports.websocket import WebSocketChannel
from edge_ws.worker.transports.websocket import _closed as closed
from edge_ws.worker.vitals import Vitals
from edge_ws.worker.wishes import Standing, Wishes
from tests.simulation.network import Network, Said, Wire, offends
from tests.simulation.site import Hosts, Site
from tests.simulation.world import Violation, World

URL = "http://g"


class _MemoryTail(real_logs._Tail):
    """A tail of a file in memory."""

    def __init__(self, claim: ClaimId, path: Path | None, start: int, data: bytearray, most: int) -> None:
        super().__init__(claim, path, start)
        self._data, self._most = data, most

    def open(self) -> bool:
        return True

    def _file_size(self) -> int:
        return max(0, len(self._data) - self.start)

    def read(self, offset: int, chunk: int) -> bytes:
        in_file, most = self._file_size(), min(chunk, self._most)
        if offset < in_file:
            return bytes(self._data[self.start + offset :][:most])
        return self.extra[offset - in_file :][:most]


class SimLogs(Logs):
    """The real ones, over files in memory, pumped soon after each change."""

    def __init__(self, daemon: SimDaemon) -> None:
        super().__init__(daemon.link.send, daemon._on_log_flushed, lambda: daemon.link.log_chunk)
        self._daemon = daemon
        self._pumping = False

    def tail(self, claim: ClaimId, path: str, start: int) -> None:
        data = self._daemon.site.files.setdefault(path, bytearray())
        self._tails[claim] = _MemoryTail(claim, None, start, data, self._daemon.site.chunk)
        self.soon()

    def flush(self, claim: ClaimId, line: bytes = b"") -> None:
        super().flush(claim, line)
        self.soon()

    def acked(self, claim: ClaimId, log_end: int) -> int:
        self.soon()
        return super().acked(claim, log_end)

    def resend(self, *, only_stuck: bool) -> None:
        super().resend(only_stuck=only_stuck)
        self.soon()

    def soon(self) -> None:
        if self._tails and not self._pumping:
            self._pumping = True
            self._daemon.world.at(self._daemon.world.within(0.001, 0.2), self._pump_all)

    def _pump_all(self) -> None:
        self._pumping = False
        if self._daemon.running:
            for tail in list(self._tails.values()):
                self._pump(tail)


class _Connection:
    """What the real channel asks of its library, over a wire of the model's."""

    def __init__(self, daemon: SimDaemon, gateway: Any) -> None:
        self._network, self._site, self._world = daemon.network, daemon.site.id, daemon.world
        self._arrived: list[ServerFrame] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._heard: asyncio.Future[None] | None = None
        self._closed: ConnectionClosed | None = None
        self._told: int | None = None
        self.transport = self
        self.wire = Wire(daemon.world, daemon.name, daemon.site.id, gateway, self)
        self._network.wires.append(self.wire)

    @property
    def close_code(self) -> int | None:
        return None if self._closed is None else 1006

    async def send(self, message: bytes, *, text: bool) -> None:
        if self._closed is not None:
            raise self._closed
        narrow = self._network.narrows.get(self._site)
        if narrow is not None and len(message) > narrow.size:
            self._drop(narrow.how)
            return
        frames = codec.decode_batch_from_worker(message)
        if self._site in self._network.filters and offends(frames):
            self.wire.cut()
            return
        for frame in frames:
            self._network.on_frame(frame)
            self.wire.send(frame, up=True)

    def _drop(self, how: str) -> None:
        """Let the message not pass."""
        if how == "silent":
            self.wire.swallows = True
            return
        self._told = 1009 if how == "told" else None
        self.wire.cut()

    async def ping(self) -> asyncio.Future[None]:
        if self._closed is not None:
            raise self._closed
        pong = self._future()
        self.wire.ping(lambda: None if pong.done() else pong.set_result(None))
        return pong

    def abort(self) -> None:
        self.wire.cut()

    async def close(self, code: int, reason: str) -> None:
        self.wire.cut()

    async def frames(self) -> Sequence[ServerFrame]:
        while not self._arrived:
            if self._closed is not None:
                raise self._closed
            self._heard = self._future()
            await self._heard
        arrived, self._arrived = self._arrived, []
        return arrived

    def _future(self) -> asyncio.Future[None]:
        self._waiting = [one for one in self._waiting if not one.done()]
        future = self._world.loop.create_future()
        self._waiting.append(future)
        return future

    # What the wire tells

    def heard(self, wire: Wire, frame: ServerFrame) -> None:
        if isinstance(frame, Welcome):
            self._network.welcomed(wire)
        self._arrived.append(frame)
        if self._heard is not None and not self._heard.done():
            self._heard.set_result(None)

    def closed(self, wire: Wire) -> None:
        code = None if self._told is None else CloseFrame(self._told, "")
        self._closed = ConnectionClosedError(code, None)
        for one in self._waiting:
            if not one.done():
                one.set_exception(self._closed)


class _WireChannel(WebSocketChannel):
    """The real one."""

    def __init__(self, connection: _Connection, sizes: Sizes, *, proves: bool) -> None:
        super().__init__(connection, sizes)  # type: ignore[arg-type]
        self._wired, self._proves = connection, proves

    async def receive(self) -> Sequence[ServerFrame]:
        try:
            return await self._wired.frames()
        except ConnectionClosed as error:
            raise closed(error) from error

    async def _prove(self, size: int) -> None:
        if self._proves:
            await super()._prove(size)


class SimSizes(Sizes):
    """The real ones, in virtual time."""

    def __init__(self, daemon: SimDaemon) -> None:
        super().__init__(URL, lambda: daemon.world.now)
        self._shrinks = daemon.site.airflow.rules.messages_shrink

    def failed(self, size: int, why: str, *, is_told: bool) -> bool:
        return self._shrinks and super().failed(size, why, is_told=is_told)


class SimAside(Aside):
    """The real one, unless it is left out."""

    def __init__(self, daemon: SimDaemon) -> None:
        super().__init__()
        self._is_there = daemon.site.airflow.rules.sets_aside

    def failed(self, said: Sequence[WorkerFrame], why: str) -> list[WorkerFrame] | None:
        return super().failed(said, why) if self._is_there or len(said) > 1 else None


class SimWebSocket:
    """WebSockets over the model's network."""

    name = "websocket"
    where = URL

    def __init__(self, daemon: SimDaemon) -> None:
        self._daemon = daemon
        self.sizes = SimSizes(daemon)

    @asynccontextmanager
    async def open(self, worker: WorkerName, token: str) -> AsyncIterator[_WireChannel]:
        world, network, site = self._daemon.world, self._daemon.network, self._daemon.site.id
        await asyncio.sleep(world.within(0.005, 0.1))
        if site in network.cut_off:
            await asyncio.sleep(world.rng.choice((0.0, 10.0)))
            raise UnreachableError("nothing is reached")
        silent = False
        if site in network.no_websockets:
            silent = world.chance(0.2)
            if not silent:
                raise UnreachableError("WebSockets do not pass", kind=Unreachable.NO_UPGRADE)
        gateway = network.gateway()
        if gateway is None:
            raise UnreachableError("no gateway is there")
        if gateway.leaves:
            raise RefusedError(Refusal.UNAVAILABLE.value, "the gateway is leaving", retry_after_s=1.0)
        connection = _Connection(self._daemon, gateway)
        connection.wire.swallows = silent
        gateway.opened(connection.wire)
        proves = self._daemon.site.airflow.rules.silence_is_noticed
        channel = _WireChannel(connection, self.sizes, proves=proves)
        try:
            yield channel
        finally:
            channel.end()
            connection.wire.cut()


class _PollChannel(LongPollChannel):
    """The real one, over requests in the model's network."""

    def __init__(self, transport: SimLongPoll, daemon: SimDaemon) -> None:
        super().__init__(transport, None)  # type: ignore[arg-type]
        self._daemon = daemon
        self._always = {
            "edge-ws-token": "t",
            "edge-ws-worker": daemon.name,
            "content-type": "application/json",
        }

    async def send(self, frames: Sequence[WorkerFrame]) -> None:
        for frame in frames:
            self._daemon.network.on_frame(frame)
        await super().send(frames)

    async def _post(self, url: str, body: bytes, headers: dict[str, str], within_s: float) -> Any:
        world, network = self._daemon.world, self._daemon.network
        future = world.loop.create_future()
        said = Said(url.rpartition("/")[2], {**self._always, **headers}, body)
        request = network.request(self._daemon.site.id, said, future.set_result)
        timer = world.loop.call_later(within_s, _time_out, future)
        try:
            answer = await future
        finally:
            timer.cancel()
            request.abandon()
        if answer is None:
            raise UnreachableError("broke off", kind=Unreachable.BROKE_OFF)
        if answer.status_code == 200:
            return answer
        raise self._refused(url, answer)


def _time_out(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(UnreachableError("no answer in time", kind=Unreachable.SILENT))


class SimLongPoll(LongPollTransport):
    """The real one, over the model's network."""

    def __init__(self, daemon: SimDaemon) -> None:
        super().__init__(SimpleNamespace(base_url=URL, proxy=None, via=""), daemon.hello)  # type: ignore[arg-type]
        self._daemon = daemon
        self.sizes, self.aside = SimSizes(daemon), SimAside(daemon)

    @asynccontextmanager
    async def open(self, worker: WorkerName, token: str) -> AsyncIterator[LongPollChannel]:
        channel = _PollChannel(self, self._daemon)
        try:
            yield channel
        finally:
            await channel.end()


class _Conversation(Conversation):
    """The real one; as all heartbeats here are alike, it need not look each second what is due.

    Nor for another token: there is none.
    """

    async def _keep_token(self) -> NoReturn:
        await anyio.sleep_forever()
        raise AssertionError

    async def _watch(self, channel: Channel) -> None:
        while True:
            now = anyio.current_time()
            await anyio.sleep(max(0.01, (self._session.deadline() or now + 5.0) - now))
            await self._tick(channel)


class SimLink(Link):
    """The real one, started again after a refusal as a service manager would do."""

    def __init__(self, daemon: SimDaemon) -> None:
        site = daemon.site
        both: list[Any] = [SimWebSocket(daemon), SimLongPoll(daemon)]
        super().__init__(
            daemon.name,
            [one for one in both if daemon.transport in {AUTO, one.name}],
            daemon,
            read_token=lambda: "t",
            proven=site.proven,
            on_proven=site.prove,
            faults=daemon._faults,
        )
        self._daemon = daemon

    async def run(self) -> None:
        world = self._daemon.world
        while True:
            with suppress(RefusedError):
                await super().run()
            await asyncio.sleep(world.within(10.0, 30.0))
            # A new process knows nothing of what the old one was opening.
            self._fatal = self._current = None
            self._open.clear()

    def _start(self, tasks: TaskGroup, transport: str) -> None:
        conversation = _Conversation(self._transports[transport], self._spoken)
        self._open.add(conversation)
        tasks.start_soon(self._converse, conversation)

    def _over(self, conversation: Conversation, error: EdgeWsError | None) -> None:
        name = conversation.transport.name
        self._daemon.world.note("%s: its %s is over: %s", self._daemon.label, name, error)
        if isinstance(error, RemoteProtocolError):
            raise Violation(f"a gateway broke the protocol: {error}")
        super()._over(conversation, error)

    def _welcomed(self, conversation: Conversation, welcome: Welcome) -> None:
        name = conversation.transport.name
        self._daemon.world.note("%s is let in by %s at %s", self._daemon.label, name, welcome.gateway)
        super()._welcomed(conversation, welcome)


class _NoFaults(Faults):
    """Here an unexpected exception is what is looked for."""

    def contained(self, what: str) -> Any:
        return nullcontext()

    def note(self, what: str, error: BaseException) -> None:
        raise error


class SimDeliveries:
    """See `edge_ws.worker.outcomes`."""

    def __init__(self, daemon: SimDaemon) -> None:
        self._daemon = daemon

    def deliver(self, claim: ClaimId, call: Call, token: str) -> None:
        world = self._daemon.world
        world.at(world.within(0.005, 1.0), self._try, claim, call, token)

    def _try(self, claim: ClaimId, call: Call, token: str) -> None:
        daemon = self._daemon
        site, world = daemon.site, daemon.world
        if not daemon.running:
            return
        if site.api_cut_off or site.airflow.api_away or world.chance(0.05):
            world.at(world.within(0.5, 60.0), self._again, claim)
            return
        taken = site.airflow.deliver(token, call.body)
        world.note("%s delivers %s of %s: %s", daemon.label, call.body, claim, taken)
        if taken:
            site.processes[claim].told()
        if world.chance(0.05):
            # The answer was lost.
            world.at(world.within(0.5, 60.0), self._again, claim)
        else:
            fate = Fate.TAKEN if taken else Fate.REFUSED
            daemon._do(daemon._jobs.delivered(claim, fate, "the task is another's"))

    def _again(self, claim: ClaimId) -> None:
        if self._daemon.running:
            self._daemon._do(self._daemon._jobs.not_delivered(claim))

    def forget(self, claim: ClaimId) -> None:
        """Nothing is remembered."""


class SimDaemon(Daemon):
    """One life of a daemon: what the real one makes are models here, what it decides is its own."""

    def __init__(self, world: World, network: Network, site: Site, concurrency: int, transport: str) -> None:
        self.world, self.network, self.site, self.transport = world, network, site, transport
        self.running = True
        self.name = site.worker
        self.label = f"{site.worker}@{site.id}"
        self._config = SimpleNamespace(  # type: ignore[assignment]
            name=site.worker, concurrency=concurrency, queues=None, team=None
        )
        self._state = SimpleNamespace(site=site.id, keep_request=site.keep_request)  # type: ignore[assignment]
        self._versions = {}
        self._life = LifeId(world.id("l"))
        self._slots = Slots(concurrency)
        self._wishes = Wishes(concurrency, None, site.request)
        self._timers = Timers()
        self._execution_api = SimpleNamespace(url="", proxy=None)  # type: ignore[assignment]
        self._jobs = Jobs(self._slots)
        self._outbox = site.outbox  # type: ignore[assignment]
        self._job_log = JobLog()
        self._retiring = self._controls = False
        self._told = Standing()
        self._faults = _NoFaults()
        self._hindrances = Hindrances()
        self._readiness_told = Told()
        self._fitness = Fitness(self._hindrances, self._jobs, self._stand)
        self._vitals = Vitals()
        self._patience = Patience(0.0, 30.0)
        self._worker_drain = WorkerDrain(self._patience, self)
        self.link = self._link = SimLink(self)
        self._sender = Sender(self._link, self._jobs, self._vitals)
        self._logs = SimLogs(self)
        self._facts = SimpleNamespace(told=self._say_of_itself, greeting=self._say_of_itself)  # type: ignore[assignment]
        self._deliveries = SimDeliveries(self)  # type: ignore[assignment]
        self._hosts = Hosts(site, self._on_event)  # type: ignore[assignment]
        self._hosts.slots_of = self._slots.of  # type: ignore[attr-defined]
        self._carrier = self._make_carrier()
        site.on_write = self._logs.soon
        world.note("%s starts", self.label)
        self._do(self._jobs.restore(self._outbox.load(), self._outbox.load_dead()))
        self._hosts.start()  # type: ignore[attr-defined]
        self._linked = world.start(self.link.run())
        self._disk = DiskWatch(Path("/"), self._hindrances, self._stand)
        self._resting = world.start(self._fitness.run())
        world.at(10.0, self._say_again_now)

    def _say_of_itself(self) -> dict[str, str | int | float]:
        reason = self.link.mode.reason
        return {"transport_reason": reason} if reason else {}

    def welcomed(self, welcome: Welcome, opened_in_s: float, transport: str) -> None:
        if self.running:
            self.network.lives_at(self.site.id, self._life)
            super().welcomed(welcome, opened_in_s, transport)

    def take(self, frame: ServerFrame) -> None:
        unanswered = isinstance(frame, Cancel) and self._jobs.get(frame.claim) is None
        if self.running and (self.network.cancels_are_answered or not unanswered):
            super().take(frame)

    def _on_event(self, event: Any) -> None:
        if self.running:
            self._on_host_event(event)

    def _on_job_event(self, event: JobEvent) -> None:
        if isinstance(event, Prepared) and event.log_path is not None:
            start = len(self.site.files.get(event.log_path, b""))
            self._do(self._jobs.prepared(event.claim, event.host, event.log_path, start))
            return
        super()._on_job_event(event)

    def _do(self, actions: Any) -> None:
        for action in actions:
            self._check(action)
        super()._do(actions)

    def _check(self, action: Action) -> None:
        if isinstance(action, Prepare):
            room = self._slots.concurrency - self.site.used()
            if self._slots.of(action.claim) > room:
                raise Violation(f"{self.label} takes {action.claim} with {room} free slots")

    def _say_again_now(self) -> None:
        """What `Sender.run` does every 10 s."""
        if not self.running:
            return
        self._sender.again(self._logs)
        self.world.at(10.0, self._say_again_now)

    def die(self) -> None:
        """kill -9."""
        self.world.note("%s dies", self.label)
        self.running = False
        hosts: Any = self._hosts
        hosts.running = False
        for host in self.site.hosts:
            if host.attached is hosts:
                host.attached = None
        self._linked.cancel()
        self._resting.cancel()

    def idle(self) -> bool:
        """Tell whether nothing is left of any job."""
        return not len(self._jobs) and not self.site.outbox.records


__all__ = ["SimDaemon"]
