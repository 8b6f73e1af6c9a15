"""Who comes with which credential: it is judged so that a stranger delays strangers alone.

What has been found good before is judged anew each time, but never waits behind what has not. A failure
costs its address a delay. Nothing here grows with the number of strangers. Knows no store and no kind of
credential.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import random
import time
from collections.abc import Callable
from typing import TypeVar

from edge_ws.errors import RefusedError
from edge_ws.recent import Recent
from edge_ws.server.threads import ThreadLimit

T = TypeVar("T")

STRANGERS = 50
"""Unknown credentials that are judged at once or wait for it; further ones are sent away unseen."""
CREDENTIALS_KEPT = 20_000
FREE_FAILURES = 3
"""Of an address, before a failure costs a delay: behind a proxy everybody has the same one."""
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 2.0
"""Shorter than anybody waits for an answer: who has a bad credential must hear so."""
FORGIVEN_AFTER_S = 60.0
DELAYED_AT_ONCE = 100
"""Answers that are held back; further ones are given at once: to hold them would cost us more than them."""
ADDRESSES_KEPT = 1000
COME_BACK_PER_S = 100.0
"""Who is sent away is told when to come back, so many a second: thousands return at once after a restart."""
COME_BACK_WITHIN_S = 60.0
"""Nobody is told to come later, however many came before: strangers may have been among them."""


class CrowdedError(Exception):
    """So many strangers wait already that this one is not looked at; it never leaves the server."""


class Entrance:
    """Judges credentials of one kind."""

    def __init__(self) -> None:
        self._known_ones = ThreadLimit(threads=2)
        self._strange_ones = ThreadLimit(threads=1)
        self._strangers = 0
        self._known: Recent[bytes, None] = Recent(CREDENTIALS_KEPT)
        """Hashes of good credentials."""
        self._failures = Failures()
        self._delayed = 0

    async def judge(self, credential: str, address: str | None, verdict: Callable[[], T]) -> T:
        """Return what `verdict` returns, which is called in a thread.

        Args:
            credential: all that the verdict depends on.
            address: where it comes from.
            verdict: raises RefusedError if the credential is not good.

        Raises:
            RefusedError: the verdict's, after the delay that it costs.
            CrowdedError: it is unknown, and too many are.
        """
        digest = hashlib.sha256(credential.encode()).digest()
        try:
            found = await self._in_turn(verdict, is_known=digest in self._known)
        except RefusedError:
            self._known.pop(digest, None)
            await self._delay(self._failures.delay_s(address, time.monotonic()))
            raise
        self._known.put(digest, None)
        return found

    async def _in_turn(self, verdict: Callable[[], T], *, is_known: bool) -> T:
        if is_known:
            return await self._known_ones.run(verdict)
        if self._strangers >= STRANGERS:
            raise CrowdedError
        self._strangers += 1
        try:
            return await self._strange_ones.run(verdict)
        finally:
            self._strangers -= 1

    async def _delay(self, delay_s: float) -> None:
        if delay_s <= 0.0 or self._delayed >= DELAYED_AT_ONCE:
            return
        self._delayed += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._delayed -= 1


class Turns:
    """Gives those who are sent away turns to come back."""

    def __init__(self) -> None:
        self._next = 0.0

    def come_back_s(self, now: float) -> float:
        """Return after how many seconds the next one may come."""
        turn = max(now + 1.0, self._next + 1.0 / COME_BACK_PER_S)
        self._next = min(turn, now + COME_BACK_WITHIN_S)
        # Once all are told the longest time they are spread all the same.
        return round((self._next - now) * random.uniform(0.75, 1.0), 2)  # noqa: S311 - spreads, hides nothing


class Failures:
    """Counts bad credentials by address."""

    def __init__(self) -> None:
        self._of: Recent[str, tuple[int, float]] = Recent(ADDRESSES_KEPT)
        """Address -> failures, and when the last one was."""

    def __len__(self) -> int:
        return len(self._of)

    def delay_s(self, address: str | None, now: float) -> float:
        """Count one more failure; return for how long its answer is held back."""
        origin = network(address)
        count, last = self._of.get(origin, (0, now))
        count = 1 if now - last > FORGIVEN_AFTER_S else count + 1
        self._of.put(origin, (count, now))
        over = count - FREE_FAILURES
        # A shift that is cut: the count has no bound.
        return 0.0 if over <= 0 else min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(over - 1, 10))


def network(address: str | None) -> str:
    """Return what one party has: an IPv4 address, or the /64 in which it may use any IPv6 address."""
    try:
        known = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(known, ipaddress.IPv4Address):
        return str(known)
    mapped = known.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((known, 64), strict=False))
