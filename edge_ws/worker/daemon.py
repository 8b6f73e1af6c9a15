"""The worker's daemon: joins link, jobs, logs, outbox and hosts, and carries out what the table decides.

The composition root of the remote side. It runs no task and imports no Airflow: job hosts do.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

import anyio
from anyio.abc import TaskGroup

from edge_ws.errors import EdgeWsError, UsageError
from edge_ws.protocol.frames import (
    Ack,
    Applied,
    Beat,
    Cancel,
    Drain,
    Go,
    Hello,
    Inventory,
    LogAck,
    Offer,
    Query,
    Refused,
    ServerFrame,
    Stale,
    Status,
    Timers,
    Welcome,
    Wish,
    WorkerFrame,
)
from edge_ws.protocol.ids import OLDEST_PROTOCOL, PROTOCOL, ClaimId
from edge_ws.worker import network, sysinfo
from edge_ws.worker.choice import AUTO
from edge_ws.worker.config import WorkerConfig, read_token
from edge_ws.worker.conversation import flat
from edge_ws.worker.host_client import (
    Dropped,
    HostEvent,
    HostFailed,
    HostGone,
    HostJob,
    Hosts,
    HostSettings,
    HostUp,
    JobEnded,
    JobNotStarted,
    JobStarted,
    Prepared,
    PrepareRefused,
)
from edge_ws.worker.jobs import (
    Action,
    Drop,
    FlushLog,
    Forget,
    Jobs,
    Keep,
    KeepDead,
    Prepare,
    Send,
    Start,
    Stop,
    StopLog,
    TailLog,
)
from edge_ws.worker.link import Link
from edge_ws.worker.logs import Logs
from edge_ws.worker.outbox import Outbox
from edge_ws.worker.slots import Slots
from edge_ws.worker.state import StateDirectory
from edge_ws.worker.transports.base import Transport
from edge_ws.worker.transports.longpoll import LongPollTransport
from edge_ws.worker.transports.websocket import WebSocketTransport

log = logging.getLogger("edge_ws.worker")

JobEvent = Prepared | PrepareRefused | JobStarted | JobNotStarted | JobEnded | Dropped

RESEND_EVERY_S = 10.0
"""What the server has not confirmed for so long is said again: it may have lost its database for a moment."""


def fingerprint(environment: dict[str, str], versions: dict[str, str]) -> str:
    """Return what a job host depends on, as a hash: a host of another one is not given new jobs."""
    told = {name: value for name, value in environment.items() if not name.startswith("EDGE_WS_")}
    # What differs between two logins and means nothing to a task.
    for name in ("SHLVL", "PWD", "OLDPWD", "_", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID"):
        told.pop(name, None)
    return hashlib.sha256(json.dumps([told, versions], sort_keys=True).encode()).hexdigest()[:16]


class Daemon:
    """One worker. Everything happens on one event loop; nothing here blocks for long."""

    def __init__(self, config: WorkerConfig, state: StateDirectory, environment: dict[str, str]) -> None:
        self._config = config
        self._state = state
        self._versions = sysinfo.versions()
        self._started_at = datetime.now(UTC)
        self._slots = Slots(config.concurrency)
        self._queues = config.queues
        self._revision = 0
        self._timers = Timers()
        self._environment = environment
        way = network.resolve(config, environment)
        self._execution_api_url = network.execution_api_url(config.url)
        self._task_proxy = way.proxy
        self._jobs = Jobs(self._slots)
        self._outbox = Outbox(state.path / "outbox")
        self._draining = False
        self._retiring = False
        self._pending: list[WorkerFrame] = []
        # What the user tells Airflow itself comes first.
        for_hosts = {**network.task_environment(config), **environment}
        self._hosts = Hosts(
            HostSettings(
                directory=state.path / "hosts",
                python=sys.executable,
                environment=for_hosts,
                fingerprint=fingerprint(for_hosts, self._versions),
                worker_name=config.name,
            ),
            self._on_host_event,
        )
        self._link = Link(
            config.name,
            self._transports(config.transport, way),
            self,
            read_token=lambda: read_token(config),
            proven=state.is_proven(config.url),
            on_proven=lambda: state.prove(config.url),
        )
        self._logs = Logs(self._link.send, self._on_log_flushed)

    def _transports(self, wanted: str, way: network.Network) -> list[Transport]:
        both: list[Transport] = [WebSocketTransport(way), LongPollTransport(way, self.hello)]
        return [one for one in both if wanted in {AUTO, one.name}]

    # The link asks

    def inventory(self) -> Inventory:
        """Return the worker as it stands."""
        return Inventory(
            site=self._state.site,
            hosts=self._hosts.alive,
            dead_hosts=self._jobs.dead_hosts,
            claims=self._jobs.held(),
            revision=self._revision,
            concurrency=self._slots.concurrency,
            queues=self._queues,
            stale_slots=self._jobs.stale_slots,
            draining=not self._jobs.accepting,
        )

    def _sysinfo(self) -> dict[str, str | int | float]:
        told = {"transport_reason": reason} if (reason := self._link.mode.reason) else {}
        return told | sysinfo.gather(
            versions=self._versions,
            started_at=self._started_at,
            concurrency=self._slots.concurrency,
            free_concurrency=self._slots.free,
            disk=self._state.path,
        )

    def hello(self) -> Hello:
        """Return the greeting."""
        return Hello(
            protocol=PROTOCOL,
            oldest_protocol=OLDEST_PROTOCOL,
            worker=self._config.name,
            team=self._config.team,
            concurrency=self._config.concurrency,
            queues=self._config.queues,
            inventory=self.inventory(),
            versions=self._versions,
            sysinfo=self._sysinfo(),
        )

    def status(self) -> Status:
        """Return the heartbeat."""
        return Status(inventory=self.inventory(), sysinfo=self._sysinfo())

    def welcomed(self, welcome: Welcome, opened_in_s: float, transport: str) -> None:
        """Take over what the server dictates, and say again what it has not confirmed."""
        self._timers = welcome.timers
        if welcome.execution_api_url is not None:
            self._execution_api_url = welcome.execution_api_url
            self._task_proxy = self._find_task_proxy()
        self._apply(welcome.wish)
        queues = ", ".join(self._queues) if self._queues is not None else "all"
        airflow = welcome.versions.get("airflow", "of an unknown version")
        log.info(
            "connected: %s by %s, %.0f ms, queues %s, %d slots, Airflow %s",
            self._config.name,
            transport,
            opened_in_s * 1000,
            queues,
            self._slots.concurrency,
            airflow,
        )
        for report in self._jobs.reports():
            self._link.send(report)
        self._logs.resend(only_stuck=False)

    def _find_task_proxy(self) -> str | None:
        try:
            return network.proxy_for(self._config, self._execution_api_url, self._environment)
        except UsageError as error:
            # The centre's URL may be plain http, and no variable for that has been looked at yet.
            log.error("tasks connect without a proxy: %s", error)  # noqa: TRY400 - a sentence, no traceback
            return None

    def take(self, frame: ServerFrame) -> None:
        """Take a frame of a ready connection."""
        match frame:
            case Offer():
                log.debug("offer: claim=%s at=%.6f", frame.claim, time.time())
                self._do(self._jobs.offered(frame, self._hosts.current))
            case Go():
                self._do(self._jobs.go(frame.claim, frame.token))
            case Cancel():
                self._do(self._jobs.cancel(frame.claim, frame.reason))
            case Query():
                self._do(self._jobs.query(frame.claim))
            case Stale():
                self._do(self._jobs.stale(frame.claim))
            case Ack() | LogAck():
                self._confirmed(frame)
            case Wish():
                self._apply(frame)
            case Beat() | Drain() | Refused() | Welcome():
                return
            case _:
                assert_never(frame)

    def _confirmed(self, frame: Ack | LogAck) -> None:
        if isinstance(frame, Ack):
            self._do(self._jobs.acked(frame.claim, frame.phase))
            return
        job = self._jobs.get(frame.claim)
        if job is not None:
            job.log_end = self._logs.acked(frame.claim, frame.log_end)

    def _apply(self, wish: Wish) -> None:
        """Put a wish in force, and say so."""
        self._slots.concurrency = self._config.concurrency if wish.concurrency is None else wish.concurrency
        self._queues = self._config.queues if wish.queues is None else wish.queues
        if wish.revision != self._revision:
            log.info(
                "applied: %d slots, queues %s", self._slots.concurrency, ", ".join(self._queues or ["all"])
            )
        self._revision = wish.revision
        self._link.send(
            Applied(revision=self._revision, concurrency=self._slots.concurrency, queues=self._queues)
        )

    # The hosts tell

    def _on_host_event(self, event: HostEvent) -> None:
        match event:
            case HostUp():
                self._host_up(event)
            case HostGone() if self._retiring:
                return
            case HostGone():
                if not event.left:
                    log.error("job host %s died; its processes are gone", event.host)
                self._after_all(event.jobs)
                self._do(self._jobs.host_dead(event.host))
                self._set_accepting()
            case HostFailed():
                log.error("no job host: %s", event.reason)
                self._set_accepting()
            case _:
                self._on_job_event(event)

    def _on_job_event(self, event: JobEvent) -> None:
        match event:
            case Prepared():
                start = _size(event.log_path)
                self._do(self._jobs.prepared(event.claim, event.host, event.log_path, start))
            case PrepareRefused():
                self._refused_by_host(event)
            case JobStarted():
                self._do(self._jobs.started(event.claim, event.host))
            case JobNotStarted():
                self._do(self._jobs.did_not_start(event.claim, event.reason))
            case JobEnded():
                self._do(
                    self._jobs.ended(
                        event.claim, event.exit_code, event.detail, log_uploaded=event.log_uploaded
                    )
                )
            case Dropped():
                return
            case _:
                assert_never(event)

    def _host_up(self, event: HostUp) -> None:
        for one in event.jobs:
            waiting = one.phase == "prepared"
            self._do(self._jobs.on_host(event.host, one.claim, waiting=waiting))
            if one.phase == "started":
                self._do(self._jobs.started(one.claim, event.host))
        self._after_all(event.jobs)
        self._do(self._jobs.only_on([event.host], [one.claim for one in event.jobs]))
        for gone in self._jobs.hosts() - set(self._hosts.alive):
            # It died while no daemon was there to see it.
            self._do(self._jobs.host_dead(gone))
        self._set_accepting()

    def _after_all(self, told: Sequence[HostJob]) -> None:
        """Take up the ends that a host (or its journal) tells."""
        for one in told:
            if one.phase == "not_started":
                self._do(self._jobs.did_not_start(one.claim, one.detail))
            elif one.phase == "ended":
                self._do(
                    self._jobs.ended(one.claim, one.exit_code or 0, one.detail, log_uploaded=one.log_uploaded)
                )

    def _refused_by_host(self, event: PrepareRefused) -> None:
        host = self._hosts.current
        if host is None or not event.invalid:
            self._do(self._jobs.no_host(event.claim, event.reason))
            return
        log.error("a job cannot run here: %s", event.reason)
        self._do(self._jobs.cannot_run(event.claim, host, event.reason, None))

    def _set_accepting(self) -> None:
        before = self._jobs.accepting
        self._jobs.accepting = self._hosts.current is not None and not self._draining
        if self._jobs.accepting != before:
            log.info("taking jobs" if self._jobs.accepting else "taking no new jobs")
            self._link.send(self.status())

    # What the table wants

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._link.send(action.frame)
                case Keep():
                    self._outbox.save(action.record)
                case KeepDead():
                    self._outbox.save_dead(action.hosts)
                case TailLog():
                    self._logs.tail(action.claim, action.path, action.log_start)
                case StopLog():
                    self._logs.drop(action.claim)
                case FlushLog():
                    self._logs.flush(action.claim, _log_line(action.line) if action.line else b"")
                case _:
                    self._do_on_host(action)

        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._draining and not len(self._jobs):
            self._link.leave("drained")

    def _do_on_host(self, action: Prepare | Start | Drop | Stop | Forget) -> None:
        match action:
            case Prepare():
                self._hosts.prepare(action.claim, action.payload, self._execution_api_url, self._task_proxy)
            case Start():
                self._hosts.go(action.claim, action.token)
            case Drop():
                self._hosts.drop(action.claim)
            case Stop():
                self._hosts.cancel(action.claim, self._timers.cancel_grace_s, action.reason)
            case Forget():
                self._hosts.forget(action.claim)
                self._logs.drop(action.claim)
                self._outbox.drop(action.claim)
            case _:
                assert_never(action)

    def _on_log_flushed(self, claim: ClaimId, log_end: int) -> None:
        self._do(self._jobs.log_flushed(claim, log_end))

    # Running

    async def run(self) -> None:
        """Run until told to leave.

        Raises:
            EdgeWsError: refused for good, or misconfigured.
        """
        self._do(self._jobs.restore(self._outbox.load(), self._outbox.load_dead()))
        failed: list[EdgeWsError] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._hosts.run)
                tasks.start_soon(self._logs.run)
                tasks.start_soon(self._say_again)
                tasks.start_soon(self._on_signals, tasks)
                await self._link.run()
                tasks.cancel_scope.cancel()
        except* EdgeWsError as group:
            failed.extend(flat(group))
        if failed or (self._draining and not len(self._jobs)):
            self._retiring = True
            await self._hosts.retire()
        if failed:
            raise failed[0]

    async def _say_again(self) -> None:
        while True:
            await anyio.sleep(RESEND_EVERY_S)
            pending = self._jobs.reports()
            for report in pending:
                if report in self._pending:
                    self._link.send(report)
            self._pending = pending
            self._logs.resend(only_stuck=True)

    async def _on_signals(self, tasks: TaskGroup) -> None:
        """The first SIGTERM or SIGINT drains; a second one leaves at once, and running tasks go on.

        SIGHUP: try now what would be tried later.
        """
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self._link.retry_now()
                    continue
                if self._draining:
                    left = len(self._jobs)
                    log.warning("leaving at once; %d jobs run on and are taken up at the next start", left)
                    tasks.cancel_scope.cancel()
                    return
                self._draining = True
                self._set_accepting()
                log.info("%s: draining, %d jobs to finish", signal.Signals(number).name, len(self._jobs))
                self._leave_if_done()


def _size(path: str | None) -> int:
    with suppress(OSError):
        return Path(path).stat().st_size if path else 0
    return 0


def _log_line(sentence: str) -> bytes:
    """Return a line as Airflow writes task logs."""
    line = {"timestamp": datetime.now(UTC).isoformat(), "level": "error", "event": sentence}
    return json.dumps({**line, "logger": "edge_ws"}).encode() + b"\n"


def main(config: WorkerConfig) -> int:
    """Run a worker in this process; return its exit code."""
    # Not the root's level: the debug lines of websockets show the token.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("edge_ws").setLevel(config.log_level.upper())
    state = StateDirectory(config.state_dir)
    anyio.run(Daemon(config, state, dict(os.environ)).run)
    return 0
