"""The fleet at one moment, and its rows as a page shows them. Pure.

Rows have moments, no ages: they differ only where something has changed. Whoever shows them counts from `at`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property

from edge_ws.protocol.ids import CALLBACK_DAG_ID, GatewayId
from edge_ws.server.diagnosis import JobFacts, Why
from edge_ws.server.eligibility import is_here, no_jobs
from edge_ws.server.view_rows import Row, job_row, listed_worker, pause_row, served, worker_row
from edge_ws.server.why import why
from edge_ws.server.why_queued import since_told
from edge_ws.store.picture import FleetRecord
from edge_ws.store.view_records import Backlog, JobView, QueuePause, WorkerView

STATUSES = (
    "running",
    "idle",
    "paused",
    "maintenance",
    "not_ready",
    "leaving",
    "away",
    "offline",
)
"""What a worker is, in one word. `away`: not heard of, and it has not said goodbye, as `offline` has."""
_STATUS = {
    "not_connected": "away",
    "offline": "offline",
    "paused": "paused",
    "maintenance": "maintenance",
    "leaving": "leaving",
}
"""Code of `no_jobs` -> status; a worker's own codes are `not_ready`."""
_TOLD = (
    "cpu_usage",
    "memory_usage",
    "memory_free_gb",
    "disk_usage",
    "sys_load",
    "round_trip_ms",
    "clock_skew_s",
    "outbox_entries",
)
"""What a worker says of its machine and itself, besides what lists show."""
_AGES = ("last_seen_s", "waited_s", "oldest_wait_s")
LONG_S = 60.0
"""Jobs of a queue that wait for so long stand out."""
MOST_NAMES = 200
"""Queues, and teams, that a page's filters offer."""
OVER_BADLY = frozenset({"failed", "removed"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker with what was found of it at the picture's moment."""

    view: WorkerView
    status: str
    served: frozenset[str] | None
    """The queues that both it and its token name; None: every queue."""
    mismatch: str | None

    @property
    def takes_jobs(self) -> bool:
        """Whether it is here and takes new jobs, if it has a free slot."""
        return self.status in {"running", "idle"}


@dataclass(slots=True)
class _Queue:
    """What is counted of a queue."""

    backlog: Backlog
    named_by: int = 0
    here: int = 0
    taking: int = 0
    slots: int = 0
    free: int = 0
    pause: QueuePause | None = None
    flags: list[str] = field(default_factory=list)


class Picture:
    """One moment; what is costly is found out when it is first asked for, once."""

    def __init__(
        self, number: int, record: FleetRecord, *, gateway: GatewayId, versions: Mapping[str, str]
    ) -> None:
        """Take what was read; `versions` are this gateway's."""
        self.number = number
        self.record = record
        self.rendered: dict[object, bytes] = {}
        """What was made of it, for those who ask for the same."""
        self._gateway = gateway
        self._versions = versions
        self.workers = [self._seen(one) for one in record.workers]
        self.summary = self._summary()

    @property
    def has_jobs(self) -> bool:
        """Whether jobs were read."""
        return self.record.jobs is not None

    @property
    def at(self) -> str:
        """The database's time at which it was taken."""
        return datetime.fromtimestamp(self.record.now, UTC).isoformat(timespec="milliseconds")

    @cached_property
    def silent_in_s(self) -> float:
        """In how many seconds the first one that is here now will be silent, unless it is heard of."""
        left = [one.silent_after_s - one.seen_s for one in self.record.workers if one.seen_s and is_here(one)]
        left += [one.silent_after_s - one.seen_s for one in self.record.gateways if one.is_alive]
        return min(left, default=math.inf)

    # Workers

    def _seen(self, one: WorkerView) -> Seen:
        found = no_jobs(one)
        if found is None:
            status = "running" if one.jobs else "idle"
        else:
            # One that is connected has a code of its own, which may be any word.
            status = "not_ready" if found.code == one.room.code else _STATUS.get(found.code, "not_ready")
        names = served(one)
        return Seen(one, status, None if names is None else frozenset(names), self._mismatch(one))

    def _mismatch(self, one: WorkerView) -> str | None:
        """Return what runs there in another version than here, the last number apart."""
        if not one.is_ours:
            return None
        told = []
        for key, name in (("edge_ws", "edge-ws"), ("airflow", "Airflow")):
            theirs, ours = one.sysinfo.get(f"{key}_version"), self._versions.get(key)
            if isinstance(theirs, str) and theirs and ours and _release(theirs) != _release(ours):
                told.append(f"{name} {theirs} there, {ours} at the gateway")
        return "; ".join(told) or None

    def worker_row(self, seen: Seen) -> Row:
        """Return a worker as a page's table shows it."""
        one = seen.view
        gateway = self._gateway_of(one)
        return {
            **_without_ages(listed_worker(one)),
            "status": seen.status,
            "last_seen_at": _utc(one.seen_at),
            "silent_at": _utc(one.seen_at + one.silent_after_s)
            if one.seen_at is not None and is_here(one)
            else None,
            "gateway": one.gateway,
            "gateway_hostname": gateway,
            "local_concurrency": one.local_concurrency,
            "local_queues": None if one.local_queues is None else list(one.local_queues),
            "slots_used": one.busy,
            "free_slots": one.free if seen.takes_jobs else 0,
            "wish_revision": one.wish_revision if one.is_ours else None,
            "applied_revision": one.applied_revision if one.is_ours else None,
            "version_mismatch": seen.mismatch,
            "token": one.token.name if one.token is not None else None,
            "token_id": one.token.id if one.token is not None else None,
            "token_fault": one.token.fault or None if one.token is not None else None,
            "address": one.address,
            **{name: one.sysinfo.get(name) for name in _TOLD},
            "facts": _own_facts(one.sysinfo),
        }

    def whole_worker(self, name: str) -> Row | None:
        """Return all that is known of a worker, with its jobs; None: there is none of that name."""
        seen = next((one for one in self.workers if one.view.name == name), None)
        if seen is None:
            return None
        one = seen.view
        jobs = [job for job in self.record.jobs or () if job.worker == name]
        gateway = next((known for known in self.record.gateways if known.id == one.gateway), None)
        whole = _without_ages(worker_row(one, gateway, jobs, self.record.now))
        held = [job for job in jobs if job.state in {"restarting", "running"}]
        return {**whole, **self.worker_row(seen), "jobs": [self.job_row(job) for job in held]}

    def _gateway_of(self, one: WorkerView) -> str | None:
        return self._hostnames.get(one.gateway) if one.gateway is not None else None

    @cached_property
    def _hostnames(self) -> dict[GatewayId, str]:
        return {one.id: one.hostname for one in self.record.gateways}

    # Queues

    @cached_property
    def queues(self) -> list[Row]:
        """Every queue that holds a job or that somebody names."""
        return [_queue_row(one) for one in self._queues]

    @cached_property
    def _queues(self) -> list[_Queue]:
        known = {one.queue: _Queue(one) for one in self.record.backlogs}
        named_by = {queue for one in self.workers for queue in one.served or ()}
        for name in {*named_by, *self.record.pauses} - known.keys():
            known[name] = _Queue(Backlog(queue=name, queued=0, running=0, oldest_wait_s=None))
        for seen in self.workers:
            named = known.keys() if seen.served is None else seen.served
            here, takes, busy = is_here(seen.view), seen.takes_jobs, seen.view.free if seen.takes_jobs else 0
            for name in named:
                queue = known[name]
                queue.named_by += 1
                queue.here += here
                if takes:
                    queue.taking += 1
                    queue.slots += seen.view.concurrency or 0
                    queue.free += busy
        for name, queue in known.items():
            queue.pause = self.record.pauses.get(name)
            queue.flags = list(_flags(queue))
        return [known[name] for name in sorted(known)]

    # Jobs

    @cached_property
    def _before(self) -> dict[object, int]:
        """Jobs of the same queue that are handed out before each one that waits."""
        counted: Counter[str] = Counter()
        before: dict[object, int] = {}
        for job in self.record.jobs or ():
            if job.state == "queued":
                before[job.key] = counted[job.queue]
                counted[job.queue] += 1
        return before

    @cached_property
    def _verdicts(self) -> dict[object, tuple[JobFacts, Why]]:
        return {}

    def job_row(self, job: JobView) -> Row:
        """Return a job as a page's table shows it."""
        claim = job.claim if job.was_claimed else None
        verdict = self._verdict(job)
        return {
            **_without_ages(job_row(job)),
            "is_callback": job.key.dag_id == CALLBACK_DAG_ID,
            "offered_at": _utc(claim.offered_at) if claim is not None else None,
            "ended_at": _utc(claim.ended_at) if claim is not None else None,
            "jobs_before_it": self._before.get(job.key),
            "code": verdict.code.value if verdict is not None else None,
            "verdict": verdict.sentence if verdict is not None else None,
            "advice": verdict.advice or None if verdict is not None else None,
        }

    def _verdict(self, job: JobView) -> Why | None:
        """Return why a job waits or is over badly, as far as that is known without asking anybody."""
        facts = JobFacts(
            job=job,
            history=(),
            ahead=0,
            workers=self.record.workers,
            gateways=self.record.gateways,
            now=self.record.now,
            pause=self.record.pauses.get(job.queue) if job.state == "queued" else None,
        )
        if job.state in OVER_BADLY:
            return why(facts)
        if job.state != "queued":
            return None
        # To look at all workers takes a while, and says the same of all that want the same of them.
        alike = job.queue, job.team, job.slots, job.owner is None, tuple(job.faults)
        known = self._verdicts.get(alike)
        if known is None:
            self._verdicts[alike] = facts, why(facts)
            return self._verdicts[alike][1]
        first, found = known
        return replace(found, sentence=since_told(facts) + found.sentence[len(since_told(first)) :])

    # The whole

    def _summary(self) -> Row:
        record, workers = self.record, self.workers
        counts = Counter(one.status for one in workers)
        here = [one for one in workers if is_here(one.view)]
        alive = sum(one.is_alive for one in record.gateways)
        oldest = [one.oldest_at for one in record.backlogs if one.oldest_at is not None]
        flags = Counter(flag for one in self._queues for flag in one.flags)
        return {
            "workers": {
                "all": len(workers),
                "here": len(here),
                **{status: counts[status] for status in STATUSES},
                "longpoll": sum(one.view.transport == "longpoll" for one in here),
                "version_mismatch": sum(one.mismatch is not None for one in here),
            },
            "slots": {
                "all": sum(one.view.concurrency or 0 for one in here),
                "used": sum(one.view.busy for one in here),
                "free": sum(one.view.free for one in workers if one.takes_jobs),
            },
            "jobs": {
                "queued": sum(one.queued for one in record.backlogs),
                "in_hand": sum(one.running for one in record.backlogs),
                "oldest_queued_at": _iso(min(oldest)) if oldest else None,
            },
            "queues": {
                "all": len(self._queues),
                **{flag: flags[flag] for flag in ("unserved", "all_away", "none_take", "paused", "waits")},
            },
            "gateways": {"alive": alive, "all": len(record.gateways), "this": self._gateway},
            "teams": sorted({one.view.team for one in workers if one.view.team is not None})[:MOST_NAMES],
            "queue_names": [one.backlog.queue for one in self._queues][:MOST_NAMES],
            "hints": list(self._hints(len(here), alive)),
        }

    def _hints(self, here: int, alive: int) -> Iterable[Row]:
        """Return what somebody should do who sees this fleet, the most pressing first."""
        if not alive:
            yield _hint(
                "no_gateway",
                "No gateway has told the database that it is alive: no jobs are handed out.",
                "Look at the api-servers' logs, or edge-ws server's; edge-ws check says what is wrong.",
            )
        if not self.workers:
            yield _hint(
                "no_worker",
                "No worker has connected yet.",
                "Make a token (edge-ws token create) and start edge-ws worker with it on the remote host.",
            )
        elif not here:
            yield _hint(
                "workers_away",
                "None of the workers is connected.",
                "Look at them on their hosts: edge-ws status, and edge-ws doctor.",
            )
        if self.workers and (unserved := [one for one in self._queues if "unserved" in one.flags]):
            name = unserved[0].backlog.queue
            more = f", and {len(unserved) - 1} more," if len(unserved) > 1 else ""
            yield _hint(
                "queue_unserved",
                f"Jobs wait in the queue {name}{more} which no worker serves.",
                f"Start a worker with -q {name}, or: edge-ws add-worker-queues -H WORKER -q {name}.",
            )


def _hint(code: str, sentence: str, advice: str) -> Row:
    return {"code": code, "sentence": sentence, "advice": advice}


def _flags(queue: _Queue) -> Iterable[str]:
    """Return why a queue stands out."""
    if queue.pause is not None:
        yield "paused"
    if queue.backlog.queued and not queue.named_by:
        yield "unserved"
    elif queue.named_by and not queue.here:
        yield "all_away"
    elif queue.named_by and not queue.taking:
        yield "none_take"
    if (queue.backlog.oldest_wait_s or 0.0) > LONG_S:
        yield "waits"


def _queue_row(queue: _Queue) -> Row:
    backlog = queue.backlog
    return {
        "queue": backlog.queue,
        "queued": backlog.queued,
        "running": backlog.running,
        "workers": queue.taking,
        "free_slots": queue.free,
        "oldest_queued_at": _iso(backlog.oldest_at),
        "workers_all": queue.named_by,
        "workers_here": queue.here,
        "slots": queue.slots,
        "flags": queue.flags,
        **pause_row(queue.pause),
    }


def _own_facts(sysinfo: Mapping[str, object]) -> Row:
    """Return what the site itself says of a worker: its names are told beside it."""
    names = sysinfo.get("site_facts")
    if not isinstance(names, str):
        return {}
    return {name: sysinfo[name] for name in names.split(", ") if name in sysinfo}


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def _without_ages(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _AGES}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _utc(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
