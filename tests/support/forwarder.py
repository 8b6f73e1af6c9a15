"""A small TCP load balancer for tests: round robin over targets, and links that can be cut or made silent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    flows: asyncio.Event


class Forwarder:
    """Listens on `port`; each connection goes to the next target that answers. Thread-safe."""

    def __init__(self, targets: Sequence[int]) -> None:
        self._targets = list(targets)
        self._next = 0
        self._is_closed = False
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self.port = 0

    # Called from other threads

    def close_line(self) -> None:
        """Break all links, and let no new one come about."""
        self._is_closed = True
        self.cut()

    def open_line(self) -> None:
        """Let links come about again."""
        self._is_closed = False

    def cut(self) -> int:
        """Break all links at once; return how many there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(5)

    def silence(self) -> None:
        """Let nothing pass on the links there are, without closing them: new ones are not concerned."""
        self._loop.call_soon_threadsafe(self._set_flow, False)

    def resume(self) -> None:
        """Let what was held pass."""
        self._loop.call_soon_threadsafe(self._set_flow, True)

    # On the loop

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            for writer in (link.client, link.server):
                writer.transport.abort()
            link.flows.set()
        return len(links)

    def _set_flow(self, flows: bool) -> None:
        for link in self._links:
            (link.flows.set if flows else link.flows.clear)()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = await self._open()
        if opened is None:
            writer.transport.abort()
            return
        back, forth = opened
        if self._is_closed:
            writer.transport.abort()
            forth.transport.abort()
            return
        link = _Link(writer, forth, asyncio.Event())
        link.flows.set()
        self._links.add(link)
        try:
            await asyncio.gather(self._copy(reader, forth, link), self._copy(back, writer, link))
        finally:
            self._links.discard(link)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self._targets:
            self._next = (self._next + 1) % len(self._targets)
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._targets[self._next])
        return None

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                await link.flows.wait()
                writer.write(data)
                await writer.drain()
            await link.flows.wait()
        # As a proxy does: an end of one side ends the other.
        writer.close()

    def run(self, ready: threading.Event) -> None:
        """Serve until `stop`, on the thread that calls."""
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def stop(self) -> None:
        """End `run`."""
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def forwarding(targets: Sequence[int]) -> Iterator[Forwarder]:
    """Run a forwarder for the length of the block."""
    forwarder, ready = Forwarder(targets), threading.Event()
    thread = threading.Thread(target=forwarder.run, args=(ready,))
    thread.start()
    try:
        assert ready.wait(10)
        yield forwarder
    finally:
        forwarder.stop()
        thread.join(30)
        assert not thread.is_alive(), "the forwarder does not end"
