"""Places for relayed requests: who shows a token that Airflow has not accepted yet shares a part of them.

The relay cannot tell a good token from a forged one; the api-server's answers can. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from edge_ws.recent import Recent

PLACES = 200
STRANGERS = 100
"""For tokens that Airflow has not accepted here yet, as each task's first, and for requests without one."""
FLOWING = 20
"""Of those, for bodies that are not here as a whole: such a place is held for as long as the body comes."""
NAMELESS = 10
"""Of those, for requests without a token."""
OF_ONE = 4
"""For one token: a task asks one thing after the other."""
TOKENS_KEPT = 20_000


class NoPlaceError(Exception):
    """None became free in time; never leaves the relay."""


class Places:
    """Hands out the places; one who is known never waits for those who are not."""

    def __init__(self, patience_s: float) -> None:
        """Make them; `patience_s`: how long anybody waits for one."""
        self._patience_s = patience_s
        self._all = asyncio.Semaphore(PLACES)
        self._strangers = asyncio.Semaphore(STRANGERS)
        self._flowing = asyncio.Semaphore(FLOWING)
        self._nameless = asyncio.Semaphore(NAMELESS)
        self._of_one: weakref.WeakValueDictionary[bytes, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._accepted: Recent[bytes, None] = Recent(TOKENS_KEPT)
        """Hashes of accepted tokens."""

    def accepted(self, token: str) -> None:
        """Note that Airflow has accepted a token, or has made it."""
        self._accepted.put(_digest(token), None)

    @asynccontextmanager
    async def one(self, token: str | None, *, is_whole: bool) -> AsyncIterator[None]:
        """Hold a place while the block runs.

        Args:
            token: by which the request is made.
            is_whole: all of its body is here.

        Raises:
            NoPlaceError: there is none.
        """
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._patience_s):
                    for limit in self._limits(token, is_whole=is_whole):
                        await held.enter_async_context(limit)
            except TimeoutError:
                raise NoPlaceError from None
            yield

    def _limits(self, token: str | None, *, is_whole: bool) -> list[asyncio.Semaphore]:
        """Return what the request must pass, the narrowest first, so that who waits holds nothing wider."""
        if token is None:
            return [self._nameless, self._strangers, self._all]
        digest = _digest(token)
        mine = self._of_one.setdefault(digest, asyncio.Semaphore(OF_ONE))
        if digest in self._accepted:
            return [mine, self._all]
        return [mine, *(() if is_whole else (self._flowing,)), self._strangers, self._all]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
