"""Garbage on a raw socket, from strangers and from a worker: an answer or an end, and no traceback in the log."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import MAX_FRAME
from edge_ws.server.guarded import Limits
from edge_ws.server.uvicorn_log import GARBAGE, WITHIN_S, OneLine, quieten
from edge_ws.store.store import Store
from tests.server.test_guarded import guarded, is_well, open_raw
from tests.support.gateway import RunningGateway, make_token, serving

Serving = Callable[[Store], AbstractContextManager[RunningGateway]]
SERVERS: dict[str, Serving] = {
    "edge-ws server": lambda store: guarded(store, Limits(head_s=1.0), log_level="warning"),
    "api-server": serving,
}


@pytest.fixture(params=SERVERS.values(), ids=SERVERS)
def gateway(request: pytest.FixtureRequest, store: Store) -> Iterator[RunningGateway]:
    quieten()
    with request.param(store) as gateway:
        yield gateway


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


def _frame(first: int, payload: bytes = b"", *, length: int | None = None, is_masked: bool = True) -> bytes:
    """Return a frame, masked with nothing, of that first byte; `length` lies."""
    size = len(payload) if length is None else length
    mask = 0x80 if is_masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (bytes(4) if is_masked else b"") + payload


TEXT, CLOSE = 0x81, 0x88
FRAMES = {
    "text that is not UTF-8": _frame(TEXT, b"\xff\xfe"),
    "a character that is cut": _frame(TEXT, "ä".encode()[:1]),
    "a surrogate": _frame(TEXT, b"\xed\xa0\x80"),
    "pieces that are not UTF-8": _frame(0x01, b"\xc3") + _frame(0x80, b"\xff"),
    "no code": _frame(CLOSE),
    "half a code": _frame(CLOSE, b"\x03"),
    "a code that is kept": _frame(CLOSE, struct.pack("!H", 1005)),
    "a code of nothing": _frame(CLOSE, struct.pack("!H", 0)),
    "a code too large": _frame(CLOSE, struct.pack("!H", 65535)),
    "a reason that is not UTF-8": _frame(CLOSE, struct.pack("!H", 1000) + b"\xff\xff"),
    "a reason too long": _frame(CLOSE, struct.pack("!H", 1000) + b"x" * 124),
    "a bit that is kept": _frame(0xC1, b"x"),
    "all bits that are kept": _frame(0xF1, b"x"),
    "no opcode": _frame(0x83, b"x"),
    "no control frame": _frame(0x8B, b"x"),
    "no mask": _frame(TEXT, b"{}", is_masked=False),
    "too large": _frame(0x82, b"x", length=MAX_FRAME * 2),
    "as large as can be said": _frame(0x82, b"x", length=2**64 - 1),
    "too large a ping": _frame(0x89, b"x" * 126),
    "half a ping": _frame(0x09, b"x"),
    "an end of nothing": _frame(0x80, b"x"),
    "a beginning within": _frame(0x01, b"x") + _frame(0x01, b"y"),
    "a ping behind the end": _frame(CLOSE, struct.pack("!H", 1000)) + _frame(0x89, b"x"),
    "twice the end": _frame(CLOSE, struct.pack("!H", 1000)) * 2,
}
CODES = {name: 1007 for name in FRAMES if "UTF-8" in name or "cut" in name or "surrogate" in name}
KEY = "sec-websocket-key: ZWRnZS13cyBjaGVja3MgdQ=="
VERSION = "sec-websocket-version: 13"
UPGRADE = ("connection: upgrade", "upgrade: websocket")


def _ask(*headers: str, first: str = "GET /edge-ws/v1/ws HTTP/1.1") -> bytes:
    return "\r\n".join([first, "host: x", *headers, "", ""]).encode("latin-1")


HEADS = {
    "no key": _ask(*UPGRADE, VERSION),
    "a short key": _ask(*UPGRADE, VERSION, "sec-websocket-key: abc"),
    "a key of no base64": _ask(*UPGRADE, VERSION, "sec-websocket-key: \xff\xff\xff="),
    "two keys": _ask(*UPGRADE, VERSION, KEY, KEY),
    "no version": _ask(*UPGRADE, KEY),
    "another version": _ask(*UPGRADE, KEY, "sec-websocket-version: 12"),
    "a version of words": _ask(*UPGRADE, KEY, "sec-websocket-version: \xe4"),
    "another upgrade": _ask("connection: upgrade", "upgrade: h2c, websocket", VERSION, KEY),
    "an upgrade that is none": _ask("connection: upgrade", "upgrade: websocket/;,", VERSION, KEY),
    "a connection that is none": _ask("connection: upgrade, ;;;", "upgrade: websocket", VERSION, KEY),
    "a protocol of words": _ask(*UPGRADE, VERSION, KEY, "sec-websocket-protocol: \xe4, ,,"),
    "an extension that is none": _ask(*UPGRADE, VERSION, KEY, "sec-websocket-extensions: ;;=,"),
    "an extension with odd words": _ask(
        *UPGRADE, VERSION, KEY, "sec-websocket-extensions: permessage-deflate; client_max_window_bits=99"
    ),
    "a long header": _ask(*UPGRADE, VERSION, KEY, "x: " + "y" * 20_000),
    "many headers": _ask(*UPGRADE, VERSION, KEY, *(f"x{number}: y" for number in range(500))),
    "a long path": _ask(*UPGRADE, VERSION, KEY, first=f"GET /{'x' * 20_000} HTTP/1.1"),
    "a path with odd escapes": _ask(*UPGRADE, VERSION, KEY, first="GET /edge-ws/v1/ws/%ff%00%zz HTTP/1.1"),
    "a path of words": _ask(*UPGRADE, VERSION, KEY, first="GET /edge-ws/\xe4 HTTP/1.1"),
    "a whole address": _ask(*UPGRADE, VERSION, KEY, first="GET http://x/edge-ws/v1/ws HTTP/1.1"),
    "a post": _ask(*UPGRADE, VERSION, KEY, first="POST /edge-ws/v1/ws HTTP/1.1"),
    "a body": _ask(*UPGRADE, VERSION, KEY, "content-length: 5") + b"hello",
    "pieces of a body": _ask(*UPGRADE, VERSION, KEY, "transfer-encoding: chunked")
    + b"5\r\nhello\r\n0\r\n\r\n",
    "an old HTTP": _ask(*UPGRADE, VERSION, KEY, first="GET /edge-ws/v1/ws HTTP/1.0"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "odd values": _ask(*UPGRADE, VERSION, KEY, "edge-ws-token: \xff\xfe", "edge-ws-worker: \xe4"),
    "two hosts": _ask(*UPGRADE, VERSION, KEY, "host: y"),
    "frames at once": _ask(*UPGRADE, VERSION, KEY) + _frame(TEXT, b"\xff") * 20,
}


def _read(raw: socket.socket) -> bytes:
    """Return all that comes until the end."""
    said = b""
    try:
        while data := raw.recv(65536):
            said += data
    except OSError:
        pass
    return said


def _has_no_traceback(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    assert [one.getMessage() for one in caplog.records if one.exc_info or one.levelno >= logging.ERROR] == []
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out + caplog.text


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_an_odd_upgrade_is_answered_or_cut(
    gateway: RunningGateway,
    head: bytes,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open_raw(gateway) as raw:
        raw.settimeout(3)
        raw.sendall(head)
        raw.shutdown(socket.SHUT_WR)
        said = _read(raw)
        assert not said.startswith((b"HTTP/1.1 101", b"HTTP/1.1 5"))
    assert is_well(gateway)
    _has_no_traceback(caplog, capfd)


@pytest.mark.parametrize("name", FRAMES)
def test_odd_frames_close_their_own_connection(
    gateway: RunningGateway,
    store: Store,
    name: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open_raw(gateway) as raw:
        token = make_token(store)
        raw.sendall(_ask(*UPGRADE, VERSION, KEY, f"edge-ws-token: {token}", "edge-ws-worker: w9"))
        assert raw.recv(65536).startswith(b"HTTP/1.1 101 ")
        raw.sendall(FRAMES[name])
        said = _read(raw)
        if name in CODES:
            assert said[0] == CLOSE, said
            assert struct.unpack("!H", said[2:4])[0] == CODES[name]
    assert is_well(gateway)
    _has_no_traceback(caplog, capfd)


def test_many_texts_that_are_none_are_one_line() -> None:
    now = [0.0]
    one = OneLine(lambda: now[0])

    def say() -> str | None:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, GARBAGE, (), (None, None, None))
        return record.getMessage() if one.filter(record) and record.exc_info is None else None

    said = [say() for _ in range(100)]
    assert [line is None for line in said] == [False] + [True] * 99
    now[0] = WITHIN_S
    assert str(say()).endswith("since the last such line: 99")
    other = logging.LogRecord(
        "uvicorn.error", logging.ERROR, "", 0, "Exception in ASGI application", (), None
    )
    assert one.filter(other)
    assert other.levelno == logging.ERROR
