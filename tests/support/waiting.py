"""Waiting for conditions with a deadline, and ports nobody uses: what tests take instead of sleeping."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], deadline_s: float = 10.0, *, every_s: float = 0.01) -> T:
    """Call `predicate` until it returns something true, and return that; fail after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while True:
        if value := predicate():
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline_s:g} s: {predicate}")
        time.sleep(every_s)


async def until(predicate: Callable[[], T], deadline_s: float = 10.0, *, every_s: float = 0.01) -> T:
    """As `wait_until`, in an event loop."""
    end = time.monotonic() + deadline_s
    while True:
        if value := predicate():
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline_s:g} s: {predicate}")
        await anyio.sleep(every_s)


def free_port() -> int:
    """Return a TCP port that was free on loopback a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
