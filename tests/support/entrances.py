"""What stands before a server on loopback: its TLS, or a forward proxy of a test's own."""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.certificates import Certificate


@dataclass(kw_only=True)
class Entrance:
    """Listens on `port`. With a target it leads there; without one it is a proxy that wants CONNECT first."""

    target: int | None = None
    context: ssl.SSLContext | None = None
    credentials: str | None = None
    """`user:password`, without which a proxy answers with 407."""
    refusal: bytes | None = None
    """What a proxy answers in place of 200."""
    asked: list[str] = field(default_factory=list)
    """The first lines of the requests that a proxy got."""
    port: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            port = self.target or await self._ask(reader, writer)
            if port is None:
                return
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            if self.target is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(self._copy(reader, forth), self._copy(back, writer))
        except (OSError, EOFError):
            return
        finally:
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *rest = head.split("\r\n")
        self.asked.append(first)
        wanted = self.credentials and base64.b64encode(self.credentials.encode()).decode()
        if wanted and f"proxy-authorization: basic {wanted}".lower() not in [line.lower() for line in rest]:
            writer.write(
                b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n'
                b"Connection: close\r\n\r\n"
            )
            return None
        if self.refusal is not None:
            writer.write(self.refusal)
            return None
        return int(first.split()[1].rpartition(":")[2])

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def server_context(certificate: Certificate, client_authority: Path | None = None) -> ssl.SSLContext:
    """Return a server's context; with an authority, clients must show a certificate that it signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_authority)
    return context


@contextmanager
def open_entrance(entrance: Entrance) -> Iterator[Entrance]:
    """Serve for the length of the block."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    loop.set_exception_handler(lambda *_: None)
    thread = threading.Thread(target=loop.run_until_complete, args=(entrance.run(ready, stop),))
    thread.start()
    try:
        assert ready.wait(10)
        yield entrance
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
