"""Waiting for conditions with a deadline, and ports nobody uses: what tests take instead of sleeping."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
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
    """Return a TCP port that was free on loopback a moment ago.

    Below the range from which the kernel takes ports for outgoing connections: one of those, by another test
    or program, could take a port from there before its server listens.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
