"""The generator whose workers come by long-poll; see `fleet`.

Their HTTP is written by hand: a client library would use more of the machine than the gateway does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from edge_ws.errors import RemoteProtocolError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import Timers, Welcome
from edge_ws.protocol.http import HOLD_BEATS
from tests.bench.fleet import Ended, Fleet, Worker, main

HOLD_S = HOLD_BEATS * Timers().heartbeat_s
ANSWER_WITHIN_S = 15.0
REUSED_WITHIN_S = 4.0
"""A connection that was idle for longer is not used again: uvicorn closes it after 5 s."""
_MARKS = ("edge-ws-connection", "edge-ws-answer")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    at_ns: int
    """When its last byte was read."""


class Requests:
    """POSTs over one connection, one at a time; it is opened when it is needed."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path
        self._head = _lines({"host": parts.netloc, "content-type": "application/json", **headers})
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_at = 0.0

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], within_s: float) -> Answer:
        """Return the answer.

        Raises:
            OSError, EOFError: there is none.
            TimeoutError: not in time.
        """
        async with asyncio.timeout(within_s):
            reader, writer = await self._connected()
            try:
                head = f"POST {self._path}{path} HTTP/1.1\r\n{self._head}{_lines(headers)}"
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                answer = await _answer(reader)
            except BaseException:
                self.close()
                raise
        self._used_at = time.monotonic()
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and time.monotonic() - self._used_at > REUSED_WITHIN_S:
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=2 * codec.MAX_FRAME)
        return self._streams

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()


class LongPollWorker(Worker):
    """A worker that polls, and says what it has to say beside its polls."""

    def __init__(self, fleet: Fleet, name: str, queue: str, slots: int) -> None:
        super().__init__(fleet, name, queue, slots)
        headers = {"edge-ws-token": fleet.token, "edge-ws-worker": name}
        self._polls = Requests(fleet.url, headers)
        self._statements = Requests(fleet.url, headers)
        self._marks: dict[str, str] = {}
        self._saying: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        self._marks, self.outgoing = {}, []
        hold_s, welcomed = HOLD_S, False
        try:
            while True:
                headers = {**self._marks, "edge-ws-hold": f"{hold_s:g}"}
                body = codec.encode(self.hello())
                answer = await self._polls.post("/v1/poll", body, headers, hold_s + ANSWER_WITHIN_S)
                _check(answer)
                if welcomed:
                    hold_s = HOLD_S
                else:
                    # Spread, as the polls are of workers that were not all started at one instant.
                    hold_s = random.uniform(0, HOLD_S)
                    welcomed = True
                    self.fleet.ready += 1
                self._marks = {name: answer.headers[name] for name in _MARKS if name in answer.headers}
                self._take(answer)
                if (close := answer.headers.get("edge-ws-close")) is not None:
                    raise Ended(f"closed {close.split()[0]}")
        finally:
            self._polls.close()
            if welcomed:
                self.fleet.ready -= 1

    async def tick(self, now: float) -> None:
        """Send what was not acknowledged; the open poll is the heartbeat."""
        if self._marks:
            self.say_again(now)
            self._say()

    def _take(self, answer: Answer) -> None:
        for frame in codec.decode_batch_from_server(answer.body):
            if isinstance(frame, Welcome) and frame.timers != Timers():
                raise RemoteProtocolError("the benchmark's workers know the usual timers only")
            self.take(frame, answer.at_ns)
        self._say()

    def _say(self) -> None:
        """Have what is queued sent; what comes meanwhile is sent next, together."""
        if self.outgoing and self._saying is None:
            self._saying = asyncio.create_task(self._say_all())

    async def _say_all(self) -> None:
        try:
            while self.outgoing:
                frames, self.outgoing = self.outgoing, []
                for body in codec.pack(frames):
                    answer = await self._statements.post("/v1/send", body, self._marks, ANSWER_WITHIN_S)
                    _check(answer)
                    self._take(answer)
        except (Ended, OSError, EOFError, RemoteProtocolError) as error:
            # It is said again when its time comes.
            self.fleet.errors[str(error) if isinstance(error, Ended) else type(error).__name__] += 1
        finally:
            self._saying = None


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(first.split()[1]), headers, body, time.monotonic_ns())


def _check(answer: Answer) -> None:
    """Go on after a good answer only."""
    if answer.status != 200:
        come_back_s = None
        with suppress(KeyError):
            come_back_s = float(answer.headers["retry-after"])
        raise Ended(f"HTTP {answer.status}", come_back_s)


if __name__ == "__main__":
    main(LongPollWorker)
