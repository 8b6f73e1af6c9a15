"""A worker's reports one at a time, for tests that have but one; a gateway hands over many at once."""

from __future__ import annotations

from edge_ws.protocol.frames import Accept, Finished, Log, NotStarted, PhaseIs, Refuse
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.store.records import Principal, Verdict
from edge_ws.store.reports import ClaimReport, Outcome, ReportStore


class SingleReports:
    def __init__(self, reports: ReportStore) -> None:
        self._reports = reports

    def accept(
        self, principal: Principal, claim_id: ClaimId, host: HostId, *, start_within_s: float
    ) -> Outcome:
        """Let the worker start the claim: the compare-and-set after which `go` may be sent."""
        report = Accept(claim=claim_id, host=host)
        return self._reports.take([(principal, report)], start_within_s=start_within_s)[0]

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

    def not_started(self, principal: Principal, claim_id: ClaimId, reason: str, fault: str = "") -> Outcome:
        """Note that an accepted claim will never start; unless it is the host's fault, the reaper decides."""
        return self._take_one(principal, NotStarted(claim=claim_id, reason=reason, fault=fault))

    def unknown(self, principal: Principal, claim_id: ClaimId) -> Outcome:
        """Note that the worker does not know the claim and refuses it from now on."""
        return self._take_one(principal, PhaseIs(claim=claim_id, phase=Phase.UNKNOWN))

    def _take_one(self, principal: Principal, report: ClaimReport) -> Outcome:
        return self._reports.take([(principal, report)], start_within_s=0.0)[0]

    def append_log(self, principal: Principal, claim_id: ClaimId, offset: int, data: bytes) -> int | Verdict:
        """Append one chunk."""
        return self._reports.append_logs([(principal, Log(claim=claim_id, offset=offset, data=data))])[0]
