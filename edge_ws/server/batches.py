"""Group commit: what arrives while a batch is being written goes into the next one.

No window to wait for: near idle a statement is written at once, under load batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

import anyio

from edge_ws.errors import ConflictError, UnreachableError
from edge_ws.server.threads import ThreadLimit

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

WAITING = 10_000
"""Items that may wait; whoever brings more waits himself."""
AWAY_PAUSE_S = 1.0
"""After the database did not answer, so that a dead one is not asked all the time."""


class Batches(Generic[Item, Answer]):
    """A lane of items that are written many at a time, in their order if there is one writer."""

    def __init__(
        self,
        write: Callable[[list[Item]], list[Answer]],
        answer: Callable[[list[Item], list[Answer]], None],
        most: int,
        *,
        writers: int = 1,
    ) -> None:
        """Make it.

        Args:
            write: commits a batch and returns an answer for each item; runs on a thread.
            answer: takes what was written, with the answers; runs on the event loop.
            most: items in one batch.
            writers: batches that are written at a time, each on a thread: while one waits for the database
                another is made ready.
        """
        self._write = write
        self._answer = answer
        self._most = most
        self._writers = writers
        self._threads = ThreadLimit(threads=writers)
        self._items: deque[Item] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, item: Item) -> None:
        """Add an item; wait only if far too many wait already."""
        while len(self._items) >= WAITING:
            self._room.clear()
            await self._room.wait()
        self._items.append(item)
        self._wake.set()

    async def run(self) -> None:
        """Write batches for ever."""
        async with anyio.create_task_group() as tasks:
            for _ in range(self._writers):
                tasks.start_soon(self._run_writer)

    async def _run_writer(self) -> NoReturn:
        while True:
            while not self._items:
                self._wake.clear()
                await self._wake.wait()
            batch = [self._items.popleft() for _ in range(min(self._most, len(self._items)))]
            self._room.set()
            try:
                await self._write_some(batch)
            except ConflictError:
                # The other one has what it waited for. Later ones may go first: order does not matter.
                self._items.extendleft(reversed(batch))
            except UnreachableError as error:
                # Nothing was answered, so the workers say it again.
                log.warning("Cannot write %d statements of workers, retrying: %s", len(batch), error)
                await asyncio.sleep(AWAY_PAUSE_S)

    async def _write_some(self, batch: list[Item]) -> None:
        """Write a batch; one that fails is halved, until the one bad item is alone and left out."""
        try:
            answers = await self._threads.run(self._write, batch)
        except UnreachableError:
            raise
        except Exception:
            if len(batch) == 1:
                log.exception("Dropped a statement that cannot be written: %r", batch[0])
                return
            middle = len(batch) // 2
            await self._write_some(batch[:middle])
            await self._write_some(batch[middle:])
        else:
            self._answer(batch, answers)
