"""Virtual time and one random source: what happens when, and what has happened."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
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
        self._random = self.rng.random
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self.loop = _Loop(self)  # type: ignore[abstract]
        self._numbers = itertools.count()
        self._ids = itertools.count(1)

    def at(self, delay_s: float, do: Callable[..., Any], *args: Any) -> None:
        """Do it after that time."""
        heapq.heappush(self._heap, (self.now + delay_s, next(self._numbers), do, args))

    def within(self, least_s: float, most_s: float) -> float:
        """Return a duration."""
        return least_s + (most_s - least_s) * self._random()

    def chance(self, probability: float) -> bool:
        """Throw a coin."""
        return self._random() < probability

    def id(self, kind: str) -> str:
        """Return a new name."""
        return f"{kind}{next(self._ids)}"

    def note(self, words: str, *args: Any) -> None:
        """Write into the history; formatted only if somebody reads it."""
        self.history.append((self.now, words, args))

    def run(self, until: float) -> None:
        """Let everything happen that happens until then."""
        heap, ready, pop = self._heap, self.loop.ready, heapq.heappop
        while True:
            while ready:
                ready.popleft().run()
            if not heap or heap[0][0] > until:
                break
            self.now, _, do, args = pop(heap)
            do(*args)
        self.now = max(self.now, until)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run code that needs an event loop; what it fails of ends the history."""
        task = self.loop.create_task(work)
        task.add_done_callback(_failed)
        return task

    def end(self) -> None:
        """Let go of everything that still waits."""
        for _ in range(3):
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            with suppress(Exception):
                while self.loop.ready:
                    self.loop.ready.popleft().run()

    def told(self) -> str:
        """Return the history, a line each."""
        return "\n".join(f"{at:9.3f}  {words % args if args else words}" for at, words, args in self.history)

    @contextmanager
    def as_loop(self) -> Iterator[None]:
        """Be the event loop, the monotonic clock and the randomness of all code that asks for them."""
        asyncio._set_running_loop(self.loop)
        clock, time.monotonic = time.monotonic, lambda: self.now
        before, sniffio.thread_local.name = sniffio.thread_local.name, "asyncio"
        randomness = random.getstate()
        random.seed(self.rng.random())
        try:
            yield
        finally:
            self.end()
            random.setstate(randomness)
            sniffio.thread_local.name = before
            time.monotonic = clock
            asyncio._set_running_loop(None)


def _failed(task: asyncio.Task[None]) -> None:
    """Raise what a task failed of; a rule that was broken comes out of the groups it was raised in."""
    error = None if task.cancelled() else task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


class _Handle:
    """Something that is to be called, unless it is called off."""

    __slots__ = ("_args", "_at", "_call")

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...], at: float) -> None:
        self._call: Callable[..., Any] | None = call
        self._args, self._at = args, at

    def run(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call(*self._args)

    def cancel(self) -> None:
        self._call = None

    def cancelled(self) -> bool:
        return self._call is None

    def when(self) -> float:
        return self._at


class _Loop(asyncio.AbstractEventLoop):
    """What asyncio's and anyio's own parts need of an event loop, in virtual time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.ready: deque[_Handle] = deque()

    def time(self) -> float:
        return self._world.now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = _Handle(callback, args, self._world.now)
        self.ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = _Handle(callback, args, when)
        self._world.at(max(0.0, when - self._world.now), handle.run)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        return self.call_at(self._world.now + delay, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, **_: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name)

    def get_task_factory(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Of tasks that nobody waits for any more."""
