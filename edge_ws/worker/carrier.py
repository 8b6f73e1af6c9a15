"""Carries out what the table of claims decides, one action at a time.

The daemon's hands: it knows who does each thing, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from edge_ws.protocol.frames import WorkerFrame
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
from edge_ws.worker.host_client import Hosts
from edge_ws.worker.job_log import JobLog
from edge_ws.worker.jobs import Jobs
from edge_ws.worker.logs import Logs, log_line
from edge_ws.worker.network import ExecutionApi
from edge_ws.worker.outbox import Outbox
from edge_ws.worker.outcomes import Deliveries


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """Who does what."""

    send: Callable[[WorkerFrame], object]
    outbox: Outbox
    logs: Logs
    hosts: Hosts
    deliveries: Deliveries
    execution_api: ExecutionApi
    job_log: JobLog
    jobs: Jobs
    cancel_grace_s: Callable[[], float]
    """As the gateway last dictated."""

    def carry_out(self, action: Action) -> None:
        """Do it; nothing here blocks for long."""
        match action:
            case Send():
                self.send(action.frame)
            case Keep():
                self.outbox.save(action.record)
                self.job_log.kept(action.record)
            case KeepDead():
                self.outbox.save_dead(action.hosts)
            case TailLog():
                self.logs.tail(action.claim, action.path, action.log_start)
            case StopLog():
                self.logs.drop(action.claim)
            case FlushLog():
                self.logs.flush(action.claim, log_line(action.line) if action.line else b"")
            case _:
                self._do_for_job(action)

    def _do_for_job(self, action: Prepare | Start | Drop | Stop | Deliver | Forget) -> None:
        match action:
            case Deliver():
                self.deliveries.deliver(action.claim, action.call, action.token)
            case Prepare():
                api = self.execution_api
                self.hosts.prepare(action.claim, action.payload, api.url, api.proxy)
            case Start():
                self.hosts.go(action.claim, action.token, self.cancel_grace_s())
            case Drop():
                self.hosts.drop(action.claim)
            case Stop():
                look = action.grace_s is None
                grace_s = self.cancel_grace_s() if action.grace_s is None else action.grace_s
                self.hosts.cancel(action.claim, grace_s, action.reason, look=look)
                if (job := self.jobs.get(action.claim)) is not None:
                    self.job_log.stopping(job, action.reason)
            case Forget():
                self.hosts.forget(action.claim)
                self.logs.drop(action.claim)
                self.outbox.drop(action.claim)
                self.deliveries.forget(action.claim)
                self.job_log.forgotten(action.claim)
            case _:
                assert_never(action)
