"""Names with several addresses, of which one swallows every connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest


@contextmanager
def black_hole(port: int) -> Iterator[str]:
    """Yield an address of this machine where connections to that port are never answered: its backlog is full."""
    address = "127.0.0.77"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(6):
            held = stack.enter_context(socket.socket())
            held.setblocking(False)
            held.connect_ex((address, port))
        yield address


def resolving(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> None:
    """Give names these addresses, in that order; the system's own look-up knows none of a test's."""
    look_up = socket.getaddrinfo

    def known(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in names:
            return look_up(host, port, *args, **more)
        return [one for address in names[name] for one in look_up(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", known)
