"""A worker: the real daemon's decisions (its table of jobs, slots, session) over models of disk, hosts and network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge_ws.errors import RemoteProtocolError
from edge_ws.protocol.frames import (
    Finished,
    Hello,
    Log,
    Refused,
    ServerFrame,
    Timers,
    Welcome,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId
from edge_ws.protocol.session import WorkerSession
from edge_ws.protocol.states import Connection
from edge_ws.worker import logs as real_logs
from edge_ws.worker.daemon import Daemon, JobEvent
from edge_ws.worker.host_events import Prepared
from edge_ws.worker.jobs import Action, Jobs, Prepare
from edge_ws.worker.logs import Logs
from edge_ws.worker.slots import Slots
from tests.simulation.network import Network, Wire
from tests.simulation.site import Hosts, Site
from tests.simulation.world import Violation, World

POLL_PATIENCE_S = 45.0


class _MemoryTail(real_logs._Tail):
    """A tail of a file in memory."""

    def __init__(self, claim: ClaimId, path: Path | None, start: int, data: bytearray) -> None:
        super().__init__(claim, path, start)
        self._data = data

    def open(self) -> bool:
        return True

    def _file_size(self) -> int:
        return max(0, len(self._data) - self.start)

    def read(self, offset: int) -> bytes:
        in_file = self._file_size()
        if offset < in_file:
            return bytes(self._data[self.start + offset :][:40])
        return self.extra[offset - in_file :][:40]


class SimLogs(Logs):
    """The real ones, over files in memory, pumped soon after each change."""

    def __init__(self, daemon: SimDaemon) -> None:
        super().__init__(daemon.link.send, daemon._on_log_flushed)
        self._daemon = daemon
        self._pumping = False

    def tail(self, claim: ClaimId, path: str, start: int) -> None:
        data = self._daemon.site.files.setdefault(path, bytearray())
        self._tails[claim] = _MemoryTail(claim, None, start, data)
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


class SimLink:
    """The worker's side of the connection, by either transport; see `edge_ws.worker.link`."""

    def __init__(self, daemon: SimDaemon) -> None:
        self._daemon = daemon
        self._world, self._network = daemon.world, daemon.network
        self._session: WorkerSession | None = None
        self._wire: Wire | None = None
        self._tries = 0
        self._leaving = False
        self._batch: list[WorkerFrame] = []
        self._failures = 0

    @property
    def ready(self) -> bool:
        return self._session is not None and self._session.state is Connection.READY

    def start(self) -> None:
        self._connect()

    def leave(self, reason: str) -> None:
        self._leaving = True

    def send(self, frame: WorkerFrame) -> bool:
        if not self.ready:
            return False
        assert self._session is not None
        self._session.sending(frame, self._world.now)
        if isinstance(frame, Finished):
            self._daemon.finished[frame.claim] = frame.log_end
        self._network.on_frame(frame)
        if self._wire is not None:
            self._wire.send(frame, up=True)
        else:
            if not self._batch:
                self._world.at(self._world.within(0.001, 0.05), self._flush, self._session)
            self._batch.append(frame)
        return True

    # Connections

    def _connect(self) -> None:
        if not self._daemon.running or self._session is not None:
            return
        gateway = self._network.gateway()
        if gateway is None or self._cut_off():
            self._again()
            return
        session = self._session = WorkerSession(self._world.now)
        self._failures = 0
        self._batch = []
        hello = self._daemon.hello()
        session.sending(hello, self._world.now)
        if self._world.chance(self._daemon.polls):
            self._wire = None
            self._poll(session, hello, 0.1)
        else:
            wire = self._wire = Wire(self._world, self._daemon.name, self._daemon.site.id, gateway, self)
            self._network.wires.append(wire)
            gateway.opened(wire)
            wire.send(hello, up=True)
        self._world.at(5.0, self._watch, session)

    def _cut_off(self) -> bool:
        return id(self._daemon.site) in self._network.cut_off

    def _again(self, pause_s: float | None = None) -> None:
        self._tries += 1
        ceiling = min(60.0, 2.0 ** min(self._tries, 6))
        self._world.at(pause_s or self._world.within(0.05, ceiling), self._connect)

    def _lost(self, session: WorkerSession, pause_s: float | None = None) -> None:
        if self._session is session:
            self._session = None
            if self._wire is not None:
                self._wire.cut()
                self._wire = None
            self._again(pause_s)

    def _watch(self, session: WorkerSession) -> None:
        if self._session is not session or not self._daemon.running:
            return
        now = self._world.now
        due = session.tick(now)
        if due.close is not None:
            self._lost(session)
            return
        if due.beat:
            self.send(self._daemon.status())
        deadline = session.deadline()
        self._world.at(max(0.01, (deadline or now + 5.0) - now), self._watch, session)

    def heard(self, wire: Wire, frame: ServerFrame) -> None:
        if wire is self._wire and self._session is not None:
            self._take(self._session, frame)

    def closed(self, wire: Wire) -> None:
        if wire is self._wire and self._session is not None:
            self._lost(self._session)

    def _take(self, session: WorkerSession, frame: ServerFrame) -> None:
        if not self._daemon.running:
            return
        try:
            session.receive(frame, self._world.now)
        except RemoteProtocolError as error:
            raise Violation(f"a gateway broke the protocol: {error}") from error
        if isinstance(frame, Welcome):
            self._tries = 0
            if self._wire is not None:
                self._network.welcomed(self._wire)
            self._daemon.welcomed(frame, 0.0, "websocket" if self._wire else "longpoll")
        elif isinstance(frame, Refused):
            self._world.note("%s is refused: %s", self._daemon.label, frame.sentence)
            self._lost(session, self._world.within(10.0, 30.0))
        else:
            self._daemon.take(frame)

    # Long-poll

    def _poll(self, session: WorkerSession, hello: Hello, held_s: float) -> None:
        answered = False

        def answer(frames: list[ServerFrame]) -> None:
            nonlocal answered
            if answered or self._session is not session or not self._daemon.running:
                return
            answered = True
            self._failures = 0
            self._hear(session, frames)
            self._poll_again(session)

        def give_up() -> None:
            nonlocal answered
            if answered or self._session is not session or not self._daemon.running:
                return
            answered = True
            self._failures += 1
            if self._failures >= 3:
                self._lost(session)
            else:
                self._poll_again(session)

        if not self._cut_off():
            self._network.request(self._daemon.name, [hello], answer, held_s)
        self._world.at(POLL_PATIENCE_S, give_up)

    def _poll_again(self, session: WorkerSession) -> None:
        if self._session is session and session.state is Connection.READY:
            self._poll(session, self._daemon.hello(), 25.0)

    def _hear(self, session: WorkerSession, frames: list[ServerFrame]) -> None:
        session.heard(self._world.now)
        for frame in frames:
            if self._session is not session:
                return
            # Each poll is greeted; only the first greeting opens the session, the others bring the wish.
            again = isinstance(frame, Welcome) and session.state is not Connection.GREETED
            if not again:
                self._take(session, frame)
            elif frame.wish.revision != self._daemon._revision:
                self._take(session, frame.wish)

    def _flush(self, session: WorkerSession) -> None:
        if self._session is not session or not self._daemon.running:
            return
        frames, self._batch = self._batch, []
        if not self._cut_off():
            self._network.request(
                self._daemon.name, frames, lambda told: self._answered(session, told), held_s=None
            )

    def _answered(self, session: WorkerSession, frames: list[ServerFrame]) -> None:
        if self._session is session and self._daemon.running:
            self._hear(session, frames)


class SimDaemon(Daemon):
    """One life of a daemon: what the real one makes are models here, what it decides is its own."""

    def __init__(self, world: World, network: Network, site: Site, concurrency: int, polls: float) -> None:
        self.world, self.network, self.site, self.polls = world, network, site, polls
        self.running = True
        self.name = site.worker
        self.label = f"{site.worker}@{site.id}"
        self.finished: dict[ClaimId, int] = {}
        self._config = SimpleNamespace(  # type: ignore[assignment]
            name=site.worker, concurrency=concurrency, queues=None, team=None
        )
        self._state = SimpleNamespace(site=site.id)  # type: ignore[assignment]
        self._versions = {}
        self._slots = Slots(concurrency)
        self._queues = None
        self._revision = 0
        self._timers = Timers()
        self._execution_api_url = ""
        self._jobs = Jobs(self._slots)
        self._outbox = site.outbox  # type: ignore[assignment]
        self._draining = self._retiring = False
        self._pending = []
        self.link = self._link = SimLink(self)  # type: ignore[assignment]
        self._logs = SimLogs(self)
        self._hosts = Hosts(site, self._on_event)  # type: ignore[assignment]
        self._hosts.slots_of = self._slots.of  # type: ignore[attr-defined]
        site.on_write = self._logs.soon
        world.note("%s starts", self.label)
        self._do(self._jobs.restore(self._outbox.load(), self._outbox.load_dead()))
        self._hosts.start()  # type: ignore[attr-defined]
        self.link.start()
        world.at(10.0, self._say_again_now)

    def _sysinfo(self) -> dict[str, str | int | float]:
        return {}

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
        """What `_say_again` does every 10 s."""
        if not self.running:
            return
        pending = self._jobs.reports()
        for report in pending:
            if report in self._pending:
                self._link.send(report)
        self._pending = pending
        self._logs.resend(only_stuck=True)
        self.world.at(10.0, self._say_again_now)

    def die(self) -> None:
        """kill -9."""
        self.world.note("%s dies", self.label)
        self.running = False
        self._hosts.running = False  # type: ignore[attr-defined]
        for host in self.site.hosts:
            if host.attached is self._hosts:
                host.attached = None
        wire = self.link._wire
        if wire is not None:
            wire.cut()

    def idle(self) -> bool:
        """Tell whether nothing is left of any job."""
        return not len(self._jobs) and not self.site.outbox.records


__all__ = ["Log", "SimDaemon"]
