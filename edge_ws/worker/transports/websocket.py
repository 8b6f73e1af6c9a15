"""Frames over one WebSocket, and what a failed opening means.

An answer counts as the server's own only with its marker header; anything else may be a proxy's.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.http11 import Response

from edge_ws.errors import RefusedError, UnreachableError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import ServerFrame, WorkerFrame
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import Close
from edge_ws.worker import network
from edge_ws.worker.probe import Answer, who_answers
from edge_ws.worker.transports.base import refusal

OPEN_WITHIN_S = 10.0
CLOSE_WITHIN_S = 1.0
ERROR_HEADER = "edge-ws-error"
WRONG_URL = "wrong_url"
"""Code of a refusal by a server that is not ours."""


class WebSocketChannel:
    """One open WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frames: Sequence[WorkerFrame]) -> None:
        """Send frames; see `base.Channel`."""
        try:
            for message in codec.pack(frames):
                await self._connection.send(message, text=True)
        except ConnectionClosed as error:
            raise UnreachableError(_closed(error)) from error

    async def receive(self) -> Sequence[ServerFrame]:
        """Return the frames of the next message; see `base.Channel`."""
        try:
            data = await self._connection.recv()
        except ConnectionClosed as error:
            raise UnreachableError(_closed(error)) from error
        return codec.decode_batch_from_server(data)

    async def close(self, close: Close) -> None:
        """Close with a code; see `base.Channel`."""
        reason = close.reason.encode()[:120].decode(errors="ignore")
        with suppress(ConnectionClosed, OSError):
            await self._connection.close(close.code.value, reason)


class WebSocketTransport:
    """WebSockets to one URL."""

    name = "websocket"

    def __init__(self, base_url: str, context: ssl.SSLContext | None) -> None:
        self.where = base_url
        self._url = network.ws_url(base_url)
        self._health_url = network.health_url(base_url)
        self._context = context

    @asynccontextmanager
    async def open(self, worker: WorkerName, token: str) -> AsyncIterator[WebSocketChannel]:
        """Open a WebSocket; see `base.Transport`."""
        opening = connect(
            self._url,
            ssl=self._context,
            additional_headers={"edge-ws-token": token, "edge-ws-worker": worker},
            compression=None,
            max_size=codec.MAX_FRAME,
            open_timeout=OPEN_WITHIN_S,
            close_timeout=CLOSE_WITHIN_S,
            # The protocol's own heartbeats prove that both programs live, not just their sockets.
            ping_interval=None,
        )
        try:
            connection = await opening
        except InvalidStatus as error:
            raise await self._refused(error.response) from error
        except InvalidMessage as error:
            raise UnreachableError(f"{self._url} does not speak HTTP: {error}") from error
        except InvalidHandshake as error:
            raise UnreachableError(f"{self._url} does not open a WebSocket: {error}") from error
        except ssl.SSLCertVerificationError as error:
            raise UnreachableError(
                f"the certificate of {self._url} is not trusted: {error.verify_message}"
            ) from error
        except TimeoutError as error:
            raise UnreachableError(f"{self._url} did not answer within {OPEN_WITHIN_S:.0f} s") from error
        except OSError as error:
            raise UnreachableError(f"{self._url} cannot be reached: {error.strerror or error}") from error
        try:
            yield WebSocketChannel(connection)
        finally:
            with suppress(OSError):
                await connection.close()

    async def _refused(self, response: Response) -> RefusedError | UnreachableError:
        """Return what an HTTP answer instead of an upgrade means."""
        code = response.headers.get(ERROR_HEADER)
        if code is not None:
            return _own_refusal(self.where, code, response)
        status = f"{self._url} answered with HTTP status {response.status_code}"
        answer = await who_answers(self._health_url, self._context)
        if answer is Answer.GATEWAY:
            return UnreachableError(f"{status}: something on the way does not let WebSockets pass")
        if answer is Answer.NOBODY:
            return UnreachableError(f"{status}; it is not ready or not there")
        return RefusedError(
            WRONG_URL,
            f"{status}: no edge-ws is there; --url is Airflow's base URL, and at the centre [edge_ws] "
            "api_enabled must be True (restart the api-server after a change)",
        )


def _own_refusal(where: str, code: str, response: Response) -> RefusedError:
    sentence, retry_after_s = code, None
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        body = orjson.loads(response.body or b"")
        sentence, retry_after_s = str(body["sentence"]), body.get("retry_after_s")
    return refusal(where, code, sentence, retry_after_s)


def _closed(error: ConnectionClosed) -> str:
    frame = error.rcvd
    if frame is None:
        return "the connection broke off"
    return f"the server closed the connection ({frame.code}{': ' + frame.reason if frame.reason else ''})"
