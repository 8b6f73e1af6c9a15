"""Reads a stream of server-sent events as a browser's EventSource does, in a thread of its own."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support.waiting import wait_until


@dataclass
class EventSource:
    """What has come so far; `pages` are the unnamed events."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pages: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    retry: str = ""
    body: bytes = b""
    """Of a refusal."""
    came_at: list[float] = field(default_factory=list)
    """When each page came, as `time.monotonic` counts."""
    is_over: bool = False

    def page(self, has: Callable[[dict[str, Any]], object], deadline_s: float = 10.0) -> dict[str, Any]:
        """Return the last page once it is one that `has` takes."""
        wait_until(lambda: self.pages and has(self.pages[-1]), deadline_s, every_s=0.005)
        return self.pages[-1]

    def take(self, lines: Iterator[bytes]) -> None:
        name, data = "", ""
        for raw in lines:
            line = raw.decode().rstrip("\r\n")
            kind, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if data and name == "end":
                    self.ends.append(json.loads(data))
                elif data:
                    self.came_at.append(time.monotonic())
                    self.pages.append(json.loads(data))
                name = data = ""
            elif not kind:
                self.comments.append(value)
            elif kind == "event":
                name = value
            elif kind == "data":
                data += value
            elif kind == "retry":
                self.retry = value


@contextmanager
def event_source(url: str, headers: Mapping[str, str]) -> Iterator[EventSource]:
    """Read the stream for the length of the block."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=30)
    source = EventSource()

    def read() -> None:
        try:
            connection.request("GET", f"{parts.path}?{parts.query}", headers=dict(headers))
            answer = connection.getresponse()
            source.headers = {name.lower(): value for name, value in answer.getheaders()}
            source.status = answer.status
            if answer.status == 200:
                source.take(iter(answer.readline, b""))
            else:
                source.body = answer.read()
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            # Closed at the end of the block.
            pass
        finally:
            source.is_over = True

    thread = threading.Thread(target=read)
    thread.start()
    try:
        wait_until(lambda: source.status or source.is_over)
        yield source
    finally:
        if connection.sock is not None:
            connection.sock.shutdown(2)
        thread.join()
        connection.close()
