"""A remote machine: its disk, its job hosts and the processes of its jobs. The daemon comes and goes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_ws.host.supervision import Supervision
from edge_ws.protocol.ids import HOST, UNSURE, ClaimId, HostId, SiteId, WorkerName
from edge_ws.worker.host_events import (
    Dropped,
    HostEvent,
    HostGone,
    HostJob,
    HostUp,
    JobEnded,
    JobNotStarted,
    JobOwes,
    JobStarted,
    Prepared,
    PrepareRefused,
)
from edge_ws.worker.job import Record
from edge_ws.worker.outcomes import Call
from edge_ws.worker.wishes import Request
from tests.simulation.airflow import Airflow
from tests.simulation.world import Violation, World

SUPERVISOR_S = 5.0
"""Beyond the grace, for a supervisor to stop its task."""
GRACE_S = 5.0


class Outbox:
    """The folder of records: what is written is on the disk."""

    def __init__(self) -> None:
        self.records: dict[ClaimId, Record] = {}
        self.dead: tuple[HostId, ...] = ()

    def reserve(self, _claim: ClaimId) -> bool:
        return True

    def save(self, record: Record) -> bool:
        self.records[record.claim] = record
        return True

    def drop(self, claim: ClaimId) -> None:
        self.records.pop(claim, None)

    def save_dead(self, hosts: Sequence[HostId]) -> bool:
        self.dead = tuple(hosts)
        return True

    def load_dead(self) -> list[HostId]:
        return list(self.dead)

    def load(self) -> list[Record]:
        return [self.records[claim] for claim in sorted(self.records)]


class Site:
    """One state directory on one machine."""

    def __init__(
        self, world: World, airflow: Airflow, worker: WorkerName, *, copy_of: Site | None = None
    ) -> None:
        self.world, self.airflow, self.worker = world, airflow, worker
        self.id: SiteId = SiteId(world.id("s")) if copy_of is None else copy_of.id
        self.machine = str(worker) if copy_of is None else world.id(f"{worker}-")
        """What Airflow knows it by."""
        self.outbox = Outbox()
        self.files: dict[str, bytearray] = {}
        self.hosts: list[Host] = []
        """Those whose files lie in the hosts' directory, living or not."""
        self.processes: dict[ClaimId, Process] = {}
        self.api_cut_off = False
        self.line, self.chunk = b"", 40
        """What each line of a log ends with, and how much of a log is read at a time."""
        self.is_broken = False
        """Nothing can be started there: its log folder cannot be written, say."""
        self.request: Request | None = None
        self.proven: bool = copy_of is not None and copy_of.proven
        """A gateway has let its worker in before."""
        self.on_write: Callable[[], None] = lambda: None

    def prove(self) -> None:
        self.proven = True

    def keep_request(self, request: Request) -> None:
        self.request = request

    def used(self) -> int:
        """Slots of processes that run (a waiting one that is dropped is as good as gone)."""
        return sum(one.slots for one in self.processes.values() if one.alive and one.token is not None)

    def pid(self) -> int:
        """Return a number that no living process has: it comes round again soon."""
        taken = {one.pid for one in self.processes.values() if one.alive}
        return self.world.rng.choice([number for number in range(1, 4 + len(taken)) if number not in taken])

    def write(self, path: str, data: bytes) -> int:
        file = self.files.setdefault(path, bytearray())
        file += data
        self.on_write()
        return len(file)


class _Client:
    def request(self) -> None:
        """Nothing is repeated here."""


class _Right:
    """Nobody else has it."""

    is_there = True

    def take(self) -> bool:
        return True


class SimSupervision(Supervision):
    """The real decisions about a task that is to be stopped, between the models of a host and of a supervisor.

    It is the line to the host, and Airflow's supervisor, too: what the real one asks of them is below.
    """

    def __init__(self, process: Process) -> None:
        super().__init__(self, _Right(), 0.0)  # type: ignore[arg-type]
        self._process, self._world = process, process.site.world
        self._rules = process.site.airflow.rules
        self._words: list[dict[str, Any]] = []
        self.client = _Client()
        self.process_log = logging.getLogger(__name__)
        self._exit_code: int | None = None
        self._last_heartbeat_attempt = self._last_successful_heartbeat = 0.0

    def told(self, reason: str, grace_s: float, *, look: bool) -> None:
        """Hear the host's word."""
        look = look and self._rules.airflow_is_the_judge
        self._words.append({"stop": {"reason": reason, "grace_s": grace_s, "look": look}})
        if self._process.ran:
            self._begin_to_stop()
        else:
            self._world.at(grace_s + SUPERVISOR_S, self._process.never_begins)

    def begun(self) -> None:
        """The task runs: what the host has said until then is heard now."""
        if self._words:
            self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        if self._rules.cancels_wake:
            self._world.at(self._world.within(0.001, 0.05), self._turn)
        # Asked twice at the most, then SIGTERM and SIGKILL.
        grace_s = self._words[-1]["stop"]["grace_s"]
        self._world.at(2 * grace_s + SUPERVISOR_S, self._process.must_be_over)

    def _turn(self) -> None:
        """One turn of the supervisor's loop."""
        if not self._process.alive or self._exit_code is not None:
            return
        self._hear()
        self._obey(self)
        order = self._order
        if order is not None and self._rules.decides_without_airflow:
            self._world.at(max(0.0, order.due_at - self._world.now) + 0.001, self._turn)

    def beat(self) -> None:
        """Send the heartbeat that is due anyway."""
        if self._exit_code is None:
            self._send_heartbeat_if_needed()

    # What the line does

    def copy(self) -> Any:
        raise AssertionError

    def hear(self) -> list[dict[str, Any]]:
        words, self._words = self._words, []
        return words

    def say(self, **words: Any) -> None:
        if "left" in words:
            self._world.note("Airflow lets %s go on", self._process.name)
            self._process.host.left(self._process)

    # What Airflow's supervisor does

    def _send_heartbeat_if_needed(self) -> None:
        process = self._process
        if process.says_nothing_more:
            return
        self._last_heartbeat_attempt = self._world.now
        if not process.reaches_airflow:
            return
        if process.site.airflow.heartbeat(process.subject, process):
            self._last_successful_heartbeat = self._world.now
        else:
            self._world.note("heartbeat of %s is refused", process.name)
            self.kill()

    def kill(self, *_: object, **__: Any) -> None:
        # The real one returns when the task has ended.
        self._exit_code = -15
        self._process.terminate(self._grace_s or GRACE_S)


class Process:
    """A supervisor with its task, below a host."""

    is_edge3 = False

    def __init__(self, host: Host, claim: ClaimId, payload: str) -> None:
        body = json.loads(payload)
        self.site, self.host, self.claim = host.site, host, claim
        self.subject, self.path = body["ti"]["id"], body["log_path"]
        self.worker, self.name, self.pid = host.site.worker, f"{claim} on {host.id}", host.site.pid()
        self.machine = host.site.machine
        self.alive = self.well = True
        self.token: str | None = None
        self.slots = 1
        self.ran = False
        self.wrote = 0
        self._has_told = False
        """Airflow knows its outcome; what goes on are its callbacks."""
        self.owes = False
        self.supervision = SimSupervision(self)
        self.has_ended = False
        """Its end is safe on its machine's disk: its host may die now."""
        self._tries = 0
        host.site.processes[claim] = self
        host.site.airflow.is_to_start(self.subject, claim, self.worker)

    def start(self, token: str) -> None:
        self.token = token
        world = self.site.world
        # A machine that stalls may ask long after its `go`.
        world.at(world.within(20.0, 90.0) if world.chance(0.03) else world.within(0.02, 1.0), self._ask)

    def _ask(self) -> None:
        if not self.alive:
            return
        world, airflow = self.site.world, self.site.airflow
        if self.site.is_broken:
            airflow.could_not_start(self.subject, self.worker)
            self.host.not_started(self, "the log folder cannot be written", HOST)
            return
        self._tries += 1
        if self.site.api_cut_off or airflow.api_away or world.chance(0.02):
            self._ask_again()
            return
        assert self.token is not None
        subject, until = self.token.split("|")
        ok = airflow.run(subject, self, float(until))
        world.note("/run of %s by %s (pid %s): %s", subject, self.name, self.pid, ok)
        if world.chance(0.03):
            self._ask_again()
        elif ok:
            world.at(world.within(0.001, 0.2), self._begin)
        else:
            world.at(world.within(0.001, 0.2), self.host.not_started, self, "Airflow refused")

    def _ask_again(self) -> None:
        if self._tries < 5:
            self.site.world.at(self.site.world.within(1.0, 20.0), self._ask)
        else:
            # If an answer was lost, Airflow believes that it runs.
            self.well = False
            self.host.not_started(self, "Airflow cannot be reached", UNSURE)

    def _begin(self) -> None:
        if not self.alive:
            return
        world = self.site.world
        self.ran = True
        self.host.started(self)
        self._log("begins")
        ti = self.site.airflow.all.get(self.subject)
        self._result = ti.plan[min(ti.round, len(ti.plan) - 1)] if ti is not None else "success"
        lasts = world.within(30.0, 150.0) if world.chance(0.2) else world.within(0.05, 15.0)
        world.at(lasts / 2, self._log, "works")
        world.at(lasts, self._finish, 0)
        world.at(world.within(2.0, 20.0), self._beat)
        self.supervision.begun()

    def _log(self, what: str) -> None:
        if self.alive:
            self.wrote = self.site.write(self.path, f"{self.claim} {what}".encode() + self.site.line + b"\n")

    def _beat(self) -> None:
        if not self.alive or not self.ran or self._result == "":
            return
        self.supervision.beat()
        self.site.world.at(30.0, self._beat)

    @property
    def reaches_airflow(self) -> bool:
        return not (self.site.api_cut_off or self.site.airflow.api_away)

    @property
    def says_nothing_more(self) -> bool:
        """Whether it has reported its task's outcome, or tried to: then it has no more heartbeats."""
        return self._result == ""

    def _finish(self, tries: int) -> None:
        if not self.alive:
            return
        world, airflow = self.site.world, self.site.airflow
        if self._result == "crash":
            self.well = False
            world.note("%s crashes", self.name)
            self._exit(-9)
            return
        if not self.reaches_airflow:
            if tries < 4:
                world.at(world.within(0.5, 4.0), self._finish, tries + 1)
            else:
                self._owe()
            return
        result, self._result = self._result, ""
        retries = result == "fail" and airflow.may_retry(self.subject)
        ok = airflow.finish(self.subject, self, result)
        world.note("%s says %s: %s", self.name, result, ok)
        if result == "fail" and not retries:
            # Of a failure for good its supervisor tells when it has ended.
            self._log("ends")
            self._exit(0 if ok else 1)
            return
        self._has_told = ok
        # Callbacks, listeners and mails.
        lasts = world.within(5.0, 60.0) if world.chance(0.2) else 2.0
        world.at(world.within(0.01, lasts), self._log, "ends")
        world.at(world.within(lasts, lasts + 0.5), self._exit, 0 if ok else 1)

    def _owe(self) -> None:
        """Airflow's client gives up."""
        world = self.site.world
        result, self._result = self._result, ""
        world.note("%s cannot tell that it came to %s", self.name, result)
        self.owes = True
        if self.site.airflow.rules.keeps_outcomes:
            self.host.owes(self, result)
        lasts = world.within(5.0, 60.0) if world.chance(0.2) else 2.0
        world.at(world.within(0.01, lasts), self._log, "ends")
        world.at(world.within(lasts, lasts + 0.5), self._exit, 0)

    def told(self) -> None:
        """Airflow has its outcome from the daemon."""
        self.owes, self._has_told = False, True

    def _exit(self, code: int) -> None:
        if self.alive:
            self.alive = False
            self.site.world.at(self.site.world.within(0.001, 0.1), self.host.ended, self, code)

    def terminate(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL."""
        world = self.site.world
        if self._has_told and self.alive:
            raise Violation(f"{self.name} is stopped although it has told its end itself")
        if self.reaches_airflow and self.site.airflow.counts_as_running(self.subject, self):
            raise Violation(f"{self.name} is stopped although Airflow lets it run")
        self.well = False
        world.note("%s is stopped", self.name)
        world.at(world.within(0.1, grace_s + 0.5), self._exit, -15)

    def never_begins(self) -> None:
        """Its host kills it, as it was to be stopped and has not begun."""
        if not self.ran:
            self.well = False
            self._exit(-9)

    def must_be_over(self) -> None:
        """Some time after it was to be stopped: it has ended, or Airflow lets it go on."""
        counts = self.site.airflow.counts_as_running(self.subject, self)
        if self.alive and not counts and not self.says_nothing_more:
            raise Violation(f"{self.name} was to be stopped, and goes on")

    def kill(self) -> None:
        self.alive = self.well = False


@dataclass(slots=True)
class _Job:
    claim: ClaimId
    process: Process
    phase: str = "prepared"
    exit_code: int | None = None
    detail: str = ""
    fault: str = ""
    dropped: bool = False
    stopping: bool = False
    outcome: str = ""
    owed: Call | None = None

    def told(self) -> HostJob:
        return HostJob(
            claim=self.claim,
            phase=self.phase,
            log_path=self.process.path,
            exit_code=self.exit_code,
            detail=self.detail,
            log_uploaded=False,
            fault=self.fault,
            outcome=self.outcome,
            owed=self.owed,
            handed_over=self.owed is not None,
        )


class Host:
    """One life of a job host; see `edge_ws.host.jobs`. Its journal is safe before it tells anybody."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.id = HostId(site.world.id("h"))
        self.alive = True
        self.ready = False
        self.attached: Hosts | None = None
        self.jobs: dict[ClaimId, _Job] = {}
        self.on_end: Callable[[], None] = lambda: None
        """Called when one of its processes has ended, and its journal says so."""
        self.journal: tuple[HostJob, ...] = ()
        self._in = self._out = 0.0
        site.hosts.append(self)
        site.world.at(site.world.within(0.5, 3.0), self._load)

    def _load(self) -> None:
        self.ready = True
        self._hello()

    # The daemon's connection: ordered, and lost with the daemon

    def attach(self, hosts: Hosts) -> None:
        self.attached = hosts
        self._hello()

    def _hello(self) -> None:
        if self.ready:
            self._say(HostUp(self.id, tuple(job.told() for job in self.jobs.values()), {}, accepts=True))

    def _say(self, event: HostEvent) -> None:
        self.journal = tuple(job.told() for job in self.jobs.values())
        hosts, world = self.attached, self.site.world
        if hosts is not None and hosts.running:
            self._out = max(self._out, world.now + world.within(0.0005, 0.01))
            world.at(self._out - world.now, hosts.hear, self, event)

    def do(self, op: str, *args: Any) -> None:
        """Take a wish of the daemon's, a moment later; one that is sent arrives even if the daemon dies."""
        world = self.site.world
        self._in = max(self._in, world.now + world.within(0.0005, 0.01))
        world.at(self._in - world.now, self._do, op, args)

    def _do(self, op: str, args: tuple[Any, ...]) -> None:
        if self.alive:
            getattr(self, f"_{op}")(*args)

    def _prepare(self, claim: ClaimId, payload: str, slots: int) -> None:
        if claim not in self.jobs:
            if "invalid" in payload:
                self._say(PrepareRefused(claim, "the payload is invalid", invalid=True))
                return
            if self.site.world.chance(0.02):
                self._say(PrepareRefused(claim, "no room for another process"))
                return
            self.jobs[claim] = _Job(claim, Process(self, claim, payload))
            self.jobs[claim].process.slots = slots
        if self.jobs[claim].phase == "prepared":
            self._say(Prepared(claim, self.id, self.jobs[claim].process.path))

    def _go(self, claim: ClaimId, token: str) -> None:
        job = self.jobs.get(claim)
        if job is None:
            self._say(JobNotStarted(claim, self.id, "this job host does not know the claim"))
        elif job.phase == "prepared" and not job.dropped:
            job.phase = "going"
            self.journal = tuple(one.told() for one in self.jobs.values())
            job.process.start(token)

    def _drop(self, claim: ClaimId) -> None:
        job = self.jobs.get(claim)
        if job is None:
            self._say(Dropped(claim))
        elif job.phase == "prepared":
            job.dropped = True
            job.process.kill()
            self.site.world.at(0.01, self._dropped, claim)

    def _dropped(self, claim: ClaimId) -> None:
        if self.alive and self.jobs.pop(claim, None) is not None:
            self._say(Dropped(claim))

    def _cancel(self, claim: ClaimId, grace_s: float, reason: str, look: bool) -> None:
        job = self.jobs.get(claim)
        if job is None or not job.process.alive or job.stopping:
            return
        if job.phase == "prepared":
            self._drop(claim)
        else:
            job.stopping = True
            job.process.supervision.told(reason, grace_s, look=look)

    def left(self, process: Process) -> None:
        """Hear that Airflow lets a task go on that was to be stopped."""
        if (job := self.jobs.get(process.claim)) is not None:
            job.stopping = False

    def _forget(self, claim: ClaimId) -> None:
        job = self.jobs.get(claim)
        if job is not None and not job.process.alive:
            del self.jobs[claim]

    # Its children

    def started(self, process: Process) -> None:
        job = self.jobs.get(process.claim)
        if self.alive and job is not None and job.phase == "going":
            job.phase = "started"
            self._say(JobStarted(process.claim, self.id))

    def not_started(self, process: Process, reason: str, fault: str = "") -> None:
        if not process.alive:
            return
        process.alive = False
        self.site.world.at(0.02, self._never, process, reason, fault)

    def _never(self, process: Process, reason: str, fault: str = "") -> None:
        job = self.jobs.get(process.claim)
        if self.alive and job is not None:
            job.phase, job.detail, job.fault = "not_started", reason, fault
            self._say(JobNotStarted(process.claim, self.id, reason, fault))

    def ended(self, process: Process, code: int) -> None:
        job = self.jobs.get(process.claim)
        if not self.alive or job is None or job.phase in {"ended", "not_started"}:
            return
        if not process.ran:
            self._never(process, "it was stopped before the task began")
            return
        process.has_ended = True
        job.phase, job.exit_code, job.detail = "ended", code, "" if code == 0 else f"exit code {code}"
        self._say(
            JobEnded(
                process.claim,
                self.id,
                code,
                job.detail,
                log_uploaded=False,
                outcome=job.outcome,
                owed=job.owed,
            )
        )
        self.on_end()

    def owes(self, process: Process, result: str) -> None:
        job = self.jobs.get(process.claim)
        if self.alive and job is not None and job.phase == "started":
            job.outcome = result
            job.owed = Call(method="PATCH", path=process.subject, headers={}, body=result)
            self._say(JobOwes(process.claim, self.id, result, job.owed))
        else:
            # Nobody is there to hear it, and soon nothing of it is left.
            process.owes = False

    def die(self, *, all_of_it: bool) -> None:
        """SIGKILL: what waits sees its socket close and goes; what runs stays, until it is buried."""
        self.site.world.note("host %s dies", self.id)
        self.alive = False
        for job in self.jobs.values():
            if all_of_it or job.phase == "prepared":
                job.process.kill()
        if self.attached is not None and self.attached.running:
            self.site.world.at(self.site.world.within(0.01, 0.3), self.attached.bury, self)


@dataclass(slots=True)
class _Life:
    host: Host
    wanted: bool
    up: bool = False
    preparing: set[ClaimId] = field(default_factory=set)
    forgotten: set[ClaimId] = field(default_factory=set)


class Hosts:
    """The daemon's side of its hosts; see `edge_ws.worker.host_client`."""

    def __init__(self, site: Site, on_event: Callable[[HostEvent], None]) -> None:
        self._site, self._on_event = site, on_event
        self.running = True
        self._lives: dict[HostId, _Life] = {}
        self._claims: dict[ClaimId, _Life] = {}

    @property
    def current(self) -> HostId | None:
        return next((life.host.id for life in self._lives.values() if life.wanted and life.up), None)

    @property
    def alive(self) -> tuple[HostId, ...]:
        return tuple(self._lives)

    def start(self) -> None:
        world = self._site.world
        adopted = False
        for host in list(self._site.hosts):
            # One that is dead is taken for living until somebody looks.
            wanted = not adopted
            adopted = adopted or wanted
            self._lives[host.id] = _Life(host, wanted)
            world.at(world.within(0.01, 0.5), self._attend, host)
        if not adopted:
            self._launch()

    def _attend(self, host: Host) -> None:
        if not self.running:
            return
        if host.alive:
            host.attach(self)
        else:
            self.bury(host)

    def _launch(self) -> None:
        if self.running and not any(life.wanted for life in self._lives.values()):
            host = Host(self._site)
            self._lives[host.id] = _Life(host, wanted=True)
            host.attached = self

    def bury(self, host: Host) -> None:
        """Kill what it left, then tell what its journal says."""
        if not self.running or host.id not in self._lives:
            return
        for job in host.jobs.values():
            if job.process.alive:
                self._site.world.note("what is left of %s is killed", job.process.name)
                job.process.kill()
        life = self._lives.pop(host.id)
        self._claims = {claim: other for claim, other in self._claims.items() if other is not life}
        for claim in sorted(life.preparing):
            self._on_event(PrepareRefused(claim, "the job host died before the job was ready"))
        if host.ready:
            jobs = tuple(job for job in host.journal if job.claim not in life.forgotten)
            self._on_event(HostGone(host.id, jobs))
        self._site.hosts.remove(host)
        self._site.world.at(self._site.world.within(0.1, 2.0), self._launch)

    def hear(self, host: Host, event: HostEvent) -> None:
        life = self._lives.get(host.id)
        if not self.running or life is None:
            return
        if isinstance(event, HostUp):
            life.up = True
            for job in event.jobs:
                self._claims[job.claim] = life
            event = HostUp(event.host, event.jobs, event.versions, life.wanted)
        elif not isinstance(event, HostGone):
            claim = event.claim  # type: ignore[union-attr]
            life.preparing.discard(claim)
            if isinstance(event, PrepareRefused | Dropped):
                self._claims.pop(claim, None)
        self._on_event(event)

    # What the daemon wants

    def prepare(self, claim: ClaimId, payload: str, server: str, proxy: str | None) -> None:
        current = self.current
        if current is None:
            self._site.world.at(0.0, self._on_event, PrepareRefused(claim, "no job host is ready"))
            return
        life = self._claims[claim] = self._lives[current]
        life.preparing.add(claim)
        life.host.do("prepare", claim, payload, self.slots_of(claim))

    slots_of: Callable[[ClaimId], int]

    def go(self, claim: ClaimId, token: str, grace_s: float) -> None:
        self._say(claim, "go", token)

    def drop(self, claim: ClaimId) -> None:
        self._say(claim, "drop")

    def cancel(self, claim: ClaimId, grace_s: float, reason: str, *, look: bool = False) -> None:
        self._say(claim, "cancel", grace_s, reason, look)

    def forget(self, claim: ClaimId) -> None:
        if life := self._claims.pop(claim, None):
            life.forgotten.add(claim)
            life.host.do("forget", claim)

    def _say(self, claim: ClaimId, op: str, *args: Any) -> None:
        if life := self._claims.get(claim):
            life.host.do(op, claim, *args)


__all__ = ["Host", "Hosts", "Outbox", "Process", "Site", "Violation"]
