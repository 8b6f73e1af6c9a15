"""Virtual time and one random source: what happens when, and what has happened."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sniffio


class Violation(AssertionError):  # noqa: N818 - what it is is said so
    """Something happened that must never happen."""


class World:
    """A clock, a heap of what is to come, and the history."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.history: list[tuple[float, str, tuple[Any, ...]]] = []
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._ids = itertools.count(1)

    def at(self, delay_s: float, do: Callable[..., Any], *args: Any) -> None:
        """Do it after that time."""
        heapq.heappush(self._heap, (self.now + delay_s, next(self._numbers), do, args))

    def within(self, least_s: float, most_s: float) -> float:
        """Return a duration."""
        return least_s + (most_s - least_s) * self.rng.random()

    def chance(self, probability: float) -> bool:
        """Throw a coin."""
        return self.rng.random() < probability

    def id(self, kind: str) -> str:
        """Return a new name."""
        return f"{kind}{next(self._ids)}"

    def note(self, words: str, *args: Any) -> None:
        """Write into the history; formatted only if somebody reads it."""
        self.history.append((self.now, words, args))

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let everything happen that happens until then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, do, args = heapq.heappop(heap)
            do(*args)
            if stop():
                return
        self.now = max(self.now, until)

    def told(self) -> str:
        """Return the history, a line each."""
        return "\n".join(f"{at:9.3f}  {words % args if args else words}" for at, words, args in self.history)

    @contextmanager
    def as_loop(self) -> Iterator[None]:
        """Be the clock of all code that asks the time of an event loop, or the monotonic one."""
        asyncio._set_running_loop(_Clock(self))  # type: ignore[arg-type]
        clock, time.monotonic = time.monotonic, lambda: self.now
        before, sniffio.thread_local.name = sniffio.thread_local.name, "asyncio"
        try:
            yield
        finally:
            sniffio.thread_local.name = before
            time.monotonic = clock
            asyncio._set_running_loop(None)


class _Clock:
    """The one thing of an event loop that is used."""

    def __init__(self, world: World) -> None:
        self._world = world

    def time(self) -> float:
        return self._world.now
