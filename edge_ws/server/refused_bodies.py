"""Reads and drops the body of a refused request, within limits, so that its client gets to see the refusal.

A server that answers early and closes while more comes resets the connection, and that is all that a client
which is still sending sees. Keeps nothing; whoever sends slowly, much, or is one of too many gets the
answer at once, as without this. Knows nothing of what is served.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REST = 512 * 1024
"""Bytes that are read of one body."""
REST_WITHIN_S = 1.0
RESTS_AT_ONCE = 50
"""Bodies that are read so at a time."""
_REFUSED = 400


class RefusedBodies:
    """An ASGI app that answers as another one does, once it has read what a refused client still sends."""

    def __init__(self, app: ASGIApp) -> None:
        """Make it; `app` is whose answers are given."""
        self._app = app
        self._reading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _is_worth_it(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        is_over = False

        async def heard() -> Message:
            nonlocal is_over
            message = await receive()
            is_over = is_over or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= _REFUSED and not is_over:
                await self._read(receive)
            await send(message)

        await self._app(scope, heard, tell)

    async def _read(self, receive: Receive) -> None:
        if self._reading >= RESTS_AT_ONCE:
            return
        self._reading += 1
        try:
            async with asyncio.timeout(REST_WITHIN_S):
                size, message = 0, await receive()
                while message["type"] == "http.request" and message.get("more_body", False) and size < REST:
                    size += len(message.get("body", b""))
                    message = await receive()
        except TimeoutError:
            pass
        finally:
            self._reading -= 1


def _is_worth_it(headers: Headers) -> bool:
    """Tell whether a body comes that is small enough; who waits for a word before it sends does not send."""
    if "expect" in headers:
        return False
    length = headers.get("content-length", "0")
    is_short = length.isascii() and length.isdigit() and len(length) <= len(str(REST))
    return "transfer-encoding" in headers or (is_short and 0 < int(length) <= REST)
