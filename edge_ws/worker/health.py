"""The health port: `/healthz`, `/readyz` and `/metrics` by plain HTTP, for whoever asks; it changes nothing.

It is served by the loop that it speaks for: a loop that hangs does not answer. A stranger gets little of it:
a few connections, one small request on each, a few seconds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import anyio

from edge_ws.errors import UsageError
from edge_ws.worker.facts import Facts
from edge_ws.worker.faults import Faults
from edge_ws.worker.settings import Address

log = logging.getLogger("edge_ws.worker")

LONGEST = 8192
"""Bytes of a request."""
WITHIN_S = 5.0
"""For a request to come, and its answer to be taken."""
CONNECTIONS = 16
"""Open at once; further ones are closed."""
_JSON = "application/json"
_WORDS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Answer(NamedTuple):
    """What a request is answered with."""

    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """What is read of one."""

    method: str
    path: str


class HealthPort:
    """Listens where it is told to."""

    def __init__(self, address: Address | None, facts: Facts, faults: Faults) -> None:
        """`address`: None: nowhere."""
        self._address = address
        self._facts = facts
        self._faults = faults
        self._listener: socket.socket | None = None
        self._open = 0
        self._metrics: Callable[[], tuple[bytes, str]] | None = None

    def bind(self) -> None:
        """Take the port, before anything else begins.

        Raises:
            UsageError: it cannot be had.
        """
        address = self._address
        if address is None:
            return
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            # Ports of connections that a former life had, and that are closing, can be listened at.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address.host, address.port))
            listener.listen(CONNECTIONS)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise UsageError(
                f"health_listen: cannot listen at {address}: {error.strerror}; free the port or name another"
            ) from error
        self._listener = listener
        if not address.is_loopback:
            log.warning(
                "health_listen: %s can be reached from other machines: whoever asks is told how this worker "
                "is, without a token",
                address,
            )

    async def run(self) -> None:
        """Answer for ever; return at once if there is no port to."""
        if self._listener is None:
            return
        from edge_ws.worker.metrics import Metrics  # noqa: PLC0415 - who has no port does not load it

        self._metrics = Metrics(self._facts).page
        # Its own copy: after a fault it begins anew, and closes what it had.
        server = await asyncio.start_server(self._serve, sock=self._listener.dup(), limit=LONGEST)
        try:
            log.info("health and metrics at http://%s", self._address)
            await anyio.sleep_forever()
        finally:
            server.close()

    def close(self) -> None:
        """Let the port go."""
        if self._listener is not None:
            self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(WITHIN_S):
                        await self._converse(reader, writer)
        except Exception as error:  # noqa: BLE001 - it costs this connection, no more
            self._faults.note("a request at the health port", error)
        finally:
            self._open -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request: Request | None = None
        try:
            request = read(await reader.readuntil(b"\r\n\r\n"))
            answer = self._answer(request)
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            answer = _text(431, f"a request may have {LONGEST} bytes")
        except ValueError:
            answer = _text(400, "this is no HTTP request")
        head = (
            f"HTTP/1.1 {answer.status} {_WORDS[answer.status]}\r\ncontent-type: {answer.kind}\r\n"
            f"content-length: {len(answer.body)}\r\ncache-control: no-store\r\nconnection: close\r\n"
        )
        if answer.status == 405:
            head += "allow: GET, HEAD\r\n"
        has_body = request is None or request.method != "HEAD"
        writer.write(head.encode("ascii") + b"\r\n" + (answer.body if has_body else b""))
        await writer.drain()
        # What it sent besides is read away, else the answer could be lost with the connection's reset.
        if writer.can_write_eof():
            writer.write_eof()
        while await reader.read(LONGEST):
            pass

    def _answer(self, request: Request) -> Answer:
        if request.method not in {"GET", "HEAD"}:
            return _text(405, "only GET and HEAD are answered")
        match request.path:
            case "/healthz":
                return self._health()
            case "/readyz":
                return self._readiness()
            case "/metrics" if self._metrics is not None:
                return Answer(200, *self._metrics())
            case _:
                return _text(404, "there are /healthz, /readyz and /metrics")

    def _health(self) -> Answer:
        """Answer that the loop turns, as this answer shows; a loop whose own watch has died is not well."""
        now = anyio.current_time()
        lag_s = self._facts.of.vitals.overdue_s(now)
        told = {
            "worker": self._facts.of.worker,
            "loop_lag_s": round(self._facts.of.vitals.loop_lag_s(now), 3),
        }
        if lag_s > STUCK_S:
            return _json(503, {"status": "stuck", **told})
        return _json(200, {"status": "ok", **told})

    def _readiness(self) -> Answer:
        reason = self._facts.no_jobs()
        told: dict[str, object] = {"worker": self._facts.of.worker}
        if reason is None:
            return _json(200, {"status": "ready", **told, "code": None, "reason": None})
        return _json(503, {"status": "not ready", **told, "code": reason.code, "reason": reason.sentence})


STUCK_S = 30.0
"""A tick of the loop's own watch that is so late will not come."""


def read(head: bytes) -> Request:
    """Return the request that this head makes.

    Raises:
        ValueError: it is none.
    """
    method, target, version = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if not version.startswith("HTTP/1.") or not target.startswith("/") or not method.isalpha():
        raise ValueError("no HTTP request")
    return Request(method, target.partition("?")[0])


def _text(status: int, sentence: str) -> Answer:
    return Answer(status, f"{sentence}\n".encode())


def _json(status: int, told: dict[str, object]) -> Answer:
    return Answer(status, json.dumps(told).encode() + b"\n", _JSON)
