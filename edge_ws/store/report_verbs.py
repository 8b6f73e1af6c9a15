"""What workers report about their claims: many reports of many workers, judged in order, one transaction.

Each report runs for the Principal that sent it and touches only that worker's claims. A report may be
repeated or come late; for a claim that is not live it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.frames import Accept, Finished, Log, NotStarted, PhaseIs, Refuse, Started
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase, phases_before
from edge_ws.store.bulk import any_of, update_many
from edge_ws.store.command import parse
from edge_ws.store.database import Database
from edge_ws.store.live import (
    FAILED,
    KEY_COLUMNS,
    OPEN_STATES,
    QUEUED,
    RUNNING,
    SUCCESS,
    held,
    row_state,
)
from edge_ws.store.records import CALLBACK_DAG_ID, Accepted, Principal, Verdict
from edge_ws.store.tables import claim, edge_job, epoch_now, log, utc_now

ClaimReport = Accept | Refuse | Started | Finished | NotStarted | PhaseIs
Outcome = Accepted | Verdict

MANY = 500
"""Reports in one transaction, at the most."""
_NEW_JOB_STATES = {SUCCESS: SUCCESS, FAILED: FAILED}


@dataclass(slots=True)
class _Claim:
    """A live claim while a batch is judged: what the database had, and what the batch makes of it."""

    id: ClaimId
    worker: str
    subject: str
    is_callback: bool
    phase: Phase
    host: str | None
    result: str | None
    job_state: str
    detail: str = ""
    log_uploaded: bool = False
    lease: bool = False
    """A token is to be minted: nobody else gets the job while it lives."""
    changed: bool = False

    @property
    def ended_before(self) -> bool:
        """Tell whether this batch has ended it."""
        return self.phase is Phase.ENDED


class ReportVerbs:
    """Reports about claims, and their logs."""

    _database: Database

    def take(self, batch: Sequence[tuple[Principal, ClaimReport]], *, start_within_s: float) -> list[Outcome]:
        """Judge the reports in their order and write what they change.

        Args:
            batch: at most MANY reports with those on whose behalf they are.
            start_within_s: life of a token minted for an `accept`, plus Airflow's leeway.

        Returns:
            For each report what became of it. For an accept that won: Accepted; mint a token and say `go`
            (also when the same host accepts again: its `go` was lost).
        """
        with self._database.write() as connection:
            live = _find_live(connection, [report.claim for _, report in batch])
            outcomes = [_judge(live.get(report.claim), who, report) for who, report in batch]
            changed = [one for one in live.values() if one.changed]
            _write_accepted(connection, changed, start_within_s)
            _write_started(connection, changed)
            _write_ended(connection, changed)
            _write_marks(connection, changed)
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
        query = sa.select(claim.c.id, claim.c.worker).where(
            any_of(connection, claim.c.id, list(asked)), claim.c.result.in_((SUCCESS, FAILED))
        )
        for row in connection.execute(query).all():
            if batch[asked[row.id]][0].worker == row.worker:
                outcomes[asked[row.id]] = Verdict.DONE

    # One at a time, for callers that have but one.

    def accept(
        self, principal: Principal, claim_id: ClaimId, host: HostId, *, start_within_s: float
    ) -> Outcome:
        """Let the worker start the claim: the compare-and-set after which `go` may be sent."""
        report = Accept(claim=claim_id, host=host)
        return self.take([(principal, report)], start_within_s=start_within_s)[0]

    def refuse(self, principal: Principal, claim_id: ClaimId, reason: str) -> Outcome:
        """Free the job of an offer that the worker does not take."""
        return self._take_one(principal, Refuse(claim=claim_id, reason=reason))

    def started(self, principal: Principal, claim_id: ClaimId, host: HostId | None) -> Outcome:
        """Note that the task runs."""
        return self._take_one(principal, PhaseIs(claim=claim_id, phase=Phase.STARTED, host=host))

    def finished(
        self, principal: Principal, claim_id: ClaimId, exit_code: int, detail: str, *, log_uploaded: bool
    ) -> Outcome:
        """End the job as the worker saw it end; the executor judges it against the task's own state."""
        report = Finished(
            claim=claim_id, exit_code=exit_code, log_end=0, detail=detail, log_uploaded=log_uploaded
        )
        return self._take_one(principal, report)

    def not_started(self, principal: Principal, claim_id: ClaimId, reason: str) -> Outcome:
        """Note that an accepted claim will never start; the reaper asks the task's state and decides."""
        return self._take_one(principal, NotStarted(claim=claim_id, reason=reason))

    def unknown(self, principal: Principal, claim_id: ClaimId) -> Outcome:
        """Note that the worker does not know the claim and refuses it from now on."""
        return self._take_one(principal, PhaseIs(claim=claim_id, phase=Phase.UNKNOWN))

    def _take_one(self, principal: Principal, report: ClaimReport) -> Outcome:
        return self.take([(principal, report)], start_within_s=0.0)[0]

    # Logs

    def append_logs(self, batch: Sequence[tuple[Principal, Log]]) -> list[int | Verdict]:
        """Append log bytes; what is there already is not written again, and a gap is not jumped.

        Returns:
            For each: the bytes that the store now has, where the worker goes on; or STALE.
        """
        with self._database.write() as connection:
            query = sa.select(claim.c.id, claim.c.worker, claim.c.log_end).join(edge_job, held)
            query = query.where(any_of(connection, claim.c.id, list({frame.claim for _, frame in batch})))
            rows = connection.execute(query.with_for_update(of=claim)).all()
            ends = {row.id: int(row.log_end) for row in rows}
            workers = {row.id: row.worker for row in rows}
            before = dict(ends)
            chunks: list[dict[str, Any]] = []
            outcomes: list[int | Verdict] = []
            for who, frame in batch:
                if workers.get(frame.claim) != who.worker:
                    outcomes.append(Verdict.STALE)
                    continue
                end = ends[frame.claim]
                new = frame.data[end - frame.offset :] if frame.offset <= end else b""
                if new:
                    chunks.append({"claim": frame.claim, "log_offset": end, "data": new})
                    ends[frame.claim] = end + len(new)
                outcomes.append(ends[frame.claim])
            if chunks:
                connection.execute(log.insert(), chunks)
                grown = [{"id": one, "log_end": end} for one, end in ends.items() if end != before[one]]
                update_many(connection, claim, "id", grown, log_state="held")
        return outcomes

    def append_log(self, principal: Principal, claim_id: ClaimId, offset: int, data: bytes) -> int | Verdict:
        """As `append_logs`, for one chunk."""
        return self.append_logs([(principal, Log(claim=claim_id, offset=offset, data=data))])[0]


def _find_live(connection: Connection, ids: Sequence[ClaimId]) -> dict[ClaimId, _Claim]:
    """Return those of the claims that are live, their jobs locked, in key order as everywhere."""
    query = (
        sa.select(
            claim.c.id,
            claim.c.worker,
            claim.c.subject,
            claim.c.dag_id,
            claim.c.phase,
            claim.c.host,
            claim.c.result,
            edge_job.c.state,
        )
        .join(edge_job, held)
        .where(any_of(connection, claim.c.id, sorted(set(ids))))
        .order_by(*(edge_job.c[name] for name in KEY_COLUMNS))
        .with_for_update(of=edge_job)
    )
    return {
        row.id: _Claim(
            id=row.id,
            worker=row.worker,
            subject=row.subject,
            is_callback=row.dag_id == CALLBACK_DAG_ID,
            phase=Phase(row.phase),
            host=row.host,
            result=row.result,
            job_state=row.state,
        )
        for row in connection.execute(query)
    }


def _judge(one: _Claim | None, who: Principal, report: ClaimReport) -> Outcome:
    """Decide what the report does to the claim, and do it to `one`."""
    if one is None or one.worker != who.worker or one.ended_before:
        repeated = one is not None and one.worker == who.worker and isinstance(report, Finished)
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
        case Finished():
            _end(one, SUCCESS if report.exit_code == 0 else FAILED, report.detail)
            one.log_uploaded = report.log_uploaded
        case NotStarted():
            one.result, one.detail, one.changed = "not_started", report.reason, True
        case PhaseIs():
            _answer_to_query(one, report)
    return Verdict.DONE


def _start(one: _Claim, host: HostId | None) -> None:
    if one.phase in phases_before(Phase.STARTED):
        one.phase, one.result, one.changed = Phase.STARTED, None, True
        one.host = host or one.host


def _answer_to_query(one: _Claim, report: PhaseIs) -> None:
    unknown = "the worker does not know the claim"
    if report.phase is Phase.STARTED:
        _start(one, report.host)
    elif report.phase is Phase.UNKNOWN and one.phase is Phase.OFFERED:
        _end(one, "refused", unknown)
    elif report.phase is Phase.UNKNOWN:
        one.result, one.detail, one.changed = "not_started", unknown, True


def _accept(one: _Claim, report: Accept) -> Outcome:
    if one.result is not None or (one.phase is Phase.ACCEPTED and one.host != report.host):
        return Verdict.STALE
    if one.phase not in {Phase.OFFERED, Phase.ACCEPTED}:
        return Verdict.REPEATED
    one.phase, one.host, one.lease, one.changed = Phase.ACCEPTED, report.host, True, True
    return Accepted(subject=one.subject, is_callback=one.is_callback)


def _end(one: _Claim, result: str, detail: str) -> None:
    one.phase, one.result, one.detail, one.changed = Phase.ENDED, result, detail, True


def _write_accepted(connection: Connection, changed: Sequence[_Claim], start_within_s: float) -> None:
    accepted = [one for one in changed if one.phase is Phase.ACCEPTED and one.lease]
    rows = [{"id": one.id, "host": one.host} for one in accepted]
    until = epoch_now() + start_within_s
    update_many(connection, claim, "id", rows, phase=Phase.ACCEPTED.value, lease_until=until)


def _write_started(connection: Connection, changed: Sequence[_Claim]) -> None:
    started = [one for one in changed if one.phase is Phase.STARTED and one.result is None]
    rows = [{"id": one.id, "host": one.host} for one in started]
    update_many(connection, claim, "id", rows, phase=Phase.STARTED.value, lease_until=None, result=None)
    jobs = [{"edge_ws_claim": one.id} for one in started]
    _update_jobs(connection, jobs, state=RUNNING)


def _write_ended(connection: Connection, changed: Sequence[_Claim]) -> None:
    """End claims: those that ran end their jobs for good, with the stored token blanked; others free them."""
    ended = [one for one in changed if one.phase is Phase.ENDED]
    rows = [
        {
            "id": one.id,
            "result": one.result,
            "detail": one.detail[:1000],
            "log_uploaded": one.log_uploaded,
            "host": one.host,
        }
        for one in ended
    ]
    update_many(
        connection,
        claim,
        "id",
        rows,
        phase=Phase.ENDED.value,
        ended_at=epoch_now(),
        lease_until=None,
        log_state=sa.case((claim.c.log_end > 0, "held"), else_="none"),
    )
    over = {one.id: one.result for one in ended if one.result in _NEW_JOB_STATES}
    if over:
        query = sa.select(edge_job.c.edge_ws_claim, edge_job.c.command)
        commands = connection.execute(query.where(any_of(connection, edge_job.c.edge_ws_claim, list(over))))
        jobs = []
        for row in commands.all():
            parsed = parse(row.command)
            command = parsed.payload if parsed else row.command
            jobs.append(
                {"edge_ws_claim": row.edge_ws_claim, "state": over[row.edge_ws_claim], "command": command}
            )
        update_many(connection, edge_job, "edge_ws_claim", jobs, last_update=utc_now())
    free = [{"edge_ws_claim": one.id} for one in ended if one.id not in over]
    _update_jobs(connection, free, state=QUEUED, edge_worker=None, edge_ws_claim=None)


def _write_marks(connection: Connection, changed: Sequence[_Claim]) -> None:
    """Write what is known of the end of claims that are still open, and put their jobs' states back."""
    marked = [one for one in changed if one.phase is not Phase.ENDED and one.result is not None]
    rows = [{"id": one.id, "result": one.result, "detail": one.detail[:1000]} for one in marked]
    update_many(connection, claim, "id", rows)
    for state in OPEN_STATES:
        strange = [
            {"edge_ws_claim": one.id}
            for one in changed
            if one.phase is not Phase.ENDED
            and one.job_state not in OPEN_STATES
            and row_state(one.phase) == state
        ]
        _update_jobs(connection, strange, state=state)


def _update_jobs(connection: Connection, rows: Sequence[dict[str, Any]], **same: Any) -> None:  # noqa: ANN401
    """Change the rows of jobs, found by their claims (whose jobs are locked)."""
    if rows:
        claims = [row["edge_ws_claim"] for row in rows]
        where = any_of(connection, edge_job.c.edge_ws_claim, claims)
        connection.execute(edge_job.update().where(where).values(last_update=utc_now(), **same))
