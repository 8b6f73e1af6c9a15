"""Bodies of requests, within limits: half a body is waited for no longer than a while, and kept to a size."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from edge_ws.protocol.http import JSON

STEP = 16 * 1024
"""Bytes that are read at a time."""
WHOLE_WITHIN_S = 10.0
CLOSES = {"connection": "close"}
"""A header of an answer to a request whose body nobody has read: the rest of it is not waited for."""


class BodyError(Exception):
    """The body is too slow or too large; the status and the code are for the answer."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code


def check_json(headers: Headers) -> None:
    """Check that a request says its body is JSON.

    Raises:
        BodyError: it says something else, or nothing.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise BodyError(415, "type", f"the content type is {kind[:60] or 'missing'}, but must be {JSON}")


class Body:
    """A request's body as it comes; nothing of it is read ahead."""

    def __init__(self, receive: Receive, within_s: float) -> None:
        """Make it; `within_s`: for each step, what comes slower does not come."""
        self._receive = receive
        self._within_s = within_s
        self.is_whole = False
        """All of it has been read."""

    async def step(self) -> bytes:
        """Return the next `STEP` bytes (or some more), fewer only if that was all.

        Raises:
            BodyError: they did not come in time.
            ClientDisconnect: they never will.
        """
        read = bytearray()
        try:
            async with asyncio.timeout(self._within_s):
                while not self.is_whole and len(read) < STEP:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    read += message.get("body", b"")
                    self.is_whole = not message.get("more_body", False)
        except TimeoutError:
            raise _too_slow(self._within_s) from None
        return bytes(read)


async def read_whole(receive: Receive, most: int, within_s: float = WHOLE_WITHIN_S) -> bytes:
    """Return a body of up to `most` bytes, all of which must come in that time.

    Raises:
        BodyError: it did not come in time, or is larger.
        ClientDisconnect: it broke off.
    """
    body, read = Body(receive, within_s), bytearray()
    try:
        async with asyncio.timeout(within_s):
            while not body.is_whole:
                read += await body.step()
                if len(read) > most:
                    raise BodyError(413, "too_large", f"the body is over the limit of {most} bytes")
    except TimeoutError:
        raise _too_slow(within_s) from None
    return bytes(read)


def _too_slow(within_s: float) -> BodyError:
    return BodyError(408, "timeout", f"the body did not come within {within_s:g} s")
