"""What workers report about their claims: many reports of many workers, judged in order, one transaction.

Each report runs for the Principal that sent it and touches only that worker's claims. A report may be
repeated or come late; for a claim that is not live it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.frames import Accept, Finished, Log, NotStarted, PhaseIs, Refuse, Started
from edge_ws.protocol.ids import CALLBACK_DAG_ID, HOST, UNSURE, ClaimId, HostId, WorkerName
from edge_ws.protocol.states import Phase, phases_before
from edge_ws.store.bulk import Both, UpdateMany, one_of, place_of
from edge_ws.store.command import parse
from edge_ws.store.database import Database
from edge_ws.store.faults import note_fault
from edge_ws.store.live import (
    FAILED,
    KEY_COLUMNS,
    OPEN_STATES,
    QUEUED,
    SUCCESS,
    held,
    key_columns,
    locking,
    row_state,
)
from edge_ws.store.logs import octets, write_last_line
from edge_ws.store.records import Accepted, JobKey, LogBounds, Owing, Principal, Verdict
from edge_ws.store.tables import claim, edge_job, epoch_now, log, utc_now

ClaimReport = Accept | Refuse | Started | Finished | NotStarted | PhaseIs
Outcome = Accepted | Owing | Verdict

MANY = 500
"""Reports in one transaction, at the most."""
ROW = 256 * 1024
"""Bytes in a row of the log's table, at the most, unless a chunk is longer."""
_END_STATES = (SUCCESS, FAILED)
_LONGEST_DETAIL = 1000
"""Characters of the column."""
NOT_STARTED = "not_started"
LOST = "lost"
_Given = Mapping[str, sa.ColumnElement[Any]]


def _lease(given: _Given) -> sa.ColumnElement[Any]:
    """An accept renews the lease, given in seconds from now; other reports leave it until the start."""
    renewed = sa.func.coalesce(epoch_now() + given["lease_until"], claim.c.lease_until)
    return sa.case((given["phase"].in_((Phase.OFFERED.value, Phase.ACCEPTED.value)), renewed))


_WRITE_CLAIMS = UpdateMany(
    claim,
    ("id",),
    ("phase", "host", "result", "detail", "log_uploaded", "lease_until"),
    by_place=True,
    lease_until=_lease,
    ended_at=lambda given: sa.case((given["phase"] == Phase.ENDED.value, epoch_now())),
)
_WRITE_JOBS = UpdateMany(
    edge_job,
    KEY_COLUMNS,
    ("state", "command"),
    by_place=True,
    edge_worker=lambda given: sa.case((given["state"] != QUEUED, edge_job.c.edge_worker)),
    edge_ws_claim=lambda given: sa.case((given["state"] != QUEUED, edge_job.c.edge_ws_claim)),
    command=lambda given: sa.func.coalesce(given["command"], edge_job.c.command),
    last_update=utc_now(),
)
_WRITE = Both(_WRITE_CLAIMS, _WRITE_JOBS)
_INSERT_LOGS = log.insert()
_GROW_LOGS = UpdateMany(claim, ("id",), ("log_end",), log_state="held")


@cache
def _live_query(dialect: str) -> sa.Select[Any]:
    """Return the query for live claims of `ids`, locked, with the commands of those in `ending`."""
    return locking(
        sa.select(
            claim.c.id,
            claim.c.worker,
            claim.c.site,
            claim.c.subject,
            claim.c.phase,
            claim.c.host,
            claim.c.result,
            claim.c.detail,
            edge_job.c.state,
            sa.case((one_of(dialect, claim.c.id, "ending"), edge_job.c.command)),
            place_of(dialect, claim),
            place_of(dialect, edge_job),
            *key_columns,
        )
        .join(edge_job, held)
        .where(one_of(dialect, claim.c.id, "ids"))
    )


@cache
def _logs_query(dialect: str) -> sa.Select[Any]:
    query = sa.select(claim.c.id, claim.c.worker, claim.c.site, claim.c.log_end).join(edge_job, held)
    query = query.where(one_of(dialect, claim.c.id, "ids")).order_by(*key_columns)
    return query.with_for_update(of=claim)


@cache
def _ended_query(dialect: str) -> sa.Select[Any]:
    query = sa.select(claim.c.id, claim.c.worker, claim.c.site).where(one_of(dialect, claim.c.id, "ids"))
    return query.where(claim.c.result.in_((SUCCESS, FAILED)))


@dataclass(slots=True)
class _Claim:
    """A live claim while a batch is judged: what `_live_query` gave, in its order, and what becomes of it."""

    id: ClaimId
    worker: str
    site: str
    subject: str
    phase: Phase
    host: str | None
    result: str | None
    detail: str
    job_state: str
    command: str | None
    """Its job's, if a report of this batch may end it."""
    place: str | None
    job_place: str | None
    key: tuple[Any, ...]
    log_uploaded: bool = False
    lease: bool = False
    """A token is to be minted: nobody else gets the job while it lives."""
    changed: bool = False
    starts: bool = False
    fault: str = ""
    """The worker's own, for which it could not start the job."""

    def is_of(self, who: Principal) -> bool:
        """Tell whether it is his to speak of."""
        return (self.worker, self.site) == (who.worker, who.site)

    @property
    def is_callback(self) -> bool:
        """Tell whether the job is a callback."""
        return bool(self.key[0] == CALLBACK_DAG_ID)

    @property
    def ended_before(self) -> bool:
        """Tell whether this batch has ended it."""
        return self.phase is Phase.ENDED


class ReportStore:
    """Reports about claims, and their logs."""

    def __init__(self, database: Database, edge3_alive_s: float) -> None:
        self._database = database
        self._edge3_alive_s = edge3_alive_s

    def take(self, batch: Sequence[tuple[Principal, ClaimReport]], *, start_within_s: float) -> list[Outcome]:
        """Judge the reports in their order and write what they change.

        Args:
            batch: at most MANY reports with those on whose behalf they are.
            start_within_s: life of a token minted for an `accept`, plus Airflow's leeway.

        Returns:
            For each report what became of it. For an accept that won: Accepted; mint a token and say `go`
            (also when the same host accepts again: its `go` was lost). For a started one that owes its
            outcome: Owing; mint a token for that.
        """
        with self._database.write() as connection:
            live = _find_live(connection, [report for _, report in batch])
            outcomes = [_judge(live.get(report.claim), who, report) for who, report in batch]
            given_up = _settle_faults(connection, live.values(), self._edge3_alive_s)
            changed = [one for one in live.values() if one.changed]
            _WRITE.run(connection, _claim_rows(changed, start_within_s), _job_rows(changed))
            for one in given_up:
                # Not before: a row that is changed has another place.
                write_last_line(connection, one.id, one.detail)
            self._recognise_repeated(connection, batch, outcomes)
        return outcomes

    @staticmethod
    def _recognise_repeated(
        connection: Connection, batch: Sequence[tuple[Principal, ClaimReport]], outcomes: list[Outcome]
    ) -> None:
        """Tell a repeated `finished` or `refuse` (its ack was lost) from a stale one."""
        asked = {
            report.claim: number
            for number, (_, report) in enumerate(batch)
            if isinstance(report, Finished) and outcomes[number] is Verdict.STALE
        }
        if not asked:
            return
        query = _ended_query(connection.dialect.name)
        for row in connection.execute(query, {"ids": list(asked)}).all():
            who = batch[asked[row.id]][0]
            if (who.worker, who.site) == (row.worker, row.site):
                outcomes[asked[row.id]] = Verdict.DONE

    def append_logs(
        self, batch: Sequence[tuple[Principal, Log]], bounds: Mapping[WorkerName, LogBounds] | None = None
    ) -> list[int | Verdict]:
        """Append log bytes; what is there already is not written again, and a gap is not jumped.

        Args:
            batch: the chunks with those on whose behalf they are.
            bounds: of which workers' logs but a part is kept; what is cut out of them counts as being there.

        Returns:
            For each: the bytes that the store now has, where the worker goes on; or STALE.
        """
        with self._database.write(is_news=False) as connection:
            ids = list({frame.claim for _, frame in batch})
            rows = connection.execute(_logs_query(connection.dialect.name), {"ids": ids}).all()
            ends = {row.id: int(row.log_end) for row in rows}
            whose = {row.id: (row.worker, row.site) for row in rows}
            before = dict(ends)
            chunks: dict[ClaimId, list[bytes]] = {}
            outcomes: list[int | Verdict] = []
            for who, frame in batch:
                if whose.get(frame.claim) != (who.worker, who.site):
                    outcomes.append(Verdict.STALE)
                    continue
                end = ends[frame.claim]
                new = frame.data[end - frame.offset :] if frame.offset <= end else b""
                if new:
                    chunks.setdefault(frame.claim, []).append(new)
                    ends[frame.claim] = end + len(new)
                outcomes.append(ends[frame.claim])
            if chunks:
                new_rows = [row for one, said in chunks.items() for row in _log_rows(one, before[one], said)]
                connection.execute(_INSERT_LOGS, new_rows)
                _GROW_LOGS.run(connection, [{"id": one, "log_end": ends[one]} for one in chunks])
                for one in chunks:
                    _cut(connection, one, ends[one], (bounds or {}).get(whose[one][0]))
        return outcomes

    def log_sizes(self) -> dict[WorkerName, int]:
        """Return how many bytes of logs of each worker's jobs are in the table."""
        size = sa.func.sum(octets(self._database.dialect, log.c.data))
        query = (
            sa.select(claim.c.worker, size).join(claim, claim.c.id == log.c.claim).group_by(claim.c.worker)
        )
        with self._database.read() as connection:
            return {WorkerName(row[0]): int(row[1]) for row in connection.execute(query)}


def _log_rows(claim_id: ClaimId, begin: int, chunks: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield rows for what follows upon that byte; short chunks share one: each costs more than its bytes."""
    data = bytearray()
    for chunk in chunks:
        if data and len(data) + len(chunk) > ROW:
            yield {"claim": claim_id, "log_offset": begin, "data": bytes(data)}
            begin += len(data)
            data.clear()
        data += chunk
    yield {"claim": claim_id, "log_offset": begin, "data": bytes(data)}


def _cut(connection: Connection, claim_id: ClaimId, end: int, bounds: LogBounds | None) -> None:
    """Drop what lies between the two parts of a log that are kept."""
    if bounds is not None and end > bounds.head + bounds.tail:
        middle = log.c.log_offset.between(bounds.head, end - bounds.tail - 1)
        connection.execute(log.delete().where(log.c.claim == claim_id, middle))


def _find_live(connection: Connection, reports: Sequence[ClaimReport]) -> dict[ClaimId, _Claim]:
    """Return those of the claims that are live, their jobs locked."""
    ids = {report.claim for report in reports}
    ending = {report.claim for report in reports if isinstance(report, Finished | NotStarted)}
    asked = {"ids": list(ids), "ending": list(ending)}
    rows = connection.execute(_live_query(connection.dialect.name), asked)
    return {row.id: _Claim(*(*row[:4], Phase(row[4]), *row[5:12], row[12:])) for row in rows}


def _judge(one: _Claim | None, who: Principal, report: ClaimReport) -> Outcome:
    """Decide what the report does to the claim, and do it to `one`."""
    if one is None or not one.is_of(who) or one.ended_before:
        repeated = one is not None and one.is_of(who) and isinstance(report, Finished)
        return Verdict.DONE if repeated else Verdict.STALE
    # An end state that was written past the open claim is put back, whatever the report says.
    one.changed = one.changed or one.job_state not in OPEN_STATES
    match report:
        case Accept():
            return _accept(one, report)
        case Refuse():
            if one.phase is not Phase.OFFERED:
                return Verdict.REPEATED
            _end(one, "refused", report.reason)
        case Started():
            _start(one, report.host)
            if report.owes and not one.is_callback:
                return Owing(subject=one.subject)
        case Finished():
            _end(one, SUCCESS if report.exit_code == 0 else FAILED, report.detail)
            one.log_uploaded = report.log_uploaded
        case NotStarted():
            _not_started(one, report)
        case PhaseIs():
            _answer_to_query(one, report)
    return Verdict.DONE


def _start(one: _Claim, host: HostId | None) -> None:
    if one.result == LOST:
        # Its host is dead, which is never taken back: the reaper ends it by the task's state.
        return
    if one.phase in phases_before(Phase.STARTED):
        one.phase, one.result, one.starts, one.changed = Phase.STARTED, None, True, True
        one.host = host or one.host


def _not_started(one: _Claim, report: NotStarted) -> None:
    if report.fault == HOST:
        # Nothing of it has reached Airflow: what the task's state is does not matter.
        one.fault = report.reason
        _end(one, NOT_STARTED, report.reason)
        return
    # Airflow may have taken it for started: then it is as if its process were lost.
    one.result = LOST if report.fault == UNSURE else NOT_STARTED
    one.detail, one.changed = report.reason, True


def _settle_faults(connection: Connection, claims: Iterable[_Claim], edge3_alive_s: float) -> list[_Claim]:
    """Note what workers could not start; return those whose jobs fail, as no other worker is to try them."""
    given_up = []
    for one in claims:
        if not one.fault:
            continue
        faults = note_fault(
            connection, JobKey._make(one.key), WorkerName(one.worker), one.fault, edge3_alive_s
        )
        if faults.is_hopeless:
            one.result, one.detail = FAILED, faults.told()[:_LONGEST_DETAIL]
            given_up.append(one)
    return given_up


def _answer_to_query(one: _Claim, report: PhaseIs) -> None:
    unknown = "the worker does not know the claim"
    if report.phase is Phase.STARTED:
        _start(one, report.host)
    elif report.phase is Phase.UNKNOWN and one.phase is Phase.OFFERED:
        _end(one, "refused", unknown)
    elif report.phase is Phase.UNKNOWN and one.result != LOST:
        # What is known to be lost may have run; that the worker has forgotten it says nothing new.
        one.result, one.detail, one.changed = NOT_STARTED, unknown, True


def _accept(one: _Claim, report: Accept) -> Outcome:
    if one.result is not None or (one.phase is Phase.ACCEPTED and one.host != report.host):
        return Verdict.STALE
    if one.phase not in {Phase.OFFERED, Phase.ACCEPTED}:
        return Verdict.REPEATED
    one.phase, one.host, one.lease, one.changed = Phase.ACCEPTED, report.host, True, True
    return Accepted(subject=one.subject, is_callback=one.is_callback)


def _end(one: _Claim, result: str, detail: str) -> None:
    one.phase, one.result, one.detail, one.changed = Phase.ENDED, result, detail, True


def _claim_rows(changed: Sequence[_Claim], start_within_s: float) -> list[dict[str, Any]]:
    return [
        {
            "id": one.id,
            "place": one.place,
            "phase": one.phase.value,
            "host": one.host,
            "result": one.result,
            "detail": one.detail[:_LONGEST_DETAIL],
            "log_uploaded": one.log_uploaded,
            "lease_until": start_within_s if one.lease else None,
        }
        for one in changed
    ]


def _job_rows(changed: Sequence[_Claim]) -> list[dict[str, Any]]:
    """Return the jobs' states: those that ran end for good, their token blanked; others are free."""
    rows = []
    for one in changed:
        row = {"place": one.job_place, **dict(zip(KEY_COLUMNS, one.key, strict=True)), "command": None}
        if one.phase is Phase.ENDED and one.result in _END_STATES:
            parsed = parse(one.command or "")
            rows.append({**row, "state": one.result, "command": parsed and parsed.payload})
        elif one.phase is Phase.ENDED:
            rows.append({**row, "state": QUEUED})
        elif one.starts or one.job_state not in OPEN_STATES:
            rows.append({**row, "state": row_state(one.phase)})
    return rows
