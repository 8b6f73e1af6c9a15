"""One claim as the worker knows it, and what of it the server has yet to hear. Pure; `jobs` changes it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from edge_ws.protocol.frames import (
    Accept,
    Code,
    Count,
    Finished,
    NotStarted,
    Sentence,
    Size,
    Started,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.worker.job_names import JobName
from edge_ws.worker.outcomes import Call


@dataclass(slots=True, kw_only=True)
class Record:
    """A claim as the worker must remember it over its own restarts. Written to disk as it stands."""

    claim: ClaimId
    slots: Count
    phase: Phase
    """What the worker knows."""
    host: HostId | None = None
    log_path: str | None = None
    log_start: Size = 0
    """Size of the log file when the claim began: earlier rounds of the task write into the same file."""
    exit_code: Code | None = None
    detail: Sentence = ""
    log_uploaded: bool = False
    not_started: Sentence | None = None
    """Why it never ran."""
    fault: Sentence = ""
    """Whose fault that is; see `ids.HOST`."""
    stale: bool = False
    """The server wants to hear no more of it; its process runs on and holds its slots."""
    subject: JobName | None = None
    """For people; an older release writes none."""
    outcome: Sentence = ""
    """The state that Airflow was told, or is to be told, that the task has come to."""
    owed: Call | None = None
    """The request that tells it, if Airflow has not answered it yet."""


@dataclass(slots=True, kw_only=True)
class Job(Record):
    """One claim: what is kept of it, and what only this life of the daemon knows."""

    phase: Phase = Phase.OFFERED
    log_end: int = 0
    going: bool = False
    doomed: str | None = None
    """Why it cannot run although the claim is taken: it fails as soon as it is ours."""
    started_acked: bool = False
    log_flushed: bool = False
    wants_token: bool = True
    """For the request that is owed; without effect if there is none."""
    delivered: bool = False
    """There was one, and it is settled."""

    @classmethod
    def restored(cls, record: Record) -> Job:
        """Return the job that the disk kept the record of."""
        # Whether its token came is not on disk: it counts as come, and the host knows better.
        return cls(**_kept(record), going=record.phase is not Phase.OFFERED)

    @property
    def has_process(self) -> bool:
        """Whether a process of it may be there."""
        return self.phase is not Phase.ENDED and self.not_started is None

    @property
    def is_untried(self) -> bool:
        """Whether it may still turn out that it cannot be started here."""
        return self.has_process and self.phase in {Phase.OFFERED, Phase.ACCEPTED}

    def record(self) -> Record:
        """Return what the disk is to keep of it, as it is now."""
        return Record(**_kept(self))

    def owe(self, outcome: str, owed: Call | None) -> bool:
        """Note the outcome, and the request that tells it if that is still owed; tell whether it is new."""
        self.outcome = outcome or self.outcome
        is_new = owed is not None and self.owed is None and not self.delivered
        if is_new:
            self.owed = owed
        return is_new

    def report(self, *, mints: bool) -> WorkerFrame | None:
        """Return what the server has not confirmed yet, None if there is nothing to say.

        `mints`: the gateway gives tokens with which outcomes can be delivered.
        """
        if self.stale:
            return None
        if self.not_started is not None:
            return NotStarted(claim=self.claim, reason=self.not_started, fault=self.fault)
        if self.owed is not None and mints:
            return self._owing()
        if self.phase is Phase.ENDED:
            return self._finished() if self.log_flushed else None
        return self._begun()

    def _begun(self) -> WorkerFrame | None:
        if self.phase is Phase.STARTED and self.host is not None and not self.started_acked:
            return Started(claim=self.claim, host=self.host)
        if self.phase is Phase.ACCEPTED and self.host is not None and not self.going:
            return Accept(claim=self.claim, host=self.host)
        return None

    def _owing(self) -> WorkerFrame | None:
        if self.host is None or (self.started_acked and not self.wants_token):
            return None
        return Started(claim=self.claim, host=self.host, owes=self.wants_token)

    def _finished(self) -> Finished:
        code, detail = self.exit_code or 0, self.detail
        if self.owed is not None:
            # Nobody can deliver it: what is told must not look like an end that Airflow knows.
            code = code or 1
            detail = f"Airflow has not taken the task's outcome ({self.outcome}), and the gateway's release "
            detail += "cannot have it delivered; upgrade the gateway"
        return Finished(
            claim=self.claim,
            exit_code=code,
            log_end=self.log_end,
            detail=detail,
            log_uploaded=self.log_uploaded,
        )


def _kept(record: Record) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(Record)}
