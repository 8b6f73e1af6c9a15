"""What strict networks do to WebSockets, as a forwarder: plain HTTP passes it, an upgrade fares as a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum

_LONGEST_HEAD = 65536


class Upgrades(Enum):
    """What becomes of connections that ask for an upgrade."""

    PASS = "pass"
    NO_ANSWER = "no answer"
    """Not even the request passes."""
    SILENT = "silent after 101"
    CLOSED = "closed after 101"
    REFUSED = "refused"
    """By the breaker itself, with 403."""


class Breaker:
    """Listens on `port`; each connection goes to the next target that answers. Thread-safe."""

    def __init__(self, targets: Sequence[int], upgrades: Upgrades) -> None:
        self._targets = list(targets)
        self._next = 0
        self.upgrades = upgrades
        """For those to come."""
        self.asked = 0
        """How many have asked for an upgrade."""
        self._open: dict[asyncio.StreamWriter, bool] = {}
        """Clients, and whether they have asked for an upgrade."""
        self._loop = asyncio.new_event_loop()
        self.port = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    # Called from other threads

    def cut(self, *, only_upgraded: bool = False) -> int:
        """Break what is open at once; return how many connections that were."""
        return asyncio.run_coroutine_threadsafe(self._cut(only_upgraded), self._loop).result(5)

    # On the loop

    async def _cut(self, only_upgraded: bool) -> int:
        found = [one for one, upgraded in self._open.items() if upgraded or not only_upgraded]
        for writer in found:
            writer.transport.abort()
        return len(found)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = False
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            upgrade = b"\r\nupgrade: websocket\r\n" in head.lower()
            if upgrade:
                self.asked += 1
                self._open[writer] = True
            await self._forward(reader, writer, head, self.upgrades if upgrade else Upgrades.PASS)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            del self._open[writer]
            writer.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, fate: Upgrades
    ) -> None:
        if fate is Upgrades.NO_ANSWER:
            await reader.read()
            return
        if fate is Upgrades.REFUSED:
            body = b"Forbidden by the network's rules\n"
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            return
        back, forth = await self._connect()
        try:
            forth.write(head)
            if fate in {Upgrades.SILENT, Upgrades.CLOSED}:
                writer.write(await back.readuntil(b"\r\n\r\n"))
                await writer.drain()
                if fate is Upgrades.SILENT:
                    # Taken, and lost: so nobody waits for room in a buffer.
                    await asyncio.gather(_swallow(reader), _swallow(back))
                return
            await asyncio.gather(_copy(reader, forth), _copy(back, writer))
        finally:
            forth.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in self._targets:
            self._next = (self._next + 1) % len(self._targets)
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._targets[self._next])
        raise ConnectionRefusedError

    def run(self, ready: threading.Event) -> None:
        """Serve until `stop`, on the thread that calls."""
        asyncio.set_event_loop(self._loop)
        listening = asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=_LONGEST_HEAD)
        server = self._loop.run_until_complete(listening)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        await self._cut(only_upgraded=False)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def stop(self) -> None:
        """End `run`."""
        self._loop.call_soon_threadsafe(self._loop.stop)


async def _swallow(reader: asyncio.StreamReader) -> None:
    with suppress(OSError, asyncio.CancelledError):
        while await reader.read(65536):
            pass


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.CancelledError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    # As a proxy does: an end of one side ends the other.
    writer.close()


@contextmanager
def breaking(targets: Sequence[int], upgrades: Upgrades) -> Iterator[Breaker]:
    """Run a breaker for the length of the block."""
    breaker, ready = Breaker(targets, upgrades), threading.Event()
    thread = threading.Thread(target=breaker.run, args=(ready,))
    thread.start()
    try:
        assert ready.wait(10)
        yield breaker
    finally:
        breaker.stop()
        thread.join()
