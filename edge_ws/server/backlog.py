"""Remembers in which queues jobs may wait, so that a look asks for those alone. Pure; asks nobody.

Cleared before a look, set again after it: what arrives while the database is asked is looked at once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


class Backlog:
    """All queues, each either known to be empty or not; at first nothing is known."""

    def __init__(self) -> None:
        self._others_are_empty = False
        self._exceptions: set[str] = set()
        """Queues that are not as the others."""
        self._due = True
        self._can_take_more = False
        """Somebody got a free slot since the last look began."""

    @property
    def is_due(self) -> bool:
        """Tell whether a look is worth it."""
        return self._due

    def filled(self, queues: Iterable[str]) -> None:
        """Note that jobs may wait in these queues now."""
        if self.left(queues):
            self._due = True

    def forget(self, served: Collection[str] | None = None) -> None:
        """Note that nothing is known any more.

        Args:
            served: the queues that anybody here serves: what waits in others is nobody's business; None: any.
        """
        self._others_are_empty = served is not None
        self._exceptions = set(served or ())
        self._due = True

    def look_again(self) -> None:
        """Note that somebody may take now what nobody took before."""
        self._can_take_more = True
        self._due = self._due or not self._others_are_empty or bool(self._exceptions)

    def left(self, queues: Iterable[str]) -> bool:
        """Note that jobs were left in these queues; return whether there were any."""
        named = set(queues)
        self._due = self._due or (bool(named) and self._can_take_more)
        if self._others_are_empty:
            self._exceptions |= named
        else:
            self._exceptions -= named
        return bool(named)

    def named(self) -> frozenset[str] | None:
        """Return the queues in which jobs may wait; None: in any but those known to be empty."""
        return frozenset(self._exceptions) if self._others_are_empty else None

    def take(self, served: Collection[str] | None) -> frozenset[str] | None:
        """Return which of the served queues to ask for, and count them as empty from now on.

        Args:
            served: queues that somebody with a free slot serves; None: every queue.

        Returns:
            None: every queue.
        """
        self._due = self._can_take_more = False
        if served is None:
            asked = self.named()
            self._others_are_empty = True
            self._exceptions.clear()
            return asked
        if self._others_are_empty:
            asked = frozenset(self._exceptions & set(served))
            self._exceptions -= asked
        else:
            asked = frozenset(set(served) - self._exceptions)
            self._exceptions |= asked
        return asked
