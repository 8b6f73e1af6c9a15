"""What happens at this gateway, told in the words of its parts: each thing is counted, and noted for people.

The one object that the gateway's parts tell; what becomes of it is `figures`' and `events`' business.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import assert_never

from edge_ws.protocol.frames import Accept, Applied, Bye, Finished, NotStarted, PhaseIs, Refuse, Started
from edge_ws.protocol.ids import HOST, ClaimId, WorkerName
from edge_ws.protocol.session import Close, CloseCode
from edge_ws.protocol.states import Phase
from edge_ws.server.events import Events
from edge_ws.server.figures import Figures
from edge_ws.store.records import OpenClaim
from edge_ws.store.reports import ClaimReport
from edge_ws.texts import words

_WHY = {
    CloseCode.SILENT: "nothing was heard of it",
    CloseCode.REPLACED: "a newer connection took over",
    CloseCode.TOO_SLOW: "it takes no bytes",
    CloseCode.PROTOCOL: "it broke the protocol",
    CloseCode.TOO_LARGE: "it sent too large a message",
    CloseCode.REFUSED: "it is refused",
    CloseCode.UNAVAILABLE: "the gateway could not serve it",
    CloseCode.GOING_AWAY: "the gateway is leaving",
    CloseCode.RESTARTING: "the gateway begins anew",
}
_SOFT = frozenset({"unavailable"})
"""Refusals after which the worker just comes again: they are counted, and nobody is told."""


class Chronicle:
    """Counts and notes; for the event loop alone, unless a method says otherwise."""

    def __init__(self, figures: Figures | None = None, events: Events | None = None) -> None:
        """Make it; without `events` nothing is noted."""
        self.figures = figures or Figures()
        self._events = events

    def _note(self, kind: str, worker: str, said: str = "", claim: str | None = None) -> None:
        if self._events is not None:
            self._events.note(kind, worker=worker, words=said, claim=claim)

    # Connections

    def connected(self, worker: WorkerName, transport: str, why: object = None) -> None:
        """A worker has been let in; `why`: it comes by this transport, in its words."""
        self.figures.count("connects", transport)
        reason = f": {words(str(why))}" if why and transport == "longpoll" else ""
        self._note("connected", worker, f"by {transport}{reason}")

    def disconnected(self, worker: WorkerName, left: Bye | None, close: Close | None) -> None:
        """A worker that was let in is gone: it said goodbye, was closed from here, or its line broke."""
        if left is not None or (close is not None and close.code is CloseCode.LEAVING):
            reason, why = "left", "it left"
        elif close is not None:
            reason, why = close.code.name.lower(), _WHY.get(close.code, close.code.name.lower())
        else:
            reason, why = "lost", "its connection broke"
        self.figures.count("drops", reason)
        self._note("disconnected", worker, why)

    def refused(
        self, code: str, sentence: str, *, worker: str | None, address: str | None, is_known: bool = False
    ) -> None:
        """Somebody was not let in, or no further.

        Args:
            code: of `Refusal`.
            sentence: why.
            worker: as whom it came.
            address: from where.
            is_known: it is that worker; else anybody may have come by that name.
        """
        self.figures.count("refusals", code)
        if self._events is not None and code not in _SOFT:
            stranger = None if is_known else address or "nowhere"
            told = f"{code}: {sentence}"
            self._events.note("refused", worker=worker or None, words=told, stranger=stranger)

    def silent(self, worker: WorkerName) -> None:
        """No gateway has heard of a worker for a while. From any thread."""
        self._note("silent", worker, "no gateway has heard of it for a while")

    # Jobs

    def reported(self, worker: WorkerName, report: ClaimReport) -> None:
        """A worker's report of a claim that it holds has taken effect."""
        match report:
            case Started():
                self.figures.started(report.claim)
            case Finished():
                self.figures.count("ends", "success" if report.exit_code == 0 else "failed")
            case NotStarted():
                if report.fault == HOST:
                    # Else its end is yet to be settled, by the task's state.
                    self.figures.count("ends", "not_started")
                self._note("not_started", worker, report.reason, report.claim)
            case Refuse():
                self.figures.offer_ended(report.claim, "refused")
                self._note("offer_refused", worker, report.reason, report.claim)
            case PhaseIs():
                if report.phase is Phase.UNKNOWN:
                    self.figures.offer_ended(report.claim, "unknown")
            case Accept():
                raise AssertionError("an accept that won is Accepted")
            case _:
                assert_never(report)

    def offer_expired(self, worker: WorkerName, claim: ClaimId) -> None:
        """A worker has not answered an offer in time."""
        self.figures.offer_ended(claim, "expired")
        self._note("offer_expired", worker, "it did not answer in time; the job is free again", claim)

    def taken_back(self, worker: WorkerName, claims: Iterable[ClaimId]) -> None:
        """Offers are taken back, as an operator's wish does not admit them."""
        for claim in claims:
            self.figures.offer_ended(claim, "taken_back")
            self._note("taken_back", worker, "an operator wished otherwise; the job is free again", claim)

    def host_died(self, worker: WorkerName, claims: Iterable[ClaimId]) -> None:
        """A job host is dead, and what ran under it has ended with it."""
        for claim in claims:
            if not self.figures.is_about_to_start(claim):
                # What had not started is settled by its task's state, and is told then.
                self.figures.count("ends", "lost")
            self._note("lost", worker, "the job host died, and its processes with it", claim)

    def cancelled(self, one: OpenClaim, why: str) -> None:
        """A worker is told to stop a job."""
        self.figures.count("cancels")
        self._note("cancelled", one.worker, why, one.claim)

    def settled(self, one: OpenClaim, outcome: str, detail: str) -> None:
        """A claim of which nobody reports was settled: `not_started` or `lost`, or its job was given up."""
        self.figures.count("ends", outcome)
        self._note(
            {"not_started": "not_started", "lost": "lost"}.get(outcome, "removed"),
            one.worker,
            detail,
            one.claim,
        )

    # Wishes

    def applied(self, worker: WorkerName, said: Applied) -> None:
        """A worker has said what is in force."""
        if self.figures.applied(worker, said.revision):
            queues = "every queue" if said.queues is None else f"queues {', '.join(said.queues)}"
            state = " in maintenance," if said.maintenance else ""
            state += " leaving," if said.leaving else ""
            self._note("applied", worker, f"in force:{state} {said.concurrency} slots, {queues}")

    @staticmethod
    def clock() -> float:
        """Return the time by which wishes are measured."""
        return time.monotonic()
