"""Counts slots: taken before anything is started, given back when its process is gone."""

from __future__ import annotations

from edge_ws.protocol.ids import ClaimId


class Slots:
    """The worker's slots by claim. Concurrency may fall below what is taken: the excess drains."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._taken: dict[ClaimId, int] = {}

    @property
    def taken(self) -> int:
        """Slots in use."""
        return sum(self._taken.values())

    @property
    def free(self) -> int:
        """Slots that may be taken; never negative."""
        return max(0, self.concurrency - self.taken)

    def take(self, claim: ClaimId, slots: int) -> bool:
        """Take slots for a claim; False, and nothing taken, if there are not so many."""
        if slots > self.free:
            return False
        self._taken[claim] = slots
        return True

    def hold(self, claim: ClaimId, slots: int) -> None:
        """Note slots that a process holds already, whether or not there is room."""
        self._taken[claim] = slots

    def give_back(self, claim: ClaimId) -> None:
        """Free the claim's slots; twice is fine."""
        self._taken.pop(claim, None)

    def of(self, claim: ClaimId) -> int:
        """Return the slots that the claim holds."""
        return self._taken.get(claim, 0)
