"""A firewall that lets no large message pass, in an HTTP body or a WebSocket frame, and says so or does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum


class Verdict(Enum):
    """What becomes of a message that is too large, and of its connection."""

    TOO_LARGE = "413"
    """To a WebSocket: a close frame with 1009."""
    FORBIDDEN = "403"
    """To a WebSocket: a close frame with 1008."""
    RESET = "reset"
    SILENCE = "silence"


_CLOSES = {Verdict.TOO_LARGE: 1009, Verdict.FORBIDDEN: 1008}


class Firewall:
    """Listens on `port`, leads to `target`."""

    def __init__(self, target: int, limit: int, verdict: Verdict, *, word: bytes = b"") -> None:
        self.target = target
        self.limit = limit
        self.verdict = verdict
        self.word = word
        """What no HTTP body may hold, if anything; such a one is forbidden."""
        self.stopped: list[int] = []
        """Sizes of the messages that did not pass."""
        self.passed: list[int] = []
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                answering = asyncio.create_task(_copy(back, writer))
                if b"\r\nupgrade: websocket\r\n" in head.lower():
                    forth.write(head)
                    await self._frames(reader, writer, forth)
                else:
                    await self._request(reader, writer, forth, head)
                    await asyncio.wait(
                        {answering, asyncio.create_task(reader.read())}, return_when=asyncio.FIRST_COMPLETED
                    )
                answering.cancel()
            finally:
                forth.transport.abort()
        writer.close()

    async def _request(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        forth: asyncio.StreamWriter,
        head: bytes,
    ) -> None:
        lines = head.decode().rstrip().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        is_word = bool(self.word) and self.word in body
        if len(body) > self.limit or is_word:
            self.stopped.append(len(body))
            verdict = Verdict.FORBIDDEN if is_word else self.verdict
            if verdict in _CLOSES:
                writer.write(f"HTTP/1.1 {verdict.value} No\r\nContent-Length: 0\r\n".encode())
                writer.write(b"Connection: close\r\n\r\n")
                await writer.drain()
            await self._end(verdict, reader, writer)
        self.passed.append(len(body))
        kept = [line for line in lines if not line.lower().startswith("connection:")]
        forth.write("\r\n".join([*kept, "Connection: close", "", ""]).encode() + body)

    async def _frames(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, forth: asyncio.StreamWriter
    ) -> None:
        while True:
            frame = await reader.readexactly(2)
            size = frame[1] & 0x7F
            if size >= 126:
                more = await reader.readexactly(2 if size == 126 else 8)
                frame, size = frame + more, int.from_bytes(more)
            frame += await reader.readexactly(4 + size)
            if size > self.limit:
                self.stopped.append(size)
                if (code := _CLOSES.get(self.verdict)) is not None:
                    writer.write(b"\x88\x02" + code.to_bytes(2))
                    await writer.drain()
                await self._end(self.verdict, reader, writer)
            self.passed.append(size)
            forth.write(frame)
            await forth.drain()

    @staticmethod
    async def _end(verdict: Verdict, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if verdict is Verdict.SILENCE:
            # Taken, and lost.
            while await reader.read(65536):
                pass
        if verdict is Verdict.RESET:
            writer.transport.abort()
        raise EOFError

    async def run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Serve until told to stop."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 21)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        loop = asyncio.get_running_loop()
        # Those that were accepted must become transports before: a closed server takes none (asyncio's Server._attach).
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
        for _ in range(5):
            await asyncio.sleep(0)
        server.close()
        # A connection that is being accepted becomes another task.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(0)
        # Of the loop's own, not of those that a task has been given: it may have been cancelled before.
        for transport in list(loop._transports.values()):  # type: ignore[attr-defined]
            transport.abort()
        # A transport closes its socket some rounds after it is told to.
        for _ in range(10):
            await asyncio.sleep(0)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.CancelledError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def firewall(target: int, limit: int, verdict: Verdict, *, word: bytes = b"") -> Iterator[Firewall]:
    """Run one for the length of the block."""
    one, ready = Firewall(target, limit, verdict, word=word), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    loop.set_exception_handler(lambda *_: None)
    thread = threading.Thread(target=loop.run_until_complete, args=(one.run(ready, stop),))
    thread.start()
    try:
        assert ready.wait(10)
        yield one
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
