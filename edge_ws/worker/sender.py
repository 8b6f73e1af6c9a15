"""What the worker has to say: handed to the connection, counted, and said again until it is confirmed."""

from __future__ import annotations

from typing import NoReturn

import anyio

from edge_ws.protocol.frames import WorkerFrame
from edge_ws.worker.jobs import Jobs
from edge_ws.worker.link import Link
from edge_ws.worker.logs import Logs
from edge_ws.worker.vitals import Vitals

AGAIN_EVERY_S = 10.0
"""What the server has not confirmed for so long is said again: it may have lost its database for a moment."""


class Sender:
    """The reports of the table of claims, on the link."""

    def __init__(self, link: Link, jobs: Jobs, vitals: Vitals) -> None:
        self._link = link
        self._jobs = jobs
        self._vitals = vitals
        self._pending: list[WorkerFrame] = []
        """What was not confirmed at the last look."""

    def send(self, frame: WorkerFrame) -> bool:
        """Hand a frame to the connection; False if none is ready."""
        if is_sent := self._link.send(frame):
            self._vitals.sent(frame)
        return is_sent

    def all_anew(self, logs: Logs) -> None:
        """Say everything that is not confirmed: the connection is a new one."""
        for report in self._jobs.reports():
            self.send(report)
        logs.resend(only_stuck=False)

    def again(self, logs: Logs) -> None:
        """Say again what was not confirmed at the last look, either."""
        pending = self._jobs.reports()
        for report in pending:
            if report in self._pending:
                self.send(report)
        self._pending = pending
        logs.resend(only_stuck=True)

    async def run(self, logs: Logs) -> NoReturn:
        """Say again what is not confirmed, for ever."""
        while True:
            await anyio.sleep(AGAIN_EVERY_S)
            self.again(logs)
