"""What goes wrong: each fault costs the one thing it came from, and is logged once, counted and shown.

What is expected (`EdgeWsError`) is no fault in this sense, and passes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from edge_ws.faults import visible
from edge_ws.guard import FaultGuard
from edge_ws.protocol.frames import Count, Sentence

log = logging.getLogger("edge_ws.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTold:
    """A fault as a job host tells it."""

    what: Sentence
    error: Sentence
    place: Sentence
    count: Count


class Faults(FaultGuard):
    """All faults of this life of the process, those that its job hosts tell included."""

    def __init__(self) -> None:
        super().__init__(log)
        self._of_hosts: dict[tuple[str, str, str], int] = {}
        """How often each has come, as its job host has told."""

    def odd(self, what: str, place: object, error: str, advice: str) -> None:
        """Log, once a place, something that is not what it should be, and count it."""
        named, advice = visible(str(place)), visible(advice)
        if self.add(f"{what}: {error}", what=what, error=error, place=named, advice=advice):
            log.error("%s (%s): %s; %s", what, named, visible(error), advice)

    def of_host(self, host: str, told: FaultTold) -> None:
        """Take in what a job host tells of one of its faults, anew perhaps; it logs them itself."""
        key = (host, told.place, told.error)
        more = told.count - self._of_hosts.get(key, 0)
        if more > 0:
            self._of_hosts[key] = told.count
            what = f"{told.what}, in job host {host}"
            self.add(told.error, what=what, error=told.error, place=told.place, count=more)
