"""The store's verbs over dictionaries: the same names, the same rules. `tests/store/test_machine.py` ties it to the real one.

Each clause of a rule can be switched off, so that a test can show that the simulation notices.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from edge_ws.errors import RefusedError
from edge_ws.protocol.frames import (
    Accept,
    Applied,
    Asked,
    Bye,
    Finished,
    Log,
    NotStarted,
    PhaseIs,
    Refuse,
    Started,
)
from edge_ws.protocol.ids import (
    CALLBACK_DAG_ID,
    HOST,
    UNSURE,
    ClaimId,
    GatewayId,
    HostId,
    LifeId,
    SiteId,
    WorkerName,
)
from edge_ws.protocol.states import Phase, phases_before
from edge_ws.store.claims import ClaimStore
from edge_ws.store.database import Failed, fail
from edge_ws.store.dispatch import DispatchStore
from edge_ws.store.faults import Faults
from edge_ws.store.jobs import EDGE3_OWN_S, JobStore
from edge_ws.store.live import REPORTED
from edge_ws.store.liveness import LivenessStore
from edge_ws.store.records import (
    RETURNS,
    Accepted,
    Assignment,
    Candidate,
    Claimed,
    EndedJob,
    JobKey,
    LogBounds,
    NewJob,
    NewWish,
    OpenClaim,
    Owing,
    Principal,
    Registered,
    Registration,
    Room,
    Verdict,
    WishRecord,
)
from edge_ws.store.reports import ClaimReport, Outcome, ReportStore
from edge_ws.store.retention import RetentionStore
from edge_ws.store.tokens import TokenStore
from edge_ws.store.workers import WorkerStore
from tests.simulation.world import Violation

OPEN = ("restarting", "running")
SEEN_S = 45.0
LOST_S = 600.0
LIFELESS_S = 300.0
NOTHING_WISHED = WishRecord(revision=0, concurrency=None, queues=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What may be left out, one at a time, to see that it is missed."""

    live_checks_claim: bool = True
    live_checks_worker: bool = True
    live_checks_state: bool = True
    offers_expire: bool = True
    starts_are_waited_for: bool = True
    """An accepted claim keeps its job until its last token is over."""
    queries: bool = True
    one_site_per_name: bool = True
    host_dead_ends: bool = True
    host_dead_names_host: bool = True
    ends_check_worker: bool = True
    """A row has not ended only while the open claim it carries is its worker's: edge3 leaves old ones there."""
    cancels_are_answered: bool = True
    """A worker that is to stop what it does not know says so: a net below all the others."""
    asks_why_an_id_is_gone: bool = True
    """An id that Airflow does not know any more may be that of a retry, which the task itself has reported."""
    goes_elsewhere: bool = True
    """A job that a worker could not start through its own fault goes to others."""
    keeps_outcomes: bool = True
    """An outcome that Airflow has not taken is kept, and delivered when it can be."""
    spares_the_ended: bool = True
    """What had ended before its host died is not lost with it."""
    rejudges: bool = True
    """What the reaper decided is carried out only if what it judged by still holds."""
    refuses_twins: bool = True
    """Two lives of a daemon that take each other's place live both: one is refused in the end."""
    only_former_lives_return: bool = True
    """A life that is new takes the place of a dead one: of that nobody is refused."""
    late_hellos_are_no_twins: bool = True
    """A life that comes back once may be a late message of its own."""
    ends_unwanted: bool = True
    """A row that nobody holds and that nothing waits for is ended."""
    spares_the_wanted: bool = True
    """A row that something waits for is not."""
    spares_the_held: bool = True
    """What a claim holds is settled by it."""
    rejudges_unwanted: bool = True
    """A row is judged again once it is locked."""
    airflow_is_the_judge: bool = True
    """A task is stopped by a cancel only if Airflow says so."""
    cancels_wake: bool = True
    """A cancel has the supervisor ask at once."""
    decides_without_airflow: bool = True
    """A cancel about which Airflow cannot be asked is carried out."""
    messages_shrink: bool = True
    """After a message that did not pass, smaller ones are tried."""
    silence_is_noticed: bool = True
    """That nothing passes a WebSocket after a large message is found out."""
    sets_aside: bool = True
    """What does not pass although it is small keeps nothing back for ever."""


@dataclass(slots=True)
class Row:
    key: JobKey
    state: str
    queue: str
    slots: int
    command: str
    owner: int | None
    priority: int = 1
    team: str | None = None
    worker: str | None = None
    claim: ClaimId | None = None
    queued_at: float = 0.0
    updated_at: float = 0.0
    faults: dict[WorkerName, str] = field(default_factory=dict)
    is_foreign: bool = False
    """Its state is what edge3 wrote last."""

    @property
    def subject(self) -> str:
        return str(json.loads(self.command)["ti"]["id"])


@dataclass(slots=True)
class Claim:
    id: ClaimId
    key: JobKey
    subject: str
    worker: WorkerName
    site: SiteId
    slots: int
    lease_until: float | None
    phase: Phase = Phase.OFFERED
    host: HostId | None = None
    result: str | None = None
    detail: str = ""
    ended_at: float | None = None
    log: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Worker:
    site: SiteId
    gateway: GatewayId | None
    connection: str
    seen_at: float
    wish: WishRecord = NOTHING_WISHED
    wanted_concurrency: int | None = None
    wanted_maintenance: bool = False
    """edge3's columns: what an operator wrote."""
    asked: int = 0
    local_concurrency: int = 0
    life: LifeId | None = None
    former_lives: set[LifeId] = field(default_factory=set)
    former_connections: set[str] = field(default_factory=set)
    returns: int = 0


class ModelStore:
    """The verbs. Every one is a transaction: nothing comes between."""

    def __init__(
        self,
        now: Callable[[], float],
        name_claim: Callable[[JobKey], ClaimId],
        rules: Rules = Rules(),
        on_change: Callable[[Row], None] = lambda _: None,
        on_delete: Callable[[Row], None] = lambda _: None,
        *,
        on_twin: Callable[[WorkerName], None] = lambda _: None,
    ) -> None:
        self._now = now
        self._name_claim = name_claim
        self.rules = rules
        self._on_change = on_change
        self._on_delete = on_delete
        self._on_twin = on_twin
        self._connections = 0
        self.rows: dict[JobKey, Row] = {}
        self.claims_by_id: dict[ClaimId, Claim] = {}
        self.workers_by_name: dict[WorkerName, Worker] = {}
        self.purged: dict[ClaimId, Claim] = {}
        self.left_behind: set[ClaimId] = set()
        """Given up since their worker's name had been another machine's for so long."""
        # One object plays every role: the verbs share its rows.
        self.dispatch = cast("DispatchStore", self)
        self.claims = cast("ClaimStore", self)
        self.reports = cast("ReportStore", self)
        self.workers = cast("WorkerStore", self)
        self.liveness = cast("LivenessStore", self)
        self.retention = cast("RetentionStore", self)
        self.jobs = cast("JobStore", self)
        self.tokens = cast("TokenStore", self)

    # The live predicate

    def _held(self, claim: Claim) -> Row | None:
        row = self.rows.get(claim.key)
        if row is None or claim.phase is Phase.ENDED:
            return None
        rules = self.rules
        if rules.live_checks_claim and row.claim != claim.id:
            return None
        if rules.live_checks_worker and row.worker != claim.worker:
            return None
        return None if rules.live_checks_state and row.state == "queued" else row

    def _find_live(
        self, claim_id: ClaimId, worker: WorkerName, site: SiteId | None
    ) -> tuple[Claim, Row] | None:
        claim = self.claims_by_id.get(claim_id)
        if claim is None or (claim.worker, claim.site) != (worker, site):
            return None
        row = self._held(claim)
        if row is None:
            return None
        if row.state not in OPEN:
            self._set(row, state=_row_state(claim.phase))
        return claim, row

    def _set(self, row: Row, *, state: str | None = None, foreign: bool = False) -> None:
        row.updated_at = self._now()
        row.is_foreign = foreign
        if state is not None and state != row.state:
            row.state = state
            self._on_change(row)

    def open(self) -> list[Claim]:
        """Return the claims that are live (or will be, once an end state is put back)."""
        return [
            claim
            for claim in self.claims_by_id.values()
            if claim.phase is not Phase.ENDED and self._held(claim)
        ]

    def slots(self, worker: WorkerName) -> int:
        """Return the slots of the worker's open claims."""
        return sum(claim.slots for claim in self.open() if claim.worker == worker)

    def _back_to_queue(self, claim: Claim, row: Row, result: str, detail: str) -> None:
        claim.phase, claim.result, claim.detail, claim.ended_at = Phase.ENDED, result, detail, self._now()
        row.worker = row.claim = None
        self._set(row, state="queued")

    def _end(self, claim: Claim, row: Row, result: str, state: str, detail: str) -> None:
        claim.phase, claim.result, claim.detail, claim.ended_at = Phase.ENDED, result, detail, self._now()
        claim.lease_until = None
        self._set(row, state=state)

    # The executor

    def enqueue(self, job: NewJob) -> None:
        row = self.rows[job.key] = Row(
            key=job.key,
            state="",
            queue=job.queue,
            slots=job.slots,
            command=job.command,
            owner=job.owner,
            priority=job.priority,
            team=job.team,
            queued_at=self._now(),
        )
        self._set(row, state="queued")

    def ended(self, owner: int) -> list[EndedJob]:
        found = []
        for row in self.rows.values():
            if row.owner != owner or row.state == "queued" or row.state in OPEN:
                continue
            claim = self.claims_by_id.get(row.claim) if row.claim else None
            if claim is not None and (claim.key != row.key or self._is_another_workers(claim, row)):
                claim = None
            if claim is not None and claim.phase is not Phase.ENDED:
                continue
            state = row.state if row.state in {"success", "failed"} else "removed"
            if state == "removed" and claim is not None and claim.result == "not_started":
                state = "not_started"
            detail = claim.detail if claim is not None else ""
            found.append(EndedJob(key=row.key, state=state, subject=row.subject, detail=detail))
        return found

    def _is_another_workers(self, claim: Claim, row: Row) -> bool:
        return self.rules.ends_check_worker and claim.worker != row.worker

    def reported(self, owner: int, keys: Sequence[JobKey]) -> None:
        for key in keys:
            row = self.rows.get(key)
            if row is not None and row.owner == owner and row.state != "queued" and row.state not in OPEN:
                row.owner = REPORTED

    def owned(self, owner: int) -> set[JobKey]:
        return {row.key for row in self.rows.values() if row.owner == owner}

    def adopt(self, owner: int, wanted: Mapping[JobKey, str]) -> dict[JobKey, str | None]:
        found: dict[JobKey, str | None] = {}
        for key, subject in wanted.items():
            row = self.rows.get(key)
            if row is None:
                continue
            found[key] = row.state if row.subject == subject else None
            if row.subject == subject:
                row.owner = owner
        return found

    def inherit(self, owner: int, living: Collection[int]) -> set[JobKey]:
        for row in self.rows.values():
            left = row.owner is not None and row.owner > 0 and row.owner not in {owner, *living}
            if left and row.state != "queued" and row.state not in OPEN:
                row.owner = REPORTED
        return set()

    def unwanted(
        self, owner: int | None, living: Collection[int], is_wanted: Callable[[Row], bool]
    ) -> list[JobKey]:
        """Return what `end_unwanted` finds; see `store.jobs`."""
        others, now, rules = {*living} - {owner}, self._now(), self.rules
        found = []
        for row in self.rows.values():
            queued = row.state == "queued"
            if row.owner is None:
                theirs = queued and row.queued_at < now - EDGE3_OWN_S
            else:
                claim = self.claims_by_id.get(row.claim) if row.claim is not None else None
                held = rules.spares_the_held and claim is not None and self._held(claim) is not None
                left = row.state in OPEN and row.updated_at < now - LIFELESS_S and not held
                theirs = row.owner not in others and (queued or left)
            if theirs and not (rules.spares_the_wanted and is_wanted(row)):
                found.append(row.key)
        return found

    def end_unwanted(
        self, owner: int, living: Collection[int], is_wanted: Callable[[Row], bool], found: Collection[JobKey]
    ) -> list[JobKey]:
        """End what was found a moment ago."""
        if self.rules.rejudges_unwanted:
            found = set(found) & set(self.unwanted(owner, living, is_wanted))
        ended = [row for key in found if (row := self.rows.get(key)) is not None]
        for row in ended:
            claim = self.claims_by_id.get(row.claim) if row.claim is not None else None
            if claim is not None and self._held(claim):
                raise Violation(f"{claim.id} holds the row of {row.key.task_id}, which is ended as unwanted")
            row.owner = REPORTED
            row.claim = None
            self._set(row, state="removed")
        return [row.key for row in ended]

    def revoke(self, key: JobKey) -> None:
        row = self.rows.pop(key, None)
        if row is not None:
            self._on_delete(row)

    # edge3, which knows no claims

    def edge3_enqueue(self, job: NewJob) -> None:
        """Its executor's update of an existing row; a new one has no owner."""
        row = self.rows.get(job.key)
        if row is None:
            self.enqueue(job)
            self.rows[job.key].owner = None
            return
        row.queue, row.slots, row.command, row.priority = job.queue, job.slots, job.command, job.priority
        self._set(row, state="queued")

    def edge3_fetch(self, worker: str, key: JobKey) -> bool:
        row = self.rows.get(key)
        if row is None or row.state != "queued":
            return False
        row.worker = worker
        self._set(row, state="restarting")
        return True

    def edge3_patch(self, key: JobKey, state: str) -> None:
        row = self.rows.get(key)
        if row is not None:
            self._set(row, state=state, foreign=True)

    def edge3_delete(self, key: JobKey) -> None:
        self.revoke(key)

    # The worker

    def register(self, principal: Principal, said: Registration) -> Registered:
        name, now = principal.worker, self._now()
        before = self.workers_by_name.get(name)
        site = said.inventory.site
        is_here = before is not None and before.gateway is not None and before.seen_at > now - SEEN_S
        if self.rules.one_site_per_name and is_here and before is not None and before.site != site:
            raise RefusedError("name_in_use", f"{name} is in use")
        returns = self._returns(before, said)
        if returns >= (RETURNS if self.rules.late_hellos_are_no_twins else 1):
            self._on_twin(name)
            raise RefusedError("name_in_use", f"another daemon of {name} uses its state directory")
        self._connections += 1
        row = before or Worker(site, None, "", now)
        row.returns = returns
        if said.life != row.life:
            if row.life is not None:
                row.former_lives.add(row.life)
            row.life = said.life
        row.former_connections = {row.connection, *row.former_connections} if row.site == site else set()
        row.site, row.gateway, row.connection, row.seen_at = site, said.gateway, f"k{self._connections}", now
        if before is not None and before.site != site:
            row.asked = 0
        row.local_concurrency = said.concurrency
        self.workers_by_name[name] = row
        if said.inventory.asked is not None:
            self.take_in(principal, said.inventory.asked)
        wish = self._wish(row)
        return Registered(
            connection=row.connection, wish=wish, open=self._open_claims(lambda c: c.worker == name)
        )

    def _returns(self, before: Worker | None, said: Registration) -> int:
        """See `store.twins`."""
        rules = self.rules
        if not rules.refuses_twins or before is None or None in {said.life, before.life}:
            return 0
        if before.site != said.inventory.site:
            return 0
        if said.life == before.life:
            return before.returns
        is_here = before.gateway is not None and before.seen_at > self._now() - SEEN_S
        comes_back = said.life in before.former_lives or not rules.only_former_lives_return
        return before.returns + 1 if is_here and comes_back else 0

    @staticmethod
    def _wanted(row: Worker) -> WishRecord:
        return WishRecord(
            revision=row.wish.revision,
            concurrency=row.wanted_concurrency,
            queues=None,
            maintenance=row.wanted_maintenance,
            asked=row.asked,
        )

    def _wish(self, row: Worker) -> WishRecord:
        wanted = self._wanted(row)
        if wanted != row.wish:
            row.wish = replace(wanted, revision=row.wish.revision + 1)
        return row.wish

    def new_wishes(self, sent: Mapping[WorkerName, int], failed: Failed = fail) -> dict[WorkerName, NewWish]:
        found = {}
        for name, revision in sent.items():
            row = self.workers_by_name.get(name)
            if row is None or (self._wanted(row) == row.wish and row.wish.revision == revision):
                continue
            wish = self._wish(row)
            found[name] = NewWish(wish=wish, taken_back=self._take_back(name, row, wish))
        return found

    def _take_back(self, name: WorkerName, row: Worker, wish: WishRecord) -> tuple[ClaimId, ...]:
        slots = row.local_concurrency if wish.concurrency is None else wish.concurrency
        excess = self.slots(name) - slots
        offered = [one for one in self.open() if one.worker == name and one.phase is Phase.OFFERED]
        taken_back = []
        for claim in reversed(offered):
            job = self._held(claim)
            if job is not None and (wish.takes_nothing or excess > 0):
                self._back_to_queue(claim, job, "expired", "an operator wished otherwise")
                excess -= claim.slots
                taken_back.append(claim.id)
        return tuple(taken_back)

    def note_applied(
        self,
        principal: Principal,
        applied: Applied,
        room: Room | None = None,
        sysinfo: Mapping[str, object] | None = None,
    ) -> None:
        """Nothing that a rule looks at."""

    def take_in(self, principal: Principal, asked: Asked) -> None:
        row = self.workers_by_name.get(principal.worker)
        if row is not None and row.site == principal.site and row.asked < asked.number:
            row.asked, row.wanted_maintenance = asked.number, asked.maintenance

    def site_of(self, principal: Principal, connection_id: str) -> SiteId | None:
        row = self.workers_by_name.get(principal.worker)
        known = row is not None and connection_id in {row.connection, *row.former_connections}
        return row.site if row is not None and known else None

    def disconnected(self, principal: Principal, connection_id: str, *, left: Bye | None) -> bool:
        row = self.workers_by_name.get(principal.worker)
        if row is None or row.connection != connection_id:
            return False
        row.gateway = None
        for claim in list(self.claims_by_id.values()):
            if claim.worker == principal.worker and claim.phase is Phase.OFFERED:
                job = self._held(claim)
                if job is not None:
                    self._back_to_queue(
                        claim, job, "expired", "the worker's connection closed before it accepted"
                    )
        return True

    def accept(
        self, principal: Principal, claim_id: ClaimId, host: HostId, *, start_within_s: float
    ) -> Accepted | Verdict:
        found = self._find_live(claim_id, principal.worker, principal.site)
        if found is None:
            return Verdict.STALE
        claim, _ = found
        if claim.result is not None or (claim.phase is Phase.ACCEPTED and claim.host != host):
            return Verdict.STALE
        if claim.phase not in {Phase.OFFERED, Phase.ACCEPTED}:
            return Verdict.REPEATED
        claim.phase, claim.host, claim.lease_until = Phase.ACCEPTED, host, self._now() + start_within_s
        if not self.rules.starts_are_waited_for:
            claim.lease_until = self._now()
        return Accepted(subject=claim.subject, is_callback=claim.key.dag_id == CALLBACK_DAG_ID)

    def refuse(self, principal: Principal, claim_id: ClaimId, reason: str) -> Verdict:
        found = self._find_live(claim_id, principal.worker, principal.site)
        if found is None:
            return Verdict.STALE
        if found[0].phase is not Phase.OFFERED:
            return Verdict.REPEATED
        self._back_to_queue(*found, "refused", reason)
        return Verdict.DONE

    def started(self, principal: Principal, claim_id: ClaimId, host: HostId | None) -> Verdict:
        found = self._find_live(claim_id, principal.worker, principal.site)
        if found is None:
            return Verdict.STALE
        claim, row = found
        if claim.result != "lost" and claim.phase in phases_before(Phase.STARTED):
            claim.phase, claim.result, claim.lease_until = Phase.STARTED, None, None
            claim.host = host or claim.host
            self._set(row, state="running")
        return Verdict.DONE

    def finished(
        self, principal: Principal, claim_id: ClaimId, exit_code: int, detail: str, *, log_uploaded: bool
    ) -> Verdict:
        found = self._find_live(claim_id, principal.worker, principal.site)
        if found is None:
            claim = self.claims_by_id.get(claim_id)
            is_done = (
                claim is not None
                and (claim.worker, claim.site) == (principal.worker, principal.site)
                and claim.result in {"success", "failed"}
            )
            return Verdict.DONE if is_done else Verdict.STALE
        outcome = "success" if exit_code == 0 else "failed"
        self._end(*found, outcome, outcome, detail)
        return Verdict.DONE

    def not_started(self, principal: Principal, claim_id: ClaimId, reason: str, fault: str = "") -> Verdict:
        found = self._find_live(claim_id, principal.worker, principal.site)
        if found is None:
            return Verdict.STALE
        claim, row = found
        if fault != HOST:
            claim.result, claim.detail = "lost" if fault == UNSURE else "not_started", reason
            return Verdict.DONE
        row.faults[claim.worker] = reason
        faults = Faults(row.faults, self._has_others(row))
        if faults.is_hopeless:
            self._end(claim, row, "failed", "failed", faults.told())
        else:
            self._back_to_queue(claim, row, "not_started", reason)
        return Verdict.DONE

    def _has_others(self, row: Row) -> bool:
        return any(
            one.gateway is not None
            and one.seen_at > self._now() - SEEN_S
            and name not in row.faults
            and one.local_concurrency >= row.slots
            for name, one in self.workers_by_name.items()
        )

    def unknown(self, principal: Principal, claim_id: ClaimId) -> Verdict:
        found = self._find_live(claim_id, principal.worker, principal.site)
        if found is None:
            return Verdict.STALE
        claim, row = found
        if claim.phase is Phase.OFFERED:
            self._back_to_queue(claim, row, "refused", "the worker does not know the claim")
        elif claim.result != "lost":
            claim.result, claim.detail = "not_started", "the worker does not know the claim"
        return Verdict.DONE

    def host_dead(
        self, principal: Principal, host: HostId, ended: Collection[ClaimId] = ()
    ) -> tuple[ClaimId, ...]:
        detail = "the job host died, and its processes with it"
        spared = set(ended) if self.rules.spares_the_ended else set()
        lost = []
        for claim in list(self.claims_by_id.values()) if self.rules.host_dead_ends else []:
            named = claim.host == host or not self.rules.host_dead_names_host
            if (claim.worker, claim.site) != (principal.worker, principal.site):
                continue
            if not named or claim.phase is Phase.ENDED:
                continue
            if claim.id in spared:
                continue
            row = self._held(claim)
            if row is None:
                continue
            if claim.phase is Phase.STARTED:
                self._end(claim, row, "lost", "failed", detail)
            else:
                claim.result, claim.detail = "lost", detail
            lost.append(claim.id)
        return tuple(lost)

    def append_log(self, principal: Principal, claim_id: ClaimId, offset: int, data: bytes) -> int | Verdict:
        claim = self.claims_by_id.get(claim_id)
        whose = principal.worker, principal.site
        if claim is None or (claim.worker, claim.site) != whose or self._held(claim) is None:
            return Verdict.STALE
        # A state that edge3 wrote past the claim is left for the next report: log bytes lock no row.
        log = claim.log
        if offset <= len(log):
            log += data[len(log) - offset :]
        return len(log)

    def take(self, batch: Sequence[tuple[Principal, ClaimReport]], *, start_within_s: float) -> list[Outcome]:
        return [self._take(who, report, start_within_s) for who, report in batch]

    def _take(self, who: Principal, report: ClaimReport, start_within_s: float) -> Outcome:  # noqa: PLR0911
        match report:
            case Accept():
                return self.accept(who, report.claim, report.host, start_within_s=start_within_s)
            case Refuse():
                return self.refuse(who, report.claim, report.reason)
            case Started():
                verdict = self.started(who, report.claim, report.host)
                owes = report.owes and verdict is Verdict.DONE
                return Owing(subject=self.claims_by_id[report.claim].subject) if owes else verdict
            case Finished():
                return self.finished(
                    who, report.claim, report.exit_code, report.detail, log_uploaded=report.log_uploaded
                )
            case NotStarted():
                return self.not_started(who, report.claim, report.reason, report.fault)
            case PhaseIs(phase=Phase.UNKNOWN):
                return self.unknown(who, report.claim)
            case PhaseIs(phase=Phase.STARTED):
                return self.started(who, report.claim, report.host)
            case PhaseIs():
                return Verdict.DONE if self._find_live(report.claim, who.worker, who.site) else Verdict.STALE

    def log_sizes(self) -> dict[WorkerName, int]:
        """No log is long here."""
        return {}

    def append_logs(
        self, batch: Sequence[tuple[Principal, Log]], bounds: Mapping[WorkerName, LogBounds] | None = None
    ) -> list[int | Verdict]:
        return [self.append_log(who, frame.claim, frame.offset, frame.data) for who, frame in batch]

    # The gateway

    def mark_silent(self, failed: Failed = fail) -> list[tuple[WorkerName, str | None]]:
        """Show nobody anything: that is for people."""
        return []

    def purge(self, keep_s: float) -> None:
        over = self._now() - keep_s
        for claim in list(self.claims_by_id.values()):
            if claim.phase is not Phase.ENDED or claim.ended_at is None or claim.ended_at >= over:
                continue
            row = self.rows.get(claim.key)
            if row is not None and row.claim == claim.id:
                if row.owner != REPORTED or row.state == "queued" or row.state in OPEN:
                    continue
                del self.rows[row.key]
            del self.claims_by_id[claim.id]
            self.purged[claim.id] = claim

    def announce(
        self, gateway_id: GatewayId, hostname: str, pid: int, heartbeat_s: float = 15.0, **told: object
    ) -> float:
        """Return the time: nobody here asks which gateways there are."""
        return self._now()

    def beat(self, connections: Collection[str]) -> frozenset[str]:
        for name, row in self.workers_by_name.items():
            if row.connection in connections:
                row.seen_at = self._now()
                for claim in self.open():
                    if claim.worker == name and claim.phase is Phase.STARTED:
                        self.rows[claim.key].updated_at = self._now()
        return frozenset(row.connection for row in self.workers_by_name.values()) & frozenset(connections)

    def candidates(
        self,
        queues: Collection[str] | None,
        limit: int,
        *,
        teams: Collection[str] | None = None,
        widest: int | None = None,
    ) -> list[Candidate]:
        queued = [
            row
            for row in self.rows.values()
            if row.state == "queued"
            and (queues is None or row.queue in queues)
            and (teams is None or row.team in teams)
            and (widest is None or row.slots <= widest)
        ]
        queued.sort(key=lambda row: (-row.priority, row.queued_at))
        return [
            Candidate(
                key=row.key,
                queue=row.queue,
                slots=row.slots,
                priority=row.priority,
                team=row.team,
                waited_s=self._now() - row.queued_at,
                failed_on=frozenset(row.faults) if self.rules.goes_elsewhere else frozenset(),
            )
            for row in queued[:limit]
        ]

    def claim(self, gateway_id: GatewayId, chosen: Sequence[Assignment], lease_s: float) -> list[Claimed]:
        taken: dict[str, int] = defaultdict(int)
        for claim in self.open():
            taken[claim.worker] += claim.slots
        claimed = []
        for one in chosen:
            row = self.rows.get(one.key)
            room = one.concurrency - one.stale_slots - taken[one.worker]
            if (
                one.worker not in self.workers_by_name
                or one.slots > room
                or row is None
                or row.state != "queued"
            ):
                continue
            claim_id = self._name_claim(one.key)
            self.claims_by_id[claim_id] = Claim(
                id=claim_id,
                key=one.key,
                subject=row.subject,
                worker=one.worker,
                site=one.site,
                slots=one.slots,
                lease_until=self._now() + lease_s,
            )
            row.worker, row.claim = one.worker, claim_id
            self._set(row, state="restarting")
            payload = json.dumps({**json.loads(row.command), "token": ""})
            claimed.append(
                Claimed(
                    claim=claim_id,
                    key=one.key,
                    worker=one.worker,
                    site=one.site,
                    slots=one.slots,
                    payload=payload,
                )
            )
            taken[one.worker] += one.slots
        return claimed

    def expire_offers(self, expired: Callable[[ClaimId, WorkerName], None] = lambda *_: None) -> int:
        over = 0
        for claim in self.open() if self.rules.offers_expire else []:
            if (
                claim.phase is Phase.OFFERED
                and claim.lease_until is not None
                and claim.lease_until < self._now()
            ):
                row = self._held(claim)
                if row is not None:
                    self._back_to_queue(claim, row, "expired", "the offer was not answered in time")
                    expired(claim.id, WorkerName(claim.worker))
                    over += 1
        return over

    def _open_claims(self, wanted: Callable[[Claim], bool]) -> tuple[OpenClaim, ...]:
        return tuple(
            self._open_claim(claim)
            for claim in self.open()
            if wanted(claim) and claim.worker in self.workers_by_name
        )

    def _open_claim(self, claim: Claim) -> OpenClaim:
        now = self._now()
        return OpenClaim(
            claim=claim.id,
            key=claim.key,
            worker=claim.worker,
            site=claim.site,
            host=claim.host,
            phase=claim.phase,
            slots=claim.slots,
            subject=claim.subject,
            is_callback=claim.key.dag_id == CALLBACK_DAG_ID,
            result=claim.result,
            overdue=claim.lease_until is not None and claim.lease_until < now,
            site_left=self.workers_by_name[claim.worker].site != claim.site,
            worker_lost=self.workers_by_name[claim.worker].seen_at < now - LOST_S,
        )

    def unsettled(self, workers: Sequence[WorkerName] | None = None) -> tuple[OpenClaim, ...]:
        return self._open_claims(
            lambda claim: (
                claim.phase in {Phase.ACCEPTED, Phase.STARTED}
                and (workers is None or claim.worker in workers)
            )
        )

    def open_ids(self, workers: Sequence[WorkerName]) -> set[ClaimId]:
        return {one.claim for one in self._open_claims(lambda claim: claim.worker in workers)}

    def requeue(self, one: OpenClaim, detail: str) -> bool:
        found = self._unmoved(one)
        if found is not None:
            self._back_to_queue(*found, one.result or "expired", detail)
        return found is not None

    def give_up(self, one: OpenClaim, detail: str, *, failed: bool) -> bool:
        found = self._unmoved(one)
        if found is not None:
            self._end(*found, one.result or "lost", "failed" if failed else "removed", detail)
            if one.site_left:
                self.left_behind.add(one.claim)
        return found is not None

    def _unmoved(self, one: OpenClaim) -> tuple[Claim, Row] | None:
        found = self._find_live(one.claim, one.worker, one.site)
        if found is None or found[0].phase is not one.phase:
            return None
        claim = self._open_claim(found[0])
        moved = (claim.result, claim.overdue) != (one.result, one.overdue)
        return None if moved and self.rules.rejudges else found

    def repair(self) -> None:
        for claim in self.open():
            row = self._held(claim)
            if row is not None and row.state not in OPEN:
                self._set(row, state=_row_state(claim.phase))
        for row in list(self.rows.values()):
            if row.state in OPEN and row.worker is None and row.owner is not None:
                self._set(row, state="queued")

    # A backup

    def saved(self) -> tuple[dict[JobKey, Row], dict[ClaimId, Claim]]:
        """Return what a backup of the database holds."""
        claims = {name: replace(claim, log=bytearray(claim.log)) for name, claim in self.claims_by_id.items()}
        return {key: replace(row) for key, row in self.rows.items()}, claims

    def restore(self, saved: tuple[dict[JobKey, Row], dict[ClaimId, Claim]]) -> None:
        self.rows, self.claims_by_id = saved


def _row_state(phase: Phase) -> str:
    return "running" if phase is Phase.STARTED else "restarting"
