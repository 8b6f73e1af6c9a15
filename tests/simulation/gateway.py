"""A gateway: the real hub, reports, dispatcher, reaper and greeting, driven by hand over the model store."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from edge_ws.errors import RefusedError, RemoteProtocolError, UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Beat,
    Bye,
    Hello,
    PhaseIs,
    Refusal,
    Refused,
    ServerFrame,
    Stale,
    WorkerFrame,
)
from edge_ws.protocol.http import WORKER_HEADER
from edge_ws.protocol.ids import GatewayId, WorkerName
from edge_ws.protocol.session import Close, ServerSession
from edge_ws.protocol.states import Connection
from edge_ws.server.app import send_away
from edge_ws.server.budget import Budget, _Share
from edge_ws.server.config import GatewaySettings
from edge_ws.server.credentials import Credentials
from edge_ws.server.dispatcher import Dispatcher
from edge_ws.server.hub import Hub, Link
from edge_ws.server.longpoll import PollLink, Polls
from edge_ws.server.reaper import Reaper
from edge_ws.server.reports import Answers, Reports, _Taken
from edge_ws.server.workers import Workers
from edge_ws.store.records import Principal
from edge_ws.store.watch import Changes
from tests.simulation.airflow import Airflow
from tests.simulation.model_store import ModelStore, Rules
from tests.simulation.network import Answer, Carried, Network, Wire
from tests.simulation.threads import Call, GoOn, Lane, ThreadLimit, settle
from tests.simulation.world import Violation, World

SETTINGS = GatewaySettings(hostname="g", keep_offline_workers_s=0.0)


class SimBudget(Budget):
    """The real one with patience for nobody: what has no room is left out, as it may be at any time."""

    async def _is_freed(self, share: _Share) -> bool:
        return False


class Strict(FaultGuard):
    """Contains nothing: what a gateway would go on after is a fault here."""

    def note(self, what: str, error: BaseException) -> None:
        raise error


STRICT = Strict(logging.getLogger(__name__))


class SimReports(Reports):
    """The real ones with threads in virtual time."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            gateway.store.reports,
            gateway.store.workers,
            gateway.hub,
            SETTINGS,
            gateway.airflow,
            on_ended=lambda: None,
            on_unsettled=gateway.look_soon,
            on_log=lambda _: None,
            guard=STRICT,
        )
        self._threads = ThreadLimit(gateway)  # type: ignore[assignment]
        self._rules = gateway.rules
        self._budget = SimBudget()
        left = _Taken.leave
        self._reports = Lane(gateway, self._write_reports, self._answer_report, left=left)  # type: ignore[assignment]
        self._others = Lane(gateway, self._write_others, self._answer_other, 1, left=left)  # type: ignore[assignment]
        self._logs = Lane(gateway, self._write_logs, self._answer_log, left=left)  # type: ignore[assignment]

    async def take(self, link: Link, frame: WorkerFrame, answers: Answers | None = None) -> None:
        if self._rules.queries or not isinstance(frame, PhaseIs):
            await super().take(link, frame, answers)


class SimWorkers(Workers):
    """The real ones, who know whoever comes."""

    async def authenticate(self, connection: Any) -> Principal:
        return Principal(worker=WorkerName(connection.headers[WORKER_HEADER]))


class _Request:
    """What a request is to the real code that takes it."""

    method = "POST"
    client = None

    def __init__(self, carried: Carried) -> None:
        self._carried = carried
        self.headers = carried.said.headers
        self._unread: bytes | None = carried.said.body

    async def receive(self) -> dict[str, Any]:
        if (body := self._unread) is not None:
            self._unread = None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._carried.left
        return {"type": "http.disconnect"}


class SimLink(Link):
    """The real one of a WebSocket, which writes at once."""

    def __init__(
        self, gateway: Gateway, worker: WorkerName, session: ServerSession, write: Callable[[], None]
    ) -> None:
        super().__init__(Principal(worker=worker), session, "websocket")
        self._gateway, self._write = gateway, write

    def send(self, frame: ServerFrame) -> None:
        self._gateway.network.on_frame(frame)
        super().send(frame)
        self._write()

    def close(self, close: Close) -> None:
        super().close(close)
        self._write()


class _Conversation:
    """One WebSocket at the gateway."""

    def __init__(self, gateway: Gateway, wire: Wire) -> None:
        self.wire = wire
        self._gateway = gateway
        self._session = ServerSession(gateway.world.now)
        self.link = SimLink(gateway, wire.worker, self._session, self._write)
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

    def _write(self) -> None:
        link = self.link
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
        self.workers = SimWorkers(
            store.workers,
            self.hub,
            self.reports,
            SETTINGS,
            self.id,
            Credentials(store.tokens, store.workers, None),
            STRICT,
        )
        self.workers._threads = ThreadLimit(self)  # type: ignore[assignment]
        self.polls = Polls(self.workers, self.hub, SETTINGS)
        self._dispatcher = Dispatcher(store.dispatch, self.hub, SETTINGS, self.id, guard=STRICT)
        self._dispatcher._threads = ThreadLimit(self)  # type: ignore[assignment]
        self._reaper = Reaper(
            store,  # type: ignore[arg-type]
            self.hub,
            SETTINGS,
            self.id,
            task_states=airflow,
            finished_logs=None,  # type: ignore[arg-type]
            guard=STRICT,
        )
        self._reaper._threads = ThreadLimit(self)  # type: ignore[assignment]
        self.conversations: dict[Wire, _Conversation] = {}
        self.leaves = False
        """It sends its workers elsewhere."""
        self._serving: dict[Carried, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
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
        before, self.is_stepping = self.is_stepping, True
        try:
            call = work.send(value) if error is None else work.throw(error)
        except StopIteration:
            return
        finally:
            self.is_stepping = before
        self._call(call, lambda value, error: self._step(work, value, error))

    is_stepping = False
    """What runs now is no task of the event loop's."""

    async def called(self, call: Call) -> Any:
        """Return what a verb returns, to a task."""
        future = self.world.loop.create_future()
        self._call(call, lambda value, error: settle(future, value, error))
        return await future

    def _call(self, call: Call, go_on: GoOn) -> None:
        self.world.at(self.world.within(0.0005, 0.02), self._commit, call, go_on)

    def _commit(self, call: Call, go_on: GoOn) -> None:
        if not self.alive:
            go_on(None, None)
            return
        error: Exception | None = None
        value = None
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
        self.world.at(slow, go_on, value, error)

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
            # Where nothing is to be looked at, nothing is asked.
            whole = self.world.now - self._whole_at >= 4.0
            if self.store.rows and (whole or self.hub.holding()):
                self.spawn(self._reap())
            self.world.at(self.world.within(1.0, 3.0), self._look)

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
            self.spawn(self._say_beat())
            self.world.at(15.0, self._beat)

    async def _say_beat(self) -> None:
        try:
            await self._reaper.beat(self.world.now)
        except UnreachableError:
            return

    def die(self) -> None:
        """kill -9: what is in the middle of anything stops there."""
        self.alive = False
        self.world.note("gateway %s dies", self.id)
        for wire in list(self.conversations):
            wire.cut()
        for carried, task in self._serving.items():
            task.cancel()
            if self.world.chance(0.7):
                carried.answer(None)
        for task in self._tasks:
            task.cancel()

    def leave(self) -> None:
        """Send the workers elsewhere, then end."""
        self.world.note("gateway %s leaves", self.id)
        self.leaves = self.polls.draining = True
        self._dispatcher.stop()
        self._tasks.add(self.world.start(self._drain()))

    async def _drain(self) -> None:
        await send_away(self.hub, 10.0)
        self.polls.end()
        self.world.at(0.5, self.die)

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

    # Long-poll

    def request(self, carried: Carried) -> None:
        if self.alive:
            self._give_up_silent()
            self._serving[carried] = self.world.start(self._serve(carried))

    async def _serve(self, carried: Carried) -> None:
        serve = self.polls.poll if carried.said.kind == "poll" else self.polls.send
        try:
            response = await serve(_Request(carried))  # type: ignore[arg-type]
        finally:
            del self._serving[carried]
        body = bytes(response.body)
        if response.status_code == 200 and self.network.is_watched:
            for frame in codec.decode_batch_from_server(body):
                self.network.on_frame(frame)
        carried.answer(Answer(response.status_code, dict(response.headers), body))

    def _give_up_silent(self) -> None:
        """What `Polls.watch_for_ever` does."""
        if self.alive and not self._watching:
            self._watching = True
            self.world.at(self.world.within(0.5, 3.0), self._look_for_silent)

    def _look_for_silent(self) -> None:
        self._watching = False
        if self.alive and (self._serving or any(isinstance(link, PollLink) for link in self.hub.links())):
            self.spawn(self.polls.give_up_silent(self.world.now))
            self._give_up_silent()

    _watching = False
