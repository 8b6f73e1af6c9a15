"""The worker's daemon: joins link, jobs, logs, outbox and hosts, and carries out what the table decides.

The composition root of the remote side. It runs no task and imports no Airflow: job hosts do.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import assert_never

import anyio

from edge_ws.errors import EdgeWsError
from edge_ws.protocol import ids
from edge_ws.protocol.frames import (
    Ack,
    Beat,
    Bye,
    Cancel,
    Drain,
    Go,
    Hello,
    Inventory,
    LogAck,
    Offer,
    Query,
    Refused,
    Renewed,
    ServerFrame,
    Stale,
    Status,
    Timers,
    Token,
    Welcome,
    Wish,
)
from edge_ws.protocol.ids import ClaimId, LifeId, new_id
from edge_ws.worker import network, status, sysinfo
from edge_ws.worker.carrier import Carrier
from edge_ws.worker.config import WorkerConfig, read_token
from edge_ws.worker.control import Condition, ControlServer
from edge_ws.worker.conversation import flat
from edge_ws.worker.credential import run_command
from edge_ws.worker.disk import DiskWatch
from edge_ws.worker.drain import Patience, WorkerDrain
from edge_ws.worker.facts import Facts, Sources
from edge_ws.worker.health import HealthPort
from edge_ws.worker.host_client import HostEvent, HostFailed, HostGone, Hosts, HostSettings, HostUp, Prepared
from edge_ws.worker.host_news import JobEvent, about_job, ends, host_up
from edge_ws.worker.job_log import JobLog, left_behind
from edge_ws.worker.jobs import Action, Drop, Jobs
from edge_ws.worker.link import Link
from edge_ws.worker.logs import Logs, log_size
from edge_ws.worker.message_limits import MessageLimits
from edge_ws.worker.outbox import Outbox
from edge_ws.worker.outcomes import Deliveries
from edge_ws.worker.readiness import NO_JOB_HOST, STARTING, Fitness, Hindrances, Reason, Told, why_no_jobs
from edge_ws.worker.sender import Sender
from edge_ws.worker.site_facts import SiteFacts
from edge_ws.worker.slots import Slots
from edge_ws.worker.state import StateDirectory
from edge_ws.worker.transport_choice import AUTO
from edge_ws.worker.transports.base import Transport
from edge_ws.worker.transports.longpoll import LongPollTransport
from edge_ws.worker.transports.websocket import WebSocketTransport
from edge_ws.worker.vitals import Vitals
from edge_ws.worker.watchdog import Watchdog
from edge_ws.worker.wishes import Standing, Wishes

log = logging.getLogger("edge_ws.worker")


class Daemon:
    """One worker. Everything happens on one event loop; nothing here blocks for long."""

    def __init__(
        self,
        config: WorkerConfig,
        state: StateDirectory,
        environment: dict[str, str],
        settings: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """`settings`: what the centre is told of the configuration and where it comes from."""
        self._config = config
        self._state = state
        self._versions = sysinfo.versions()
        self._started_at = datetime.now(UTC)
        self._life = LifeId(new_id())
        self._slots = Slots(config.concurrency)
        self._wishes = Wishes(config.concurrency, config.queues, state.request())
        self._timers = Timers()
        way = network.resolve(config, environment)
        self._execution_api = network.ExecutionApi(config, environment)
        self._jobs = Jobs(self._slots)
        self._faults = state.faults
        self._vitals = Vitals()
        self._outbox = Outbox(state.path / "outbox", self._faults)
        self._job_log = JobLog()
        self._retiring = False
        self._told = Standing()
        self._centre: dict[str, str] | None = None
        self._controls = False
        """The gateway knows maintenance and shutdown."""
        self._hindrances = Hindrances()
        self._readiness_told = Told()
        self._fitness = Fitness(self._hindrances, self._jobs, self._stand)
        self._disk = DiskWatch(state.path, self._hindrances, self._stand)
        self._patience = Patience(config.drain_timeout_s, config.drain_kill_grace_s)
        self._worker_drain = WorkerDrain(self._patience, self)
        self._running: anyio.CancelScope | None = None
        # What the user tells Airflow itself comes first.
        for_hosts = sysinfo.with_identity({**network.task_environment(config), **environment}, state.path)
        self._hosts = Hosts(
            HostSettings(
                directory=state.path / "hosts",
                python=sys.executable,
                environment=for_hosts,
                fingerprint=sysinfo.fingerprint(for_hosts, self._versions),
                worker_name=config.name,
            ),
            self._on_host_event,
            self._faults,
        )
        self._link = Link(
            config.name,
            self._transports(config.transport, way),
            self,
            read_token=lambda: read_token(config),
            token_command=None
            if config.token_command is None
            else partial(run_command, config.token_command),
            proven=state.is_proven(config.url),
            on_proven=lambda: state.prove(config.url),
            wait=config.wait,
            faults=self._faults,
        )
        self._sender = Sender(self._link, self._jobs, self._vitals)
        self._logs = Logs(self._sender.send, self._on_log_flushed, lambda: self._link.log_chunk)
        self._deliveries = Deliveries(self._execution_api.network, self._jobs, self._do)
        self._carrier = self._make_carrier()
        self._facts = self._make_facts(environment, settings)
        self._watchdog = Watchdog(environment)
        self._health = HealthPort(config.health_listen, self._facts, self._faults)

    def _make_facts(self, environment: dict[str, str], settings: Sequence[tuple[str, str, str]]) -> Facts:
        sources = Sources(
            worker=self._config.name,
            versions=self._versions,
            started_at=self._started_at,
            directory=self._state.path,
            settings=settings,
            jobs=self._jobs,
            outbox=self._outbox,
            logs=self._logs,
            link=self._link,
            job_log=self._job_log,
            hindrances=self._hindrances,
            vitals=self._vitals,
            site=SiteFacts(self._config.extended_system_info_function, environment, self._faults),
        )
        return Facts(sources, self._why_no_jobs)

    def _make_carrier(self) -> Carrier:
        return Carrier(
            send=self._sender.send,
            outbox=self._outbox,
            logs=self._logs,
            hosts=self._hosts,
            deliveries=self._deliveries,
            execution_api=self._execution_api,
            job_log=self._job_log,
            jobs=self._jobs,
            cancel_grace_s=lambda: self._timers.cancel_grace_s,
        )

    def _transports(self, wanted: str, way: network.Network) -> list[Transport]:
        sizes = MessageLimits(self._state.path / "sizes").sizes
        both: list[Transport] = [WebSocketTransport(way, sizes), LongPollTransport(way, self.hello, sizes)]
        return [one for one in both if wanted in {AUTO, one.name}]

    # The link asks

    def inventory(self) -> Inventory:
        """Return the worker as it stands."""
        return Inventory(
            site=self._state.site,
            hosts=self._hosts.alive,
            dead_hosts=self._jobs.dead_hosts,
            claims=self._jobs.held(),
            revision=self._wishes.wish.revision,
            concurrency=self._slots.concurrency,
            queues=self._wishes.queues,
            stale_slots=self._jobs.stale_slots,
            draining=not self._jobs.accepting,
            maintenance=self._wishes.maintenance,
            leaving=bool(self._wishes.leaving),
            asked=self._wishes.asked,
        )

    def hello(self) -> Hello:
        """Return the greeting."""
        return Hello(
            protocol=ids.PROTOCOL,
            oldest_protocol=ids.OLDEST_PROTOCOL,
            worker=self._config.name,
            team=self._config.team,
            concurrency=self._config.concurrency,
            queues=self._config.queues,
            inventory=self.inventory(),
            life=self._life,
            capabilities=(ids.CONTROL, ids.DEADLINE),
            versions=self._versions,
            sysinfo=self._facts.greeting(),
        )

    def status(self) -> Status:
        """Return the heartbeat."""
        return Status(inventory=self.inventory(), sysinfo=self._facts.told())

    def welcomed(self, welcome: Welcome, opened_in_s: float, transport: str) -> None:
        """Take over what the server dictates, and say again what it has not confirmed."""
        self._timers = welcome.timers
        self._vitals.centre_says(welcome.time, anyio.current_time())
        self._centre = welcome.versions
        self._hosts.task_settings = welcome.settings
        self._controls = ids.CONTROL in welcome.capabilities
        self._jobs.mints = ids.OUTCOMES in welcome.capabilities
        if welcome.execution_api_url is not None:
            self._execution_api.move(welcome.execution_api_url)
        self._apply(welcome.wish)
        there = status.connected(self._wishes, self._versions, welcome.versions)
        log.info("connected: %s by %s, %.0f ms, %s", self._config.name, transport, opened_in_s * 1000, there)
        self._sender.all_anew(self._logs)
        self._tell_readiness()

    def take(self, frame: ServerFrame) -> None:
        """Take a frame of a ready connection."""
        match frame:
            case Offer():
                log.debug("offer: claim=%s at=%.6f", frame.claim, time.time())
                self._do(self._jobs.offered(frame, self._hosts.current))
            case Go():
                self._do(self._jobs.go(frame.claim, frame.token))
            case Token():
                self._do(self._jobs.token(frame.claim, frame.token))
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
            case Beat() | Drain() | Refused() | Renewed() | Welcome():
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
        is_new = wish.revision != self._wishes.wish.revision
        # By long-poll a newer gateway may speak after an older one's welcome.
        self._controls = self._controls or wish.maintenance or wish.asked > 0
        request = self._wishes.request
        self._wishes.hear(wish, in_full=self._controls)
        self._slots.concurrency = self._wishes.concurrency
        if is_new:
            log.info(
                "applied: %d slots, queues %s",
                self._slots.concurrency,
                ", ".join(self._wishes.queues or ["all"]),
            )
        if wish.shutdown and wish.deadline_s is not None:
            self._worker_drain.end_in(wish.deadline_s, is_new=is_new)
        self._stand()
        self._link.send(self._wishes.applied())
        if self._wishes.request != request:
            self._settle()

    def _settle(self) -> None:
        """Keep that the host's request has been taken in: a later life is not to repeat it."""
        assert self._wishes.request is not None
        try:
            self._state.keep_request(self._wishes.request)
        except EdgeWsError as error:
            log.warning("%s", error)

    # What is wished here, by signal or by the local socket

    def condition(self) -> Condition:
        """Return how the worker is; see `control.Controlled`."""
        parts = status.Parts(
            config=self._config,
            wishes=self._wishes,
            jobs=self._jobs,
            link=self._link,
            versions=self._versions,
            centre=self._centre,
            started_at=self._started_at,
            no_jobs=self._why_no_jobs(),
            faults=self._faults,
        )
        return status.describe(parts)

    def ask_maintenance(self, *, wanted: bool, comment: str) -> None:
        """Begin or end maintenance; see `control.Controlled`."""
        # To end what is not in force, too: the centre may wish for it, and that has not come through yet.
        request = self._wishes.next_request(maintenance=wanted, comment=comment)
        self._state.keep_request(request)
        self._wishes.ask(request)
        self._stand()

    def drain(self, why: str) -> None:
        """Take nothing new, and leave when all is done and reported."""
        self._wishes.leave(why)
        self._stand()

    def stop_now(self, reason: str) -> None:
        """Likewise, and stop what runs now."""
        self.drain(reason)
        self._worker_drain.hurry(reason)

    def stop_jobs(self, reason: str) -> None:
        """Stop what runs and drop what waits; see `drain.Drainable`."""
        self._do(self._jobs.stop(reason, self._patience.kill_grace_s))

    @property
    def runs_anything(self) -> bool:
        """Whether a job's process may be there; see `drain.Drainable`."""
        return self._jobs.have_processes

    @property
    def runs_tasks(self) -> bool:
        """Whether a task has begun and not ended; see `drain.Drainable`."""
        return self._jobs.have_tasks

    def go(self) -> None:
        """Leave now; see `drain.Drainable`."""
        if self._wishes.leaving and not self.runs_tasks:
            # What still waits for its token waits in vain.
            self.stop_jobs("this worker leaves")
        log.warning("%s", left_behind(self._jobs.all(), self._state.path))
        if self._running is not None:
            self._running.cancel()

    def retry_now(self) -> None:
        """Try at once what would be tried later."""
        self._link.retry_now()

    def _stand(self) -> None:
        """Let all that was wished take effect, and tell the centre of it at once."""
        wishes, told = self._wishes, self._told
        if self._hosts.current is None:
            self._hindrances.begin(STARTING, "the job host is starting")
        else:
            self._hindrances.end(STARTING)
        self._jobs.accepting = self._hindrances.first is None and wishes.takes_new
        self._told = Standing(self._jobs.accepting, wishes.maintenance, bool(wishes.leaving), wishes.asked)
        self._tell_readiness()
        if told.maintenance and not self._told.maintenance:
            log.info("maintenance has ended")
        if self._told.leaving and not told.leaving:
            log.info("%s: draining, %d jobs to finish", wishes.leaving, len(self._jobs))
            self._worker_drain.begin()
        self._do(self._jobs.give_back("this worker takes nothing new now"))
        if self._told != told:
            self._link.send(self.status())

    def _why_no_jobs(self) -> Reason | None:
        return why_no_jobs(self._wishes, self._hindrances, None if self._link.ready else self._link.trouble)

    def _tell_readiness(self) -> None:
        """Have the log say whether jobs are taken, when that changes."""
        if news := self._readiness_told.news(self._why_no_jobs()):
            log.info("%s", news)

    # The hosts tell

    def _on_host_event(self, event: HostEvent) -> None:
        match event:
            case HostUp():
                self._hindrances.end(NO_JOB_HOST)
                self._do(host_up(self._jobs, event, self._hosts.alive))
                if self._worker_drain.stopping:
                    # Before, this host could not be told.
                    self.stop_jobs(self._worker_drain.stopping)
                self._stand()
            case HostGone() if self._retiring:
                return
            case HostGone():
                if not event.left:
                    self._vitals.host_deaths += 1
                    log.error("job host %s died; its processes are gone", event.host)
                self._do(
                    [*ends(self._jobs, event.jobs, host_is_dead=True), *self._jobs.host_dead(event.host)]
                )
                self._stand()
            case HostFailed():
                self._hindrances.begin(NO_JOB_HOST, event.reason)
                log.error("no job host: %s", event.reason)
                self._stand()
            case _:
                self._on_job_event(event)
        # Last: the job that tells it has its own turn first.
        self._fitness.heard(event)
        self._disk.heard(event)

    def _on_job_event(self, event: JobEvent) -> None:
        if isinstance(event, Prepared) and not self._outbox.reserve(event.claim):
            self._do([Drop(event.claim), *self._jobs.no_host(event.claim, "the worker's disk is full")])
            return
        log_start = log_size(event.log_path) if isinstance(event, Prepared) else 0
        self._do(about_job(self._jobs, event, self._hosts.current, log_start))

    # What the table wants

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            # One that fails keeps none of the others from being done.
            with self._faults.contained(f"a step of a job ({type(action).__name__})"):
                self._carrier.carry_out(action)
        if actions and not len(self._jobs) and not self._wishes.takes_new:
            # The last one is gone: whoever waits for that at the centre sees it now.
            self._link.send(self.status())
        if self._wishes.leaving and not len(self._jobs):
            self._link.leave(Bye(reason="drained", maintenance=self._wishes.maintenance))

    def _on_log_flushed(self, claim: ClaimId, log_end: int) -> None:
        self._do(self._jobs.log_flushed(claim, log_end))

    # Running

    async def run(self) -> None:
        """Run until told to leave.

        Raises:
            EdgeWsError: refused for good, or misconfigured.
        """
        self._health.bind()
        self._do(self._jobs.restore(self._outbox.load(), self._outbox.load_dead()))
        failed: EdgeWsError | None = None
        async with anyio.create_task_group() as tasks:
            # To the very end: also while job hosts are waited for, a second signal ends the daemon at once.
            tasks.start_soon(self._faults.keep, "the watch for signals", self._worker_drain.heed_signals)
            tasks.start_soon(self._faults.keep, "the word to systemd", self._watchdog.run)
            failed = await self._serve()
            tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _serve(self) -> EdgeWsError | None:
        """Run all parts until told to leave, and have the job hosts leave; return why that failed."""
        failed: list[EdgeWsError] = []
        control = ControlServer(self._state.path, self, self._faults)
        try:
            async with anyio.create_task_group() as tasks:
                self._running = tasks.cancel_scope
                for what, loop in (
                    ("the watch over the job hosts", self._hosts.run),
                    ("the delivery of logs", self._logs.run),
                    ("the delivery of outcomes", self._deliveries.run),
                    ("the clock of the drain", self._worker_drain.run),
                    ("the watch over this host's fitness", self._fitness.run),
                    ("the watch over its disks", self._disk.run),
                    ("the local socket", control.run),
                    ("the repetition of reports", partial(self._sender.run, self._logs)),
                    ("the watch over this loop", self._vitals.run),
                    ("the site's own facts", self._facts.of.site.run),
                    ("the health port", self._health.run),
                ):
                    tasks.start_soon(self._faults.keep, what, loop)
                await self._faults.keep("the link", self._link.run)
                tasks.cancel_scope.cancel()
        except* EdgeWsError as group:
            failed.extend(flat(group))
        if failed or (self._wishes.leaving and not self.runs_anything):
            self._retiring = True
            for job in self._jobs.all():
                # What has ended and is not acknowledged waits in the outbox: the hosts need not keep it.
                if not job.has_process:
                    self._hosts.forget(job.claim)
            with anyio.CancelScope() as self._running:
                await self._hosts.retire()
        return failed[0] if failed else None
