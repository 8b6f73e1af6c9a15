"""How steady the connection has been in this life of the daemon: losses, and changes of transport. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

MOVED = "moved"
"""A code: another connection has replaced the one in use, by a better transport or before it is cut."""
GATEWAY_LEAVES = "gateway_leaves"
"""A code: the gateway has asked for it."""


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
        self.reconnects: Counter[str] = Counter()
        """Connections after the first, by what ended, or made the worker leave, the one before: a code."""
        self._transport = ""
        self._ended_by = ""

    def ready(self, transport: str) -> None:
        """Hear that a connection is in use from now on."""
        if self._transport and transport != self._transport:
            self.changes += 1
        if self._transport:
            self.reconnects[self._ended_by or MOVED] += 1
        self._transport, self._ended_by = transport, ""

    def leaving(self, why: str) -> None:
        """Hear why the connection in use is to be replaced."""
        self._ended_by = why

    def lost(self, why: str, now: datetime, kind: str = "") -> None:
        """Hear that the connection in use has ended and was not replaced; `kind` is a code for why."""
        self.losses += 1
        self._ended_by = kind
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
