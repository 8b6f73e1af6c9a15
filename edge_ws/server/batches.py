"""Group commit: what arrives while a batch is being written goes into the next one.

No window to wait for: near idle a statement is written at once, under load batches grow by themselves. Who
sends much waits for its own: a batch takes an item of each sender in turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NoReturn, TypeVar

import anyio

from edge_ws.errors import ConflictError, UnreachableError
from edge_ws.guard import FaultGuard, apart
from edge_ws.server.threads import ThreadLimit

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

AWAY_PAUSE_S = 1.0
"""After the database did not answer, so that a dead one is not asked all the time."""


class Batches(Generic[Item, Answer]):
    """A lane of items that are written many at a time.

    Those of one sender are written in their order, if there is one writer. It holds whatever it is given: who
    puts items bounds them.
    """

    def __init__(
        self,
        write: Callable[[list[Item]], list[Answer]],
        answer: Callable[[Item, Answer], None],
        most: int,
        *,
        sender: Callable[[Item], Hashable] = lambda _: None,
        key: Callable[[Item], Hashable] = id,
        left: Callable[[Item], None] = lambda _: None,
        writers: int = 1,
        guard: FaultGuard | None = None,
        named: Callable[[Item], str] = repr,
    ) -> None:
        """Make it.

        Args:
            write: commits a batch and returns an answer for each item; runs on a thread.
            answer: takes what was written, with its answer; runs on the event loop.
            most: items in one batch.
            sender: returns whose an item is.
            key: of a sender's items with the same key only the newest is written.
            left: called with each item once it is written, or left out; runs on the event loop.
            writers: batches that are written at a time, each on a thread: while one waits for the database
                another is made ready.
            guard: contains what an item raises.
            named: says what an item is.
        """
        self._guard = guard or FaultGuard(log)
        self._named = named
        self._write = write
        self._answer = answer
        self._most = most
        self._sender = sender
        self._key = key
        self._left = left
        self._writers = writers
        self._threads = ThreadLimit(threads=writers)
        self._lines: OrderedDict[Hashable, OrderedDict[Hashable, Item]] = OrderedDict()
        """By sender what it has waiting, by key; the first one's turn is next."""
        self._wake = asyncio.Event()

    def put(self, item: Item) -> None:
        """Add an item, in the place of one with its key if that waits still."""
        line, key = self._line(item), self._key(item)
        older = line.get(key)
        line[key] = item
        if older is not None:
            self._left(older)
        self._wake.set()

    def _put_back(self, item: Item) -> None:
        """Have an item written next of its sender's, unless there is a newer one."""
        line, key = self._line(item), self._key(item)
        if key in line:
            self._left(item)
        else:
            line[key] = item
            line.move_to_end(key, last=False)

    def _line(self, item: Item) -> OrderedDict[Hashable, Item]:
        sender = self._sender(item)
        line = self._lines.get(sender)
        if line is None:
            line = self._lines[sender] = OrderedDict()
        return line

    def _take(self) -> list[Item]:
        """Take the next batch: an item of each sender in turn."""
        batch: list[Item] = []
        while self._lines and len(batch) < self._most:
            sender, line = self._lines.popitem(last=False)
            batch.append(line.popitem(last=False)[1])
            if line:
                self._lines[sender] = line
        return batch

    async def run(self) -> None:
        """Write batches for ever."""
        async with anyio.create_task_group() as tasks:
            for _ in range(self._writers):
                tasks.start_soon(self._guard.keep, "a writer of statements", self._run_writer)

    async def _run_writer(self) -> NoReturn:
        while True:
            while not self._lines:
                self._wake.clear()
                await self._wake.wait()
            batch = self._take()
            try:
                await self._write_some(batch)
            except ConflictError:
                # The other one has what it waited for. Later ones may go first: order does not matter.
                for item in reversed(batch):
                    self._put_back(item)
                continue
            except UnreachableError as error:
                # Nothing was answered, so the workers say it again.
                log.warning("Cannot write %d statements of workers, retrying: %s", len(batch), error)
                await asyncio.sleep(AWAY_PAUSE_S)
            for item in batch:
                self._left(item)

    async def _write_some(self, batch: list[Item]) -> None:
        """Write a batch; one that fails is halved, until the one bad item is alone and left out."""
        for item, answer in await self._threads.run(apart, self._write_paired, batch, self._drop):
            with self._guard.contained(f"the answer to {self._named(item)}"):
                self._answer(item, answer)

    def _write_paired(self, batch: list[Item]) -> list[tuple[Item, Answer]]:
        return list(zip(batch, self._write(batch), strict=True))

    def _drop(self, item: Item, error: Exception) -> None:
        self._guard.note(f"the writing of {self._named(item)}", error)
