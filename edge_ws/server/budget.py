"""How much of each worker's statements the gateway holds at a time: what is taken in and not settled yet.

Past its share a worker is not read, which its TCP connection tells it. Counted by worker, not by connection:
who connects again and again gets no more of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable

from edge_ws.protocol.ids import WorkerName

ITEMS = 500
"""Statements of one worker."""
SIZE = 1024 * 1024
"""Bytes of one worker's statements, about."""
SIZE_IN_ALL = 32 * 1024 * 1024
"""The same of all workers; past it each still has room for one statement, so that nobody starves."""
PATIENCE_S = 5.0
"""A worker of which nothing is settled for so long is read again, and what has no room is left out: its
heartbeats are behind that, and it says again what was not acknowledged."""


class Outstanding:
    """The room that one statement takes."""

    __slots__ = ("_budget", "_kind", "_share", "_size")

    def __init__(self, budget: Budget, share: _Share, size: int, kind: Hashable) -> None:
        self._budget, self._share, self._size, self._kind = budget, share, size, kind

    def leave(self) -> None:
        """Give the room back; once only."""
        self._budget.leave(self._share, self._size, self._kind)


class _Share:
    """What one worker has outstanding."""

    def __init__(self, worker: WorkerName) -> None:
        self.worker = worker
        self.items = 0
        self.size = 0
        self.kinds: Counter[Hashable] = Counter()
        self.freed = asyncio.Event()
        self.is_stuck = False
        """Whether somebody has waited for room in vain since the last time that some came free."""


class Budget:
    """The shares of all workers."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._shares: dict[WorkerName, _Share] = {}
        """Of those who have something outstanding."""
        self._size = 0

    async def enter(
        self, worker: WorkerName, size: int, kind: Hashable = None, most: int = 0
    ) -> Outstanding | None:
        """Take room for a statement, once there is some; return None if none comes free in time.

        Args:
            worker: whose it is.
            size: bytes that it takes, about.
            kind: of what it is one; None: of nothing that is counted.
            most: of that kind the worker may have so many outstanding.
        """
        while (share := self._shares.get(worker)) is not None and self._is_full(share, size, kind, most):
            if share.is_stuck or not await self._is_freed(share):
                return None
        if share is None:
            share = self._shares[worker] = _Share(worker)
        share.items += 1
        share.size += size
        self._size += size
        if kind is not None:
            share.kinds[kind] += 1
        return Outstanding(self, share, size, kind)

    def _is_full(self, share: _Share, size: int, kind: Hashable, most: int) -> bool:
        # Whoever waits has something outstanding, and is woken when that is settled.
        return (
            share.items >= ITEMS
            or share.size + size > SIZE
            or self._size + size > SIZE_IN_ALL
            or (kind is not None and share.kinds[kind] >= most)
        )

    async def _is_freed(self, share: _Share) -> bool:
        share.freed.clear()
        try:
            async with asyncio.timeout(self._patience_s):
                await share.freed.wait()
        except TimeoutError:
            share.is_stuck = True
            return False
        return True

    def leave(self, share: _Share, size: int, kind: Hashable) -> None:
        """Give a place's room back."""
        share.items -= 1
        share.size -= size
        self._size -= size
        if kind is not None:
            share.kinds[kind] -= 1
            if not share.kinds[kind]:
                del share.kinds[kind]
        if not share.items:
            del self._shares[share.worker]
        share.is_stuck = False
        share.freed.set()
