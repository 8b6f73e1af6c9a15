"""Keeps watch over whether this host is fit for new jobs, and says so as hindrances.

Hears the job hosts' events; decides nothing about single jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

import anyio

from edge_ws.protocol.ids import HOST, HostId
from edge_ws.worker.health import Health
from edge_ws.worker.host_events import HostEvent, HostUp, JobNotStarted, JobStarted, PrepareRefused
from edge_ws.worker.jobs import Jobs
from edge_ws.worker.readiness import FAILING, Hindrances

log = logging.getLogger("edge_ws.worker")


class Fitness:
    """The watch. `on_change` is called, on the event loop, whenever a hindrance has begun or ended."""

    def __init__(self, hindrances: Hindrances, jobs: Jobs, on_change: Callable[[], None]) -> None:
        self._hindrances = hindrances
        self._jobs = jobs
        self._on_change = on_change
        self._health = Health()
        self._host: HostId | None = None
        self._news = anyio.Event()

    def heard(self, event: HostEvent) -> None:
        """Draw conclusions from what a job host tells."""
        match event:
            case HostUp(accepts=True) if event.host != self._host:
                # With other settings or packages: what was wrong may be right now.
                self._host = event.host
                self._well_again()
            case JobStarted():
                self._well_again()
            case JobNotStarted(fault=fault) | PrepareRefused(fault=fault) if fault == HOST:
                self._failed(event.reason)

    def _failed(self, reason: str) -> None:
        if self._health.failed(reason, anyio.current_time()):
            log.error("resting: %s", self._health.sentence)
            self._hindrances.begin(FAILING, self._health.sentence)
            self._changed()

    def _well_again(self) -> None:
        if self._health.started():
            log.info("jobs can be started here again")
            self._hindrances.end(FAILING)
            self._changed()

    def _changed(self) -> None:
        self._jobs.cautious = self._health.is_trying
        self._news.set()
        self._on_change()

    async def run(self) -> NoReturn:
        """Let each rest end in its time."""
        while True:
            self._news = anyio.Event()
            with anyio.move_on_after(self._health.left_s(anyio.current_time())) as rest:
                await self._news.wait()
            if rest.cancelled_caught:
                self._health.try_again()
                self._hindrances.end(FAILING)
                self._changed()
