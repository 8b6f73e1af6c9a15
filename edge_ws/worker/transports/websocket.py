"""Frames over one WebSocket, and what a failed opening means.

An answer counts as the server's own only with its marker header; anything else may be a proxy's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidStatus,
)
from websockets.http11 import Response

from edge_ws.errors import RefusedError, Unreachable, UnreachableError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import ServerFrame, WorkerFrame
from edge_ws.protocol.http import (
    ERROR_HEADER,
    JSON,
    TOKEN_HEADER,
    UPGRADE_REQUIRED,
    WORKER_HEADER,
    read_refusal,
)
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import Close, CloseCode
from edge_ws.worker import network, proxy
from edge_ws.worker.network import Network, health_url, http_client
from edge_ws.worker.transports.base import refused_by
from edge_ws.worker.transports.failures import failure, foreign, is_temporary, no_certificate, proxy_refused
from edge_ws.worker.transports.sizes import Sizes, pack

PROBE_WITHIN_S = 10.0


class Answer(Enum):
    """Who is there."""

    GATEWAY = "gateway"
    """Ours: something on the way does not let WebSockets pass."""
    STRANGER = "stranger"
    """A web server that is not ours, or Airflow without our plugin."""
    NOBODY = "nobody"
    """No answer, or one that says to come back."""


async def who_answers(network: Network) -> Answer:
    """Return who answers at a gateway's health address."""
    # Imported here: a worker that gets its WebSocket, as nearly all do, never pays for it.
    import httpx2  # noqa: PLC0415

    try:
        async with http_client(network, timeout=PROBE_WITHIN_S) as client:
            response = await client.get(health_url(network.base_url))
    except (httpx2.HTTPError, OSError):
        return Answer.NOBODY
    if ERROR_HEADER in response.headers or response.headers.get("content-type") == JSON:
        ours = ERROR_HEADER in response.headers or b'"edge_ws"' in response.content
        return Answer.GATEWAY if ours else Answer.STRANGER
    return Answer.NOBODY if is_temporary(response.status_code) else Answer.STRANGER


OPEN_WITHIN_S = 10.0
CLOSE_WITHIN_S = 1.0
NEXT_ADDRESS_S = 0.25
"""Of several addresses of a name, the next is tried beside those that have not answered for so long."""
TIMED_EVERY_S = 60.0
TIMED_FIRST_S = 1.0
"""Between two pings that only show how long the way is, and before the first."""
PROVEN_WITHIN_S = 10.0
"""For an answer to what follows a message that is larger than any that has passed before."""
_PERHAPS_TOO_LARGE = frozenset({1002, 1006, 1008, 1011, CloseCode.SILENT.value})


class WebSocketChannel:
    """One open WebSocket."""

    beats = True

    def __init__(self, connection: ClientConnection, sizes: Sizes) -> None:
        self._connection = connection
        self._sizes = sizes
        self._proofs: set[asyncio.Task[None]] = set()

    async def send(self, frames: Sequence[WorkerFrame]) -> None:
        """Send frames; see `base.Channel`."""
        try:
            for message, _ in pack(frames, self._sizes.limit):
                if self._sizes.is_news(len(message)):
                    # Before it is written: that may never end.
                    proof = asyncio.create_task(self._prove(len(message)))
                    self._proofs.add(proof)
                    proof.add_done_callback(self._proofs.discard)
                await self._connection.send(message, text=True)
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def _prove(self, size: int) -> None:
        """Find out whether a message passes that is larger than any before: what comes after it, does."""
        # The message is written first.
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(PROVEN_WITHIN_S):
                await (await self._connection.ping())
        except TimeoutError:
            if self._sizes.failed(size, "nothing came back after it", is_told=False):
                self._connection.transport.abort()
        except ConnectionClosed as error:
            if (told := _may_be_too_large(error)) is not None:
                self._sizes.failed(size, str(_closed(error)), is_told=told)
        else:
            self._sizes.passed(size)

    async def keep_time(self) -> None:
        """See now and then how long the way is, until it is closed. Silence proves nothing here."""
        pause_s = TIMED_FIRST_S
        while self._connection.close_code is None:
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - a fleet is not to ask at once
            pause_s = TIMED_EVERY_S
            with suppress(TimeoutError, ConnectionClosed, OSError):
                async with asyncio.timeout(PROVEN_WITHIN_S):
                    self._sizes.round_trip_s = await (await self._connection.ping())

    def end(self) -> None:
        """Wait for no proof any more."""
        if self._connection.close_code is None:
            for proof in self._proofs:
                proof.cancel()

    async def receive(self) -> Sequence[ServerFrame]:
        """Return the frames of the next message; see `base.Channel`."""
        try:
            data = await self._connection.recv()
        except ConnectionClosed as error:
            raise _closed(error) from error
        return codec.decode_batch_from_server(data)

    def retire(self) -> None:
        """Nothing to do: the server closes a connection that another one replaces. See `base.Channel`."""

    async def ping(self, within_s: float) -> None:
        """Have the other end's WebSocket, not its program, answer: frames pass both ways then.

        Raises:
            UnreachableError: the way is closed, or nothing comes back within that time.
        """
        try:
            async with asyncio.timeout(within_s):
                await (await self._connection.ping())
        except TimeoutError as error:
            sentence = f"a WebSocket opens, but nothing came back through it within {within_s:.0f} s"
            raise UnreachableError(sentence, kind=Unreachable.BROKE_OFF) from error
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def probe(self, message: bytes, within_s: float) -> None:
        """Send a message, and have the other end answer what comes after it; raises as `ping`."""
        try:
            async with asyncio.timeout(within_s):
                await self._connection.send(message, text=True)
        except TimeoutError as error:
            raise UnreachableError(f"it was not taken within {within_s:.0f} s") from error
        except ConnectionClosed as error:
            raise _closed(error) from error
        await self.ping(within_s)

    async def close(self, close: Close) -> None:
        """Close with a code; see `base.Channel`."""
        reason = close.reason.encode()[:120].decode(errors="ignore")
        with suppress(ConnectionClosed, OSError):
            await self._connection.close(close.code.value, reason)


class _Connection(ClientConnection):
    """Tells what ended it while it was opened: the library says only that no answer came."""

    _made = False
    _lost_by: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._made = True
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep the reason."""
        self._lost_by = exc
        # When TLS fails behind a proxy, asyncio ends what it has never begun; the library cannot do that.
        if self._made:
            super().connection_lost(exc)

    async def handshake(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Raise that reason, if there is one."""
        try:
            await super().handshake(*args, **kwargs)
        except InvalidHandshake as error:
            if not isinstance(error.__cause__, EOFError):
                raise
            # With TLS 1.3, that the server wants a client's certificate comes when all seems done.
            await asyncio.wait([self.connection_lost_waiter], timeout=CLOSE_WITHIN_S)
            if self._lost_by is not None:
                raise self._lost_by from error
            raise


class _Connect(connect):
    """Follows no redirect: the token is for one server."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the answer as it is."""
        return exc


class WebSocketTransport:
    """WebSockets to one URL."""

    name = "websocket"

    def __init__(self, way: Network, sizes: Callable[[str], Sizes] = Sizes) -> None:
        """`sizes` returns what is known of messages on a way."""
        self.where = way.base_url
        self._network = way
        self._url = network.ws_url(way.base_url)
        self.sizes = sizes(self._url)

    @asynccontextmanager
    async def open(self, worker: WorkerName, token: str) -> AsyncIterator[WebSocketChannel]:
        """Open a WebSocket; see `base.Transport`."""
        connection = await self._open(worker, token)
        try:
            channel = WebSocketChannel(connection, self.sizes)
            timing = asyncio.create_task(channel.keep_time())
            yield channel
        finally:
            timing.cancel()
            channel.end()
            try:
                with suppress(OSError):
                    await connection.close()
            finally:
                # Where this is cancelled, there was no time for that.
                connection.transport.abort()

    async def _open(self, worker: WorkerName, token: str) -> ClientConnection:
        # A TLS context for the proxy may not even be None where the proxy has none.
        to_proxy: dict[str, Any] = (
            {} if self._network.proxy_context is None else {"proxy_ssl": self._network.proxy_context}
        )
        opening = _Connect(
            self._url,
            ssl=self._network.context,
            # Never its own look-up: that ignores ALL_PROXY, and trusts other certificates of a proxy.
            proxy=self._network.proxy,
            **to_proxy,
            create_connection=_Connection,
            additional_headers={TOKEN_HEADER: token, WORKER_HEADER: worker},
            compression=None,
            max_size=codec.MAX_FRAME,
            open_timeout=OPEN_WITHIN_S,
            close_timeout=CLOSE_WITHIN_S,
            # The protocol's own heartbeats prove that both programs live, not just their sockets.
            ping_interval=None,
            # Of the connection to the server, or to its proxy.
            happy_eyeballs_delay=NEXT_ADDRESS_S,
        )
        try:
            return await opening
        except InvalidStatus as error:
            raise await self._refused(error.response) from error
        except InvalidProxyStatus as error:
            wants = _header(error.response.headers, "proxy-authenticate")
            raise proxy_refused(self._network, self._url, error.response.status_code, wants=wants) from error
        except InvalidProxyMessage as error:
            assert self._network.proxy is not None
            sentence = f"the proxy {proxy.masked(self._network.proxy)} does not speak HTTP; see --proxy"
            raise UnreachableError(sentence, kind=Unreachable.PROXY) from error
        except InvalidHandshake as error:
            raise self._no_upgrade(error) from error
        except (OSError, TimeoutError) as error:
            raise failure(self._network, self._url, error) from error

    def _no_upgrade(self, error: InvalidHandshake) -> UnreachableError:
        """Return what an answer that is none, or half of one, means."""
        if isinstance(error.__cause__, EOFError):
            sentence = f"{self._url} closed the connection in place of an answer{self._network.via}"
        elif isinstance(error, InvalidMessage):
            sentence = f"{self._url} does not speak HTTP{self._network.via}: {error}"
        else:
            sentence = f"{self._url} does not open a WebSocket{self._network.via}: {error}"
        return UnreachableError(sentence, kind=Unreachable.NO_UPGRADE)

    async def _refused(self, response: Response) -> RefusedError | UnreachableError:
        """Return what an HTTP answer instead of an upgrade means."""
        marker, body = _header(response.headers, ERROR_HEADER), bytes(response.body or b"")
        if marker == UPGRADE_REQUIRED:
            sentence = f"{self._url} got no Upgrade header: something on the way takes it away"
            return UnreachableError(sentence, kind=Unreachable.NO_UPGRADE)
        if marker is not None:
            return refused_by(self.where, *read_refusal(marker, body))
        if (fault := no_certificate(self._url, response.status_code, body)) is not None:
            return fault
        answer = await who_answers(self._network)
        if answer is Answer.GATEWAY:
            sentence = f"{self._url} answered with HTTP status {response.status_code}: something on the way"
            return UnreachableError(f"{sentence} does not let WebSockets pass", kind=Unreachable.NO_UPGRADE)
        location, retry_after = (_header(response.headers, name) for name in ("location", "retry-after"))
        return foreign(
            self._network,
            self._url,
            response.status_code,
            location=location,
            retry_after=retry_after,
            nobody=answer is Answer.NOBODY,
        )


def _header(headers: Headers, name: str) -> str | None:
    """Return a header's value, all values of one that is repeated; None if it is not there."""
    return ", ".join(headers.get_all(name)) or None


def _may_be_too_large(error: ConnectionClosed) -> bool | None:
    """Tell whether a connection was closed because of a message's size; None: for another reason."""
    if error.rcvd is None:
        return None if error.sent is not None else False
    if error.rcvd.code in {1009, CloseCode.TOO_LARGE.value}:
        return True
    return False if error.rcvd.code in _PERHAPS_TOO_LARGE else None


def _closed(error: ConnectionClosed) -> UnreachableError:
    frame = error.rcvd
    if frame is None:
        return UnreachableError("the connection broke off", kind=Unreachable.BROKE_OFF)
    sentence = f"the server closed the connection ({frame.code}{': ' + frame.reason if frame.reason else ''})"
    # Of the codes below 4000 a server of ours sends these two; others are a proxy's.
    is_ours = frame.code >= 4000 or frame.code in {1001, 1012}
    return UnreachableError(sentence, kind=Unreachable.CLOSED if is_ours else Unreachable.BROKE_OFF)
