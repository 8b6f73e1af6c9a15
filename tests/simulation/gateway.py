"""A gateway: the real hub, reports, dispatcher, reaper and greeting, driven by hand over the model store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from edge_ws.errors import RefusedError, RemoteProtocolError, UnreachableError
from edge_ws.protocol.frames import (
    Beat,
    Bye,
    Hello,
    Log,
    Query,
    Refusal,
    Refused,
    ServerFrame,
    Stale,
    Welcome,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName
from edge_ws.protocol.session import Close, ServerSession
from edge_ws.protocol.states import Connection
from edge_ws.server.config import GatewaySettings
from edge_ws.server.connection import Workers
from edge_ws.server.dispatcher import Dispatcher
from edge_ws.server.hub import Hub, Link
from edge_ws.server.reaper import Reaper
from edge_ws.server.reports import Reports
from edge_ws.store.records import Principal
from edge_ws.store.wakeup import Changes
from tests.simulation.airflow import Airflow
from tests.simulation.model_store import ModelStore, Rules
from tests.simulation.network import Network, Respond, Wire
from tests.simulation.world import Violation, World

SETTINGS = GatewaySettings(hostname="g")


class _Call:
    """A verb that a coroutine waits for."""

    def __init__(self, verb: Callable[[], Any]) -> None:
        self.verb = verb

    def __await__(self) -> Generator[_Call, Any, Any]:
        return (yield self)


class Desk:
    """What `server.work.Desk` is: calls of verbs, but in virtual time, and by a gateway that may die meanwhile."""

    async def run(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await _Call(lambda: verb(*args, **kwargs))


class Lane:
    """What `server.batches.Batches` is: what arrives while a batch is written goes into the next."""

    def __init__(
        self,
        gateway: Gateway,
        write: Callable[[list[Any]], list[Any]],
        answer: Callable[[list[Any], list[Any]], None],
        most: int = 500,
    ) -> None:
        self._gateway, self._write, self._answer, self._most = gateway, write, answer, most
        self._items: list[Any] = []
        self._busy = False

    async def put(self, item: Any) -> None:
        self._items.append(item)
        self._next()

    def _next(self) -> None:
        if self._items and not self._busy:
            self._busy = True
            batch, self._items = self._items[: self._most], self._items[self._most :]
            self._gateway.spawn(self._one(batch))

    async def _one(self, batch: list[Any]) -> None:
        try:
            answers = await _Call(lambda: self._write(batch))
        except UnreachableError:
            pass
        else:
            self._answer(batch, answers)
        self._busy = False
        self._next()


class SimReports(Reports):
    """The real ones at a desk in virtual time."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            gateway.store,  # type: ignore[arg-type]
            gateway.hub,
            SETTINGS,
            gateway.airflow,
            on_ended=lambda: None,
            on_unsettled=gateway.look_soon,
        )
        self._desk = Desk()  # type: ignore[assignment]
        self._reports = Lane(gateway, self._write_reports, self._answer_reports)  # type: ignore[assignment]
        self._others = Lane(gateway, self._write_others, self._answer_others, 1)  # type: ignore[assignment]
        self._logs = Lane(gateway, self._write_logs, self._answer_logs)  # type: ignore[assignment]


class SimLink(Link):
    """The real one, which writes at once."""

    def __init__(
        self,
        gateway: Gateway,
        worker: WorkerName,
        session: ServerSession,
        transport: str,
        write: Callable[[SimLink], None],
        *,
        current: Link | None = None,
    ) -> None:
        super().__init__(Principal(worker=worker), session, transport)
        self._gateway, self._write, self._current = gateway, write, current
        if current is not None and current.inventory is not None:
            self.dead_hosts, self.inventory = current.dead_hosts, current.inventory

    def drop(self, claim: ClaimId) -> bool:
        return super().drop(claim) if self._current is None else self._current.drop(claim)

    def send(self, frame: ServerFrame) -> None:
        if isinstance(frame, Query) and not self._gateway.rules.queries:
            return
        self._gateway.network.on_frame(frame)
        super().send(frame)
        self._write(self)

    def close(self, close: Close) -> None:
        super().close(close)
        self._write(self)


class _Conversation:
    """One WebSocket at the gateway."""

    def __init__(self, gateway: Gateway, wire: Wire) -> None:
        self.wire = wire
        self._gateway = gateway
        self._session = ServerSession(gateway.world.now)
        self.link = SimLink(gateway, wire.worker, self._session, "websocket", self._write)
        self._inbox: deque[WorkerFrame] = deque()
        self._busy = False
        self._over = False
        self._watch()

    def heard(self, frame: WorkerFrame) -> None:
        if self._over or self.link.closing is not None or self._session.state is Connection.CLOSED:
            return
        try:
            self._session.receive(frame, self._gateway.world.now)
        except RemoteProtocolError as error:
            raise Violation(f"a worker broke the protocol: {error}") from error
        self._inbox.append(frame)
        self._next()

    def _next(self) -> None:
        while self._inbox and not self._busy and not self._over:
            frame = self._inbox.popleft()
            self._busy = True
            self._gateway.spawn(self._take(frame))

    async def _take(self, frame: WorkerFrame) -> None:
        try:
            if isinstance(frame, Hello):
                registered = await self._gateway.workers.greet(self.link, frame)
                await self._gateway.workers.joined(self.link, registered)
            else:
                await self._gateway.workers.take(self.link, frame)
        except RefusedError as error:
            self._refuse(Refusal(error.code), str(error))
        except UnreachableError as error:
            self._refuse(Refusal.UNAVAILABLE, str(error))
        self._busy = False
        if isinstance(frame, Bye):
            self.wire.cut()
        self._next()

    def _refuse(self, code: Refusal, sentence: str) -> None:
        self.link.send(Refused(code=code, sentence=sentence))
        self.wire.cut()

    def _write(self, link: SimLink) -> None:
        while link.outgoing:
            frame = link.outgoing.pop(0)
            if self._session.state is Connection.CLOSED:
                continue
            self._session.sending(frame, self._gateway.world.now)
            self.wire.send(frame, up=False)
        if link.closing is not None:
            self.wire.cut()

    def _watch(self) -> None:
        if self._over or not self._gateway.alive:
            return
        now = self._gateway.world.now
        due = self._session.tick(now)
        if due.close is not None:
            self.link.close(due.close)
            return
        if due.beat:
            self.link.send(Beat())
        deadline = self._session.deadline()
        self._gateway.world.at(max(0.01, (deadline or now + 5.0) - now), self._watch)

    def closed(self) -> None:
        self._over = True
        self._gateway.spawn(self._gateway.workers.gone(self.link))


class Gateway:
    """One life of a gateway."""

    def __init__(
        self, world: World, store: ModelStore, airflow: Airflow, network: Network, rules: Rules
    ) -> None:
        self.world, self.store, self.airflow, self.network = world, store, airflow, network
        self.id = GatewayId(world.id("g"))
        self.alive = True
        self.rules = rules
        self._waking = self._looking = False
        self._whole_at = -100.0
        self.hub = Hub(self.capacity_changed, self.queues_served)
        self.reports = SimReports(self)
        self.workers = Workers(store, self.hub, self.reports, SETTINGS, self.id)  # type: ignore[arg-type]
        self.workers._desk = Desk()  # type: ignore[assignment]
        self._dispatcher = Dispatcher(store, self.hub, SETTINGS, self.id)  # type: ignore[arg-type]
        self._dispatcher._desk = Desk()  # type: ignore[assignment]
        self._reaper = Reaper(
            store,  # type: ignore[arg-type]
            self.hub,
            SETTINGS,
            self.id,
            task_states=airflow,
            finished_logs=None,  # type: ignore[arg-type]
            asks_for_tokens=lambda: False,
        )
        self._reaper._desk = Desk()  # type: ignore[assignment]
        self.conversations: dict[Wire, _Conversation] = {}
        world.at(world.within(0.0, 1.0), self._look)
        world.at(world.within(0.0, 15.0), self._beat)
        world.at(world.within(5.0, 15.0), self._backup_scan)

    # Coroutines over virtual time

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run it; whatever it waits for is a verb."""
        self._step(work, None, None)

    def _step(self, work: Coroutine[Any, Any, Any], value: Any, error: Exception | None) -> None:
        if not self.alive:
            work.close()
            return
        try:
            call = work.send(value) if error is None else work.throw(error)
        except StopIteration:
            return
        self.world.at(self.world.within(0.0005, 0.02), self._commit, work, call)

    def _commit(self, work: Coroutine[Any, Any, Any], call: _Call) -> None:
        if not self.alive:
            work.close()
            return
        error, value = None, None
        if self.world.now < self.store_away_until():
            error = UnreachableError("the database is away")
        else:
            try:
                value = call.verb()
            except RefusedError as refused:
                error = refused
            else:
                if self.world.chance(self.commits_unheard):
                    error = UnreachableError("the commit's answer was lost")
        slow = self.world.within(0.5, 6.0) if self.world.chance(0.01) else self.world.within(0.0002, 0.01)
        self.world.at(slow, self._step, work, value, error)

    commits_unheard = 0.0
    away_until = 0.0

    def store_away_until(self) -> float:
        return self.away_until

    # Loops

    def queues_served(self, queues: tuple[str, ...] | None) -> None:
        self._dispatcher.queues_served(queues)

    def capacity_changed(self) -> None:
        self._dispatcher.capacity_changed()
        self._wake()

    def changed(self, changes: Changes) -> None:
        """Hear of a commit, as the watch tells it; see `server.app`."""
        if not self.alive:
            return
        self._dispatcher.heard(changes)
        for claim, worker in changes.deleted:
            link = self.hub.get(worker)
            if link is not None and claim in link.slots:
                link.send(Stale(claim=claim))
                self.hub.release(link, claim)
        self._wake()

    def _wake(self) -> None:
        if self.alive and not self._waking:
            self._waking = True
            self.world.at(self.world.within(0.001, 0.02), self._cycle)

    def _cycle(self) -> None:
        if self.alive:
            self.spawn(self._dispatch())

    async def _dispatch(self) -> None:
        self._waking = False
        try:
            await self._dispatcher.cycle()
        except UnreachableError:
            self.world.at(1.0, self._scan)
        chance = self.hub.next_chance(self.world.now)
        if self._dispatcher._lost_all:
            self.world.at(0.5, self._chance)
        elif chance is not None:
            self.world.at(chance - self.world.now + 0.001, self._chance)

    def _chance(self) -> None:
        self._dispatcher._backlog.look_again()
        self._wake()

    def _scan(self) -> None:
        self._dispatcher.wake()
        self._wake()

    def _backup_scan(self) -> None:
        if self.alive:
            self._scan()
            self.world.at(15.0, self._backup_scan)

    def look_soon(self) -> None:
        if self.alive and not self._looking:
            self._looking = True
            self.world.at(0.1, self._look_now)

    def _look_now(self) -> None:
        self._looking = False
        if self.alive:
            self.spawn(self._reap())

    def _look(self) -> None:
        if self.alive:
            if self.store.rows:
                self.spawn(self._reap())
            self.world.at(self.world.within(1.0, 2.0), self._look)

    async def _reap(self) -> None:
        now = self.world.now
        whole = now - self._whole_at >= 4.0
        try:
            await self._reaper.look(now, whole=whole)
            self._whole_at = now if whole else self._whole_at
        except UnreachableError:
            return

    def _beat(self) -> None:
        if self.alive:
            heard = [
                link.connection_id for link in self.hub.links() if link.session.is_prompt(self.world.now)
            ]
            self.spawn(self._say_beat(heard))
            self.world.at(15.0, self._beat)

    async def _say_beat(self, heard: list[str]) -> None:
        try:
            await _Call(lambda: self.store.beat(self.id, heard))
        except UnreachableError:
            return

    def die(self) -> None:
        """kill -9: what is in the middle of anything stops there."""
        self.alive = False
        self.world.note("gateway %s dies", self.id)
        for wire in list(self.conversations):
            wire.cut()

    # WebSockets

    def opened(self, wire: Wire) -> None:
        self.conversations[wire] = _Conversation(self, wire)

    def heard(self, wire: Wire, frame: WorkerFrame) -> None:
        if self.alive:
            self.conversations[wire].heard(frame)

    def closed(self, wire: Wire) -> None:
        conversation = self.conversations.pop(wire, None)
        if conversation is not None and self.alive:
            conversation.closed()

    # Long-poll, as it is to be: a poll states the inventory, any gateway answers any request

    def request(
        self, worker: WorkerName, frames: list[WorkerFrame], respond: Respond, held_s: float | None
    ) -> None:
        if self.alive:
            work = (
                self._send(worker, frames, respond)
                if held_s is None
                else self._hold(worker, frames, respond, held_s)
            )
            self.spawn(work)

    def _ready(self) -> ServerSession:
        session = ServerSession(self.world.now)
        session.state = Connection.READY
        return session

    async def _hold(
        self, worker: WorkerName, frames: list[WorkerFrame], respond: Respond, held_s: float
    ) -> None:
        answered = False

        def write(link: SimLink) -> None:
            # A moment later: what belongs together goes together.
            nonlocal answered
            if not answered and (
                link.closing or any(not isinstance(frame, Welcome) for frame in link.outgoing)
            ):
                answered = True
                self.world.at(0.01, give)

        def give() -> None:
            nonlocal answered
            if self.alive:
                answered = True
                respond(list(link.outgoing))
                link.outgoing.clear()
                self.hub.remove(link)

        link = SimLink(self, worker, self._ready(), "longpoll", write)
        hello = frames[0]
        assert isinstance(hello, Hello)
        try:
            registered = await self.workers.greet(link, hello)
            await self.workers.joined(link, registered)
        except RefusedError as error:
            respond([Refused(code=Refusal(error.code), sentence=str(error))])
            return
        except UnreachableError:
            return
        if not answered:
            self.world.at(held_s, give)

    async def _send(self, worker: WorkerName, frames: list[WorkerFrame], respond: Respond) -> None:
        current = self.hub.get(worker)
        link = SimLink(self, worker, self._ready(), "longpoll", lambda _: None, current=current)
        for frame in frames:
            if isinstance(frame, Log) or not isinstance(frame, Hello | Bye):
                await self.workers.take(link, frame)

        def give() -> None:
            if self.alive:
                respond(list(link.outgoing))
                link.outgoing.clear()

        self.world.at(self.world.within(0.05, 0.3), give)
