"""Runs the store's verbs in threads: database work is never on the event loop.

A threads is a number of threads; who shares one waits for the others on it, and for nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

P = ParamSpec("P")
T = TypeVar("T")


class ThreadLimit:
    """Up to `threads` calls at a time; further ones wait their turn."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `verb` in a thread and return what it returns."""
        if self._limiter is None:
            # Made here and not in __init__, which runs before there is an event loop.
            self._limiter = anyio.CapacityLimiter(self._threads)
        return await anyio.to_thread.run_sync(partial(verb, *args, **kwargs), limiter=self._limiter)
