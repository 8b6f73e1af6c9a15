"""The worker's claims: a pure table. Frames and the host's events go in, things to do come out.

No clock, socket, disk or process here: the daemon carries out the actions in their order. Every rule holds
for a claim alone, so that frames may come late, twice or in any order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from edge_ws.protocol.frames import (
    Accept,
    Held,
    HostDead,
    NotStarted,
    Offer,
    PhaseIs,
    Refuse,
    Started,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.worker.actions import (
    Action,
    Deliver,
    Drop,
    FlushLog,
    Forget,
    Keep,
    KeepDead,
    Prepare,
    Send,
    Start,
    Stop,
    StopLog,
    TailLog,
)
from edge_ws.worker.job import Job, Record
from edge_ws.worker.job_names import of_payload
from edge_ws.worker.outcomes import Call, Fate
from edge_ws.worker.slots import Slots

__all__ = [
    "Action",
    "Deliver",
    "Drop",
    "FlushLog",
    "Forget",
    "Job",
    "Jobs",
    "Keep",
    "KeepDead",
    "Prepare",
    "Send",
    "Start",
    "Stop",
    "StopLog",
    "TailLog",
]

REMEMBERED = 10_000
"""Claims once called unknown (or ended) that are refused from then on."""
DEAD_HOSTS = 20
"""Dead hosts that an inventory names: the newest."""


class Jobs:
    """The table of claims."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.accepting = False
        """Whether offers are taken at all: a host is ready and nobody drains."""
        self.cautious = False
        """One job is tried first: the last ones could not be started here."""
        self.mints = True
        """The gateway gives tokens with which outcomes can be delivered; an old one does not."""
        self._jobs: dict[ClaimId, Job] = {}
        self._refused: OrderedDict[ClaimId, None] = OrderedDict()
        self._dead_hosts: list[HostId] = []

    # What it holds

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, claim: ClaimId) -> Job | None:
        """Return the claim's job."""
        return self._jobs.get(claim)

    @property
    def dead_hosts(self) -> tuple[HostId, ...]:
        """Hosts of this site that are known dead."""
        return tuple(self._dead_hosts)

    @property
    def stale_slots(self) -> int:
        """Slots of processes under stale claims: the server does not count them."""
        return sum(self.slots.of(job.claim) for job in self._jobs.values() if job.stale)

    def all(self) -> tuple[Job, ...]:
        """Return every job."""
        return tuple(self._jobs.values())

    def held(self) -> tuple[Held, ...]:
        """Return the claims for an inventory."""
        return tuple(
            Held(claim=job.claim, phase=job.phase, log_end=job.log_end, host=job.host)
            for job in self._jobs.values()
            if not job.stale
        )

    def reports(self) -> list[WorkerFrame]:
        """Return everything unconfirmed (dead hosts are in every inventory)."""
        return [report for job in self._jobs.values() if (report := job.report(mints=self.mints)) is not None]

    # The server's frames

    def offered(self, offer: Offer, host: HostId | None) -> list[Action]:
        """Take a slot and have the host prepare the job, or refuse."""
        known = self._jobs.get(offer.claim)
        if known is not None:
            return self._say(known)
        reason = self._why_not(offer, host)
        if reason is not None:
            return [Send(Refuse(claim=offer.claim, reason=reason))]
        subject = of_payload(offer.payload)
        self._jobs[offer.claim] = Job(claim=offer.claim, slots=offer.slots, subject=subject, host=host)
        return [Prepare(offer.claim, offer.payload)]

    def _why_not(self, offer: Offer, host: HostId | None) -> str | None:
        if offer.claim in self._refused:
            return "this worker has given the claim up before"
        if not self.accepting or host is None:
            return "this worker takes nothing new now"
        if self.cautious and any(job.is_untried for job in self._jobs.values()):
            return "this worker could not start its last jobs, and tries one first"
        if not self.slots.take(offer.claim, offer.slots):
            return f"{offer.slots} slots are wanted, {self.slots.free} are free"
        return None

    def go(self, claim: ClaimId, token: str) -> list[Action]:
        """Start an accepted job, once."""
        job = self._jobs.get(claim)
        if job is None:
            self._refuse_for_ever(claim)
            return [Send(PhaseIs(claim=claim, phase=Phase.UNKNOWN))]
        if job.phase is not Phase.ACCEPTED or job.going:
            return []
        job.going = True
        if job.doomed is not None:
            return self.ended(claim, 1, job.doomed, log_uploaded=False, line=job.doomed)
        return [Start(claim, token)]

    def cancel(self, claim: ClaimId, reason: str) -> list[Action]:
        """Stop a job; its end is reported as always."""
        job = self._jobs.get(claim)
        if job is None:
            # Said once before, perhaps, when the server asked for it; but then nobody heard it.
            return self.query(claim)
        if job.delivered and job.outcome:
            # Airflow has this job's own outcome: that is why the task is over. Its last steps may go on.
            return []
        return self._stop(job, reason, None)

    def _stop(self, job: Job, reason: str, grace_s: float | None) -> list[Action]:
        if not job.has_process:
            return []
        if job.phase is Phase.STARTED or job.going:
            return [Stop(job.claim, reason, grace_s)]
        return [Drop(job.claim), *self.did_not_start(job.claim, f"cancelled: {reason}")]

    def query(self, claim: ClaimId) -> list[Action]:
        """Answer how far the claim is; an unknown one is refused from now on."""
        job = self._jobs.get(claim)
        if job is None:
            self._refuse_for_ever(claim)
            return [Send(PhaseIs(claim=claim, phase=Phase.UNKNOWN))]
        return [Send(PhaseIs(claim=claim, phase=job.phase, host=job.host))]

    def stale(self, claim: ClaimId) -> list[Action]:
        """Stop reporting the claim; what runs ends by itself and keeps its slot, what waits is dropped."""
        job = self._jobs.get(claim)
        if job is None:
            return []
        running = job.phase is Phase.STARTED or (job.going and job.phase is Phase.ACCEPTED)
        if running and job.not_started is None:
            job.stale, job.owed = True, None
            return [Keep(job.record()), StopLog(claim)]
        return [*([] if job.phase is Phase.ENDED else [Drop(claim)]), *self._remove(claim)]

    def acked(self, claim: ClaimId, phase: Phase) -> list[Action]:
        """Note that the server has committed the claim's phase."""
        job = self._jobs.get(claim)
        if job is None:
            return []
        if phase is Phase.ENDED and (job.phase is Phase.ENDED or job.not_started is not None):
            return self._remove(claim)
        if phase is Phase.STARTED:
            job.started_acked = True
        return []

    # The worker's own will

    def give_back(self, reason: str) -> list[Action]:
        """Refuse offers not accepted yet: all if none are taken now, else those that are too many."""
        actions: list[Action] = []
        for job in reversed(list(self._jobs.values())):
            is_excess = not self.accepting or self.slots.taken > self.slots.concurrency
            if job.phase is Phase.OFFERED and job.not_started is None and is_excess:
                actions += [Drop(job.claim), *self.no_host(job.claim, reason)]
        return actions

    def stop(self, reason: str, grace_s: float) -> list[Action]:
        """Stop every process, `grace_s` between SIGTERM and SIGKILL, and drop what waits."""
        actions: list[Action] = []
        for job in list(self._jobs.values()):
            actions += self._stop(job, reason, grace_s)
        return actions

    # The host's events

    def prepared(self, claim: ClaimId, host: HostId, log_path: str | None, log_start: int) -> list[Action]:
        """The job is forked and waits: accept the offer."""
        job = self._jobs.get(claim)
        if job is None or job.phase is not Phase.OFFERED:
            return [Drop(claim), Forget(claim)] if job is None else []
        job.phase, job.host, job.log_path, job.log_start = Phase.ACCEPTED, host, log_path, log_start
        tail = [TailLog(claim, log_path, log_start)] if log_path else []
        return [Keep(job.record()), *tail, Send(Accept(claim=claim, host=host))]

    def cannot_run(self, claim: ClaimId, host: HostId, reason: str, log_path: str | None) -> list[Action]:
        """The payload can run nowhere: take the claim and fail it, so that Airflow is told."""
        job = self._jobs.get(claim)
        if job is None or job.phase is not Phase.OFFERED:
            return []
        job.doomed = reason
        return self.prepared(claim, host, log_path, 0)

    def no_host(self, claim: ClaimId, reason: str) -> list[Action]:
        """The host could not take the job: give the offer back."""
        job = self._jobs.get(claim)
        if job is None or job.phase is not Phase.OFFERED:
            return []
        self._jobs.pop(claim)
        self.slots.give_back(claim)
        return [Send(Refuse(claim=claim, reason=reason))]

    def started(self, claim: ClaimId, host: HostId) -> list[Action]:
        """The task runs."""
        job = self._jobs.get(claim)
        if job is None or job.phase not in {Phase.OFFERED, Phase.ACCEPTED}:
            return []
        job.phase, job.host, job.going = Phase.STARTED, host, True
        if job.stale:
            return []
        return [Keep(job.record()), Send(Started(claim=claim, host=host))]

    def did_not_start(self, claim: ClaimId, reason: str, fault: str = "") -> list[Action]:
        """The job will never run."""
        job = self._jobs.get(claim)
        if job is None or job.phase is Phase.ENDED:
            return []
        self.slots.give_back(claim)
        if job.stale:
            return self._remove(claim)
        job.not_started, job.fault = reason, fault
        return [Keep(job.record()), Send(NotStarted(claim=claim, reason=reason, fault=fault))]

    def ended(
        self,
        claim: ClaimId,
        exit_code: int,
        detail: str,
        *,
        log_uploaded: bool,
        line: str = "",
        outcome: str = "",
        owed: Call | None = None,
    ) -> list[Action]:
        """The job's processes are gone: free the slot now, report when log and outcome are at the centre."""
        job = self._jobs.get(claim)
        if job is None or job.phase is Phase.ENDED:
            return []
        self.slots.give_back(claim)
        if job.stale:
            return self._remove(claim)
        job.phase, job.exit_code, job.detail, job.log_uploaded = Phase.ENDED, exit_code, detail, log_uploaded
        job.owe(outcome, owed)
        return [Keep(job.record()), FlushLog(claim, line), *self._say(job)]

    # Outcomes that Airflow has not taken

    def owes(self, claim: ClaimId, outcome: str, owed: Call) -> list[Action]:
        """The job's process could not tell Airflow the task's outcome: keep it, and ask for a token."""
        job = self._jobs.get(claim)
        if job is None or job.stale or not job.owe(outcome, owed):
            return []
        return [Keep(job.record()), *self._say(job)]

    def token(self, claim: ClaimId, token: str) -> list[Action]:
        """Deliver the outcome with that token."""
        job = self._jobs.get(claim)
        if job is None or job.owed is None or not job.wants_token:
            return []
        job.wants_token = False
        return [Deliver(claim, job.owed, token)]

    def not_delivered(self, claim: ClaimId) -> list[Action]:
        """A try has failed, and its pause is over: ask for another token."""
        job = self._jobs.get(claim)
        if job is None or job.owed is None:
            return []
        job.wants_token = True
        return self._say(job)

    def delivered(self, claim: ClaimId, fate: Fate, why: str) -> list[Action]:
        """Airflow has answered: nothing is owed any more, and the job's end may be reported."""
        job = self._jobs.get(claim)
        if job is None or job.owed is None:
            return []
        job.owed, job.delivered = None, True
        if fate is Fate.REFUSED:
            job.detail = f"Airflow has not taken the outcome {job.outcome}: {why}"
            job.outcome, job.exit_code = "", job.exit_code or 1
        return [Keep(job.record()), *self._say(job)]

    def log_flushed(self, claim: ClaimId, log_end: int) -> list[Action]:
        """The whole log, `log_end` bytes, is with the server: report the end."""
        job = self._jobs.get(claim)
        if job is None or job.phase is not Phase.ENDED:
            return []
        job.log_end, job.log_flushed = log_end, True
        return self._say(job)

    def host_dead(self, host: HostId) -> list[Action]:
        """A host is dead and what it left is killed: its jobs that had not ended are lost."""
        self._dead_hosts = [*(one for one in self._dead_hosts if one != host), host][-DEAD_HOSTS:]
        lost = [job.claim for job in self._jobs.values() if job.host == host and job.has_process]
        # First of all: with the records of its jobs, their host would be forgotten.
        actions: list[Action] = [KeepDead(self.dead_hosts)] if lost else []
        for claim in lost:
            job = self._jobs[claim]
            # An offer that was still being prepared is simply given back; the rest `host_dead` ends.
            actions += (
                self.no_host(claim, "the job host died")
                if job.phase is Phase.OFFERED
                else self._remove(claim)
            )
        told = [job.claim for job in self._jobs.values() if job.host == host and not job.stale]
        return [*actions, Send(HostDead(host=host, ended=tuple(told)))]

    # After a restart of the daemon

    def restore(self, records: Iterable[Record], dead_hosts: Iterable[HostId] = ()) -> list[Action]:
        """Take up what the outbox kept; the hosts will tell what became of the rest."""
        self._dead_hosts = list(dead_hosts)[-DEAD_HOSTS:]
        actions: list[Action] = []
        for record in records:
            job = Job.restored(record)
            self._jobs[record.claim] = job
            if job.log_path and not job.stale:
                actions.append(TailLog(job.claim, job.log_path, job.log_start))
            if job.phase is Phase.ENDED:
                actions.append(FlushLog(job.claim))
            elif job.not_started is None:
                self.slots.hold(job.claim, job.slots)
        return actions

    def on_host(self, host: HostId, claim: ClaimId, *, waiting: bool) -> list[Action]:
        """A host that was attached to has this claim, running or still waiting for its token."""
        job = self._jobs.get(claim)
        if job is None and waiting:
            return [Drop(claim), Forget(claim)]
        if job is None:
            # Its record is lost. Only a cancel stops a process, so it runs to its end and holds a slot.
            job = self._jobs[claim] = Job(claim=claim, slots=1, phase=Phase.STARTED, stale=True)
            self.slots.hold(claim, job.slots)
        job.host = host
        if waiting and job.stale:
            # It was kept because it might have been running; it has not begun, and nobody wants it to.
            return [Drop(claim), *self._remove(claim)]
        if waiting and job.phase is Phase.ACCEPTED:
            # The token never reached it: accept again, and another one comes.
            job.going = False
        return self._say(job)

    def only_on(self, hosts: Iterable[HostId], claims: Iterable[ClaimId]) -> list[Action]:
        """Drop jobs of living hosts that those hosts do not have: nothing of them can be running."""
        alive, there = set(hosts), set(claims)
        actions: list[Action] = []
        for job in list(self._jobs.values()):
            open_ = job.phase in {Phase.ACCEPTED, Phase.STARTED} and job.not_started is None
            if open_ and job.doomed is None and job.host in alive and job.claim not in there:
                actions += self._remove(job.claim)
        return actions

    def hosts(self) -> set[HostId]:
        """Return the hosts under which unfinished claims are kept."""
        return {job.host for job in self._jobs.values() if job.host is not None and job.has_process}

    @property
    def have_processes(self) -> bool:
        """Whether a process of any may be there."""
        return any(job.has_process for job in self._jobs.values())

    @property
    def have_tasks(self) -> bool:
        """Whether a task of any has begun, and not ended; one that waits for its token has not begun."""
        return any(
            job.has_process and (job.going or job.phase is Phase.STARTED) for job in self._jobs.values()
        )

    def _say(self, job: Job) -> list[Action]:
        report = job.report(mints=self.mints)
        return [Send(report)] if report is not None else []

    def _remove(self, claim: ClaimId) -> list[Action]:
        if self._jobs.pop(claim, None) is not None:
            self.slots.give_back(claim)
            self._refuse_for_ever(claim)
        return [Forget(claim)]

    def _refuse_for_ever(self, claim: ClaimId) -> None:
        self._refused[claim] = None
        while len(self._refused) > REMEMBERED:
            self._refused.popitem(last=False)
