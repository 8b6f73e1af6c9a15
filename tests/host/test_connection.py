"""The daemon's connection, both of its ends here."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from edge_ws.host.connection import Connection


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    with theirs:
        yield connection, theirs
    connection.close()


def test_lines_arrive_whole(pair: tuple[Connection, socket.socket]) -> None:
    connection, daemon = pair
    assert list(connection.read()) == []
    daemon.send(b'{"n": 1}\n{"n"')
    assert list(connection.read()) == [b'{"n": 1}']
    daemon.send(b": 2}")
    assert list(connection.read()) == []
    daemon.send(b'\n{"n": 3}\n')
    assert list(connection.read()) == [b'{"n": 2}', b'{"n": 3}']
    daemon.close()
    with pytest.raises(EOFError):
        list(connection.read())


def test_a_daemon_that_does_not_read_blocks_nobody(pair: tuple[Connection, socket.socket]) -> None:
    connection, daemon = pair
    told = 0
    while not connection.flush():
        connection.say({"text": "x" * 10_000})
        told += 1
    daemon.settimeout(5)
    data = b""
    while data.count(b"\n") < told:
        data += daemon.recv(1024 * 1024)
        connection.flush()
    assert connection.flush() == 0
    assert [json.loads(line)["text"][0] for line in data.splitlines()] == ["x"] * told


def test_a_daemon_that_never_reads_is_given_up(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    connection.say({"text": "x" * 20_000_000})
    with pytest.raises(OSError, match="unread"):
        connection.flush()


def test_an_endless_line_is_passed_over(pair: tuple[Connection, socket.socket]) -> None:
    connection, daemon = pair

    def listen() -> None:
        for _ in range(1000):
            daemon.send(b"x" * 100_000)
            list(connection.read())

    with pytest.raises(ValueError, match="a line of more than 16777216 bytes"):
        listen()
    daemon.send(b"its end\n{}\n")
    assert list(connection.read()) == [b"{}"]
