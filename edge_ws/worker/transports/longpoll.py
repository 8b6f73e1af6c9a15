"""Frames over plain HTTP requests: one is held until the server has something to say, others say something.

Used where WebSockets do not pass. Each request stands alone, so it may reach any gateway.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from edge_ws.errors import EdgeWsError, RefusedError, Unreachable, UnreachableError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Finished,
    Hello,
    NotStarted,
    PhaseIs,
    Refusal,
    Refuse,
    Renew,
    Renewed,
    ServerFrame,
    Status,
    Timers,
    Welcome,
    Wish,
    WorkerFrame,
)
from edge_ws.protocol.http import (
    ANSWER_HEADER,
    CLOSE_HEADER,
    CONNECTION_HEADER,
    ELSEWHERE_HEADER,
    ERROR_HEADER,
    HOLD_BEATS,
    HOLD_HEADER,
    JSON,
    TOKEN_HEADER,
    WORKER_HEADER,
    read_refusal,
)
from edge_ws.protocol.ids import CONTROL, WorkerName
from edge_ws.protocol.session import Close
from edge_ws.worker import network
from edge_ws.worker.network import Network
from edge_ws.worker.transports.base import refused_by
from edge_ws.worker.transports.failures import failure, foreign, no_certificate, proxy_refused
from edge_ws.worker.transports.sizes import Aside, Sizes, pack

if TYPE_CHECKING:
    import httpx2

OPEN_WITHIN_S = 10.0
ANSWER_WITHIN_S = 15.0
"""For the answer to statements, and beyond its time for that to a poll."""
CLOSE_WITHIN_S = 1.0
CUT_AFTER_S = 1.0
"""A poll that broke off later than that was cut by something on the way that does not wait for so long."""
CUTS = 3
"""Polls that break off one after another before the way counts as closed."""
LEARNT = 0.7
"""Of the time after which a poll was cut: for so long the next ones are held."""
ALIKE = 0.25
"""Two polls that broke off after times that differ by less than this part met the same limit."""
FORGET_AFTER = 100
"""Polls that were held to their end, after which a longer time is tried again."""
_FREEING = (Finished, NotStarted, Refuse, PhaseIs)
"""Statements after which a worker may have free slots."""
_PERHAPS_TOO_LARGE = frozenset(
    {Unreachable.TOO_LARGE, Unreachable.FOREIGN, Unreachable.BROKE_OFF, Unreachable.SILENT}
)
_TIMED_OUT = frozenset({408, 504})
"""What proxies say when they did not want to wait."""


class LongPollTransport:
    """Long-polls to one server."""

    name = "longpoll"

    def __init__(
        self, way: Network, hello: Callable[[], Hello], sizes: Callable[[str], Sizes] = Sizes
    ) -> None:
        """Make it.

        Args:
            way: the server, and how to get there.
            hello: returns the greeting with the inventory as it is now, for each poll.
            sizes: returns what is known of messages on a way.
        """
        self.where = way.base_url
        self.network = way
        self.hello = hello
        self.sizes = sizes(f"{way.base_url} by HTTP")
        self.aside = Aside()
        self.hold_s: float | None = None
        """For how long polls are held, where something on the way cuts longer ones; None: nothing has."""
        self._last_cut_s: float | None = None
        self._held_out = 0

    @asynccontextmanager
    async def open(self, worker: WorkerName, token: str) -> AsyncIterator[LongPollChannel]:
        """Open a channel; nothing is sent before its first frames. See `base.Transport`."""
        headers = {TOKEN_HEADER: token, WORKER_HEADER: worker, "content-type": JSON}
        async with network.http_client(self.network, headers=headers) as client:
            channel = LongPollChannel(self, client)
            try:
                yield channel
            finally:
                await channel.end()

    def cut(self, after_s: float, *, timed_out: bool) -> None:
        """Learn that a poll broke off; once may be chance, unless somebody says that it timed out."""
        last, self._last_cut_s, self._held_out = self._last_cut_s, after_s, 0
        if timed_out or (last is not None and abs(last - after_s) <= ALIKE * last):
            self.hold_s = max(CUT_AFTER_S, LEARNT * after_s)

    def answered(self, after_s: float) -> None:
        """Learn that a poll was answered: after many that lasted, longer ones may last as well."""
        if self.hold_s is None or after_s < self.hold_s:
            return
        self._held_out += 1
        if self._held_out >= FORGET_AFTER:
            self.hold_s, self._held_out = None, 0


class LongPollChannel:
    """One connection: what a gateway has named so, for as long as polls succeed."""

    beats = False
    """The polls themselves say that the worker lives."""

    def __init__(self, transport: LongPollTransport, client: httpx2.AsyncClient) -> None:
        self._transport = transport
        self._client = client
        self._polling: asyncio.Task[None] | None = None
        self._arrived: deque[ServerFrame] = deque()
        self._changed = anyio.Event()
        self._again = anyio.CancelScope()
        """The poll that is open."""
        self._failed: Exception | None = None
        self._marks: dict[str, str] = {}
        """Headers that name the connection and the last answer."""
        self._timers = Timers()
        self._wish: Wish | None = None
        """The last one; None: not greeted yet."""
        self._controls = False
        """The gateway that is polled knows maintenance and shutdown."""
        self._retired = False
        self._renewing = ""
        """The token that the gateway was asked to take in place of the present one."""

    # What the link calls; see `base.Channel`

    async def send(self, frames: Sequence[WorkerFrame]) -> None:
        """Send frames; see `base.Channel`."""
        if self._failed is not None:
            raise self._failed
        if isinstance(frames[0], Hello):
            self._polling = asyncio.create_task(self._poll_for_ever(frames[0]))
            return
        self._renewing = next((one.token for one in frames if isinstance(one, Renew)), self._renewing)
        # A worker's state goes with its poll, so that whoever holds that hears of it.
        statements: list[WorkerFrame] = [frame for frame in frames if not isinstance(frame, Status)]
        if len(statements) < len(frames):
            self._again.cancel()
        while statements:
            statements = await self._say_some(statements)

    async def _say_some(self, statements: Sequence[WorkerFrame]) -> list[WorkerFrame]:
        """Say what a body of the way's size holds of the statements; return those that are left."""
        sizes, aside = self._transport.sizes, self._transport.aside
        count = 1 if aside.alone else len(statements)
        messages = list(pack(statements[:count], sizes.limit))
        left = [frame for _, frames in messages[1:] for frame in frames] + list(statements[count:])
        if not messages:
            return left
        body, said = messages[0]
        try:
            response = await self._say(body)
        except (UnreachableError, RefusedError) as error:
            told = _may_be_too_large(error)
            if told is not None and sizes.failed(len(body), str(error), is_told=told):
                return [*said, *left]
            return [*self._without(said, error), *left]
        sizes.passed(len(body))
        aside.passed(said)
        self._take(response)
        if ELSEWHERE_HEADER in response.headers and any(isinstance(one, _FREEING) for one in said):
            # Who holds the poll does not know that there are slots again.
            self._again.cancel()
        return left

    def _without(self, said: list[WorkerFrame], error: EdgeWsError) -> list[WorkerFrame]:
        """Return what to say in place of statements that do not pass, though they are small.

        Raises:
            EdgeWsError: that error, if it is not theirs.
        """
        if isinstance(error, RefusedError) and error.code != Refusal.PROTOCOL.value:
            raise error
        found = self._transport.aside.failed(said, str(error))
        if found is None:
            raise error
        return found

    async def _say(self, body: bytes) -> httpx2.Response:
        url = network.send_url(self._transport.where)
        began = anyio.current_time()
        try:
            response = await self._post(url, body, self._marks, ANSWER_WITHIN_S)
        except UnreachableError as error:
            if error.kind is not Unreachable.BROKE_OFF:
                raise
            # The other side may have closed an idle connection just now. Facts may be said twice.
            return await self._post(url, body, self._marks, ANSWER_WITHIN_S)
        self._transport.sizes.round_trip_s = anyio.current_time() - began
        return response

    async def receive(self) -> Sequence[ServerFrame]:
        """Return what has arrived; see `base.Channel`."""
        while not self._arrived:
            if self._failed is not None:
                raise self._failed
            self._changed = anyio.Event()
            await self._changed.wait()
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    def retire(self) -> None:
        """Poll no more; see `base.Channel`."""
        self._retired = True

    async def close(self, close: Close) -> None:  # noqa: ARG002 - a request has nothing to close
        """Let the open poll return: an offer that is on its way is not lost."""
        if self._polling is not None and not self._polling.done():
            await asyncio.wait({self._polling}, timeout=CLOSE_WITHIN_S)

    async def end(self) -> None:
        """Give the open poll up."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    # Polls

    async def _poll_for_ever(self, first: Hello) -> None:
        try:
            hello = first
            cuts = 0
            while self._failed is None and not self._retired:
                with anyio.CancelScope() as self._again:
                    cuts = 0 if await self._poll(hello, cuts) else cuts + 1
                hello = self._transport.hello()
        except Exception as error:  # noqa: BLE001 - whoever waits for frames raises it
            self._fail(error)

    async def _poll(self, hello: Hello, cuts: int) -> bool:
        """Poll once; return whether an answer came.

        Raises:
            EdgeWsError: the way is closed.
        """
        hold_s = HOLD_BEATS * self._timers.heartbeat_s
        hold_s = min(hold_s, self._transport.hold_s or hold_s)
        headers = {**self._marks, HOLD_HEADER: f"{hold_s:g}"}
        began = anyio.current_time()
        sizes = self._transport.sizes
        body = next(pack([hello], sizes.limit))[0]
        try:
            url = network.poll_url(self._transport.where)
            response = await self._post(url, body, headers, hold_s + ANSWER_WITHIN_S)
        except UnreachableError as error:
            held_s = anyio.current_time() - began
            if self._is_shortened(body, error, held_s):
                return True
            was_cut = error.kind in {Unreachable.BROKE_OFF, Unreachable.TIMED_OUT} and held_s > CUT_AFTER_S
            if self._wish is None or not was_cut or cuts + 1 >= CUTS:
                raise
            self._transport.cut(held_s, timed_out=error.kind is Unreachable.TIMED_OUT)
            return False
        sizes.passed(len(body))
        if self._wish is None:
            # The first is answered at once.
            sizes.round_trip_s = anyio.current_time() - began
        self._transport.answered(anyio.current_time() - began)
        marks = (CONNECTION_HEADER, ANSWER_HEADER)
        self._marks = {name: response.headers[name] for name in marks if name in response.headers}
        self._take(response)
        if (told := response.headers.get(CLOSE_HEADER)) is not None:
            raise UnreachableError(f"the server closed the connection ({told})", kind=Unreachable.CLOSED)
        return True

    def _is_shortened(self, body: bytes, error: UnreachableError, held_s: float) -> bool:
        """Tell whether a poll that failed is worth another one at once, as that will be smaller."""
        is_too_large = _may_be_too_large(error)
        if is_too_large is None or not (is_too_large or held_s <= CUT_AFTER_S or self._wish is None):
            return False
        return self._transport.sizes.failed(len(body), str(error), is_told=is_too_large)

    def _take(self, response: httpx2.Response) -> None:
        for frame in codec.decode_batch_from_server(response.content):
            if isinstance(frame, Renewed) and frame.refusal is None:
                # All requests show it from now on, the open poll's next one at once.
                self._client.headers[TOKEN_HEADER] = self._renewing
                self._again.cancel()
            self._arrived.append(self._known(frame))
        self._changed.set()

    def _known(self, frame: ServerFrame) -> ServerFrame:
        """Return the frame; of another gateway's welcome only the wish can be news."""
        if isinstance(frame, Welcome):
            wish, self._timers = frame.wish, frame.timers
            self._controls = CONTROL in frame.capabilities
        elif isinstance(frame, Wish):
            wish = frame
        else:
            return frame
        before = self._wish
        if before is not None and not self._controls:
            # A gateway of an older release: what was wished of what it does not know stands.
            wish = replace(before, revision=wish.revision, concurrency=wish.concurrency, queues=wish.queues)
        self._wish = wish
        return frame if before is None else wish

    def _fail(self, error: Exception) -> None:
        self._failed = self._failed or error
        self._changed.set()

    # Requests

    async def _post(self, url: str, body: bytes, headers: dict[str, str], within_s: float) -> httpx2.Response:
        """Return the server's own good answer.

        Raises:
            UnreachableError: none came, or one of somebody else.
            RefusedError: a gateway refuses.
        """
        import httpx2  # noqa: PLC0415 - as in network.http_client

        timeout = httpx2.Timeout(OPEN_WITHIN_S, read=within_s, pool=None)
        way = self._transport.network
        try:
            response = await self._client.post(url, content=body, headers=headers, timeout=timeout)
        except httpx2.ProxyError as error:
            status = str(error)[:3]
            if status.isdigit():
                raise proxy_refused(way, url, int(status)) from error
            raise failure(way, url, error) from error
        except (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.WriteError) as error:
            sentence = f"{url} closed the connection in place of an answer{way.via}"
            raise UnreachableError(sentence, kind=Unreachable.BROKE_OFF) from error
        except (httpx2.ReadTimeout, httpx2.WriteTimeout) as error:
            sentence = str(failure(way, url, error))
            raise UnreachableError(sentence, kind=Unreachable.SILENT) from error
        except (httpx2.HTTPError, OSError) as error:
            raise failure(way, url, error) from error
        if response.status_code == 200 and response.headers.get("content-type") == JSON:
            return response
        raise self._refused(url, response)

    def _refused(self, url: str, response: httpx2.Response) -> EdgeWsError:
        """Return what an answer means that is not the one wanted."""
        way, status = self._transport.network, response.status_code
        if (marker := response.headers.get(ERROR_HEADER)) is not None:
            return refused_by(self._transport.where, *read_refusal(marker, response.content))
        if status == 407 and way.proxy is not None:
            # To a plain http server a proxy answers in the server's place.
            return proxy_refused(way, url, 407, wants=response.headers.get("proxy-authenticate"))
        if (fault := no_certificate(url, status, response.content)) is not None:
            return fault
        if status in _TIMED_OUT:
            sentence = f"{url} answered with HTTP status {status}: something on the way did not wait"
            return UnreachableError(sentence, kind=Unreachable.TIMED_OUT)
        return foreign(
            way,
            url,
            status,
            location=response.headers.get("location"),
            retry_after=response.headers.get("retry-after"),
        )


def _may_be_too_large(error: EdgeWsError) -> bool | None:
    """Tell whether a request failed because of its size; None: for another reason, False: that may be."""
    kind = error.kind if isinstance(error, UnreachableError) else None
    return kind is Unreachable.TOO_LARGE if kind in _PERHAPS_TOO_LARGE else None
