"""How steady the connection has been in this life of the daemon: losses, and changes of transport. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


class Steadiness:
    """Counts what an operator sees of a line that comes and goes."""

    def __init__(self) -> None:
        self.losses = 0
        """Connections that were in use and ended against the worker's will, with no other at hand."""
        self.changes = 0
        """Connections by another transport than the one before."""
        self.lost_at: datetime | None = None
        """The last loss."""
        self.lost_why = ""
        self._transport = ""

    def ready(self, transport: str) -> None:
        """Hear that a connection is in use from now on."""
        if self._transport and transport != self._transport:
            self.changes += 1
        self._transport = transport

    def lost(self, why: str, now: datetime) -> None:
        """Hear that the connection in use has ended and was not replaced."""
        self.losses += 1
        self.lost_at, self.lost_why = now, why

    def told(self) -> Mapping[str, str | int]:
        """Return it under the names that `sysinfo` has for it."""
        told: dict[str, str | int] = {"connection_losses": self.losses, "transport_changes": self.changes}
        if self.lost_at is not None:
            told["connection_lost_at"] = self.lost_at.isoformat(timespec="seconds")
            told["connection_lost_why"] = self.lost_why[:LONGEST_WHY]
        return told


LONGEST_WHY = 200
"""Characters of a reason that travel to the centre with each heartbeat."""
