"""The table: in place on a terminal of any size, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import struct
from contextlib import closing
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest

from edge_ws.demo.screen import Screen
from edge_ws.demo.watch import Task


def _task(name: str, state: str | None = "success", **moments: float | None) -> Task:
    times: dict[str, float | None] = {"committed_at": 1.0, "offered_at": 1.012, "started_at": 1.25, **moments}
    return Task(name=name, queue="factory", worker="w1", state=state, **times)


# Plain


def test_plain_lines_tell_each_end_once() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    running, queued = _task("b", "running"), _task("c", None, offered_at=None, started_at=None)
    screen.tasks([_task("a"), running, queued])
    screen.tasks([_task("a"), _task("b", "failed"), queued], ["a note"])
    screen.tasks([_task("a"), _task("b", "failed"), queued], ["a note"])
    head, *lines = stream.getvalue().splitlines()
    assert head.split() == ["TASK", "QUEUE", "WORKER", "STATE", "OFFER", "ms", "START", "ms"]
    assert [line.split()[0] for line in lines] == ["a", "b", "a"]
    assert lines[0].split() == ["a", "factory", "w1", "success", "12", "250"]
    assert lines[2] == "a note"
    assert "\x1b" not in stream.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with closing(_Terminal()) as terminal:
        Screen(terminal.stream).tasks([_task("a")])
        assert "\x1b" not in terminal.written()


# Live


_END = "\0"


class _Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._main, side = pty.openpty()
        ioctl(side, TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.stream = os.fdopen(side, "w")

    def written(self) -> str:
        # The kernel hands it over piece by piece, when it likes.
        self.stream.write(_END)
        self.stream.flush()
        data = b""
        while not data.endswith(_END.encode()):
            data += os.read(self._main, 65536)
        return data.decode().removesuffix(_END)

    def close(self) -> None:
        self.stream.close()
        os.close(self._main)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> type[_Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    return _Terminal


def _lines(written: str) -> list[str]:
    return [line.removesuffix("\x1b[K").removeprefix("\r") for line in written.split("\r\n")[:-1]]


def test_the_table_is_drawn_over_itself(terminal: type[_Terminal]) -> None:
    with closing(terminal()) as one:
        screen = Screen(one.stream)
        screen.tasks([_task("a", "queued")])
        first = one.written()
        assert "\x1b[A" not in first
        screen.tasks([_task("a"), _task("b")], ["note"])
        assert one.written().startswith("\x1b[2A")
        screen.tasks([_task("a"), _task("b")], ["note"])
        assert one.written().startswith("\x1b[5A")
        screen.say("done")
        one.written()
        screen.tasks([_task("a")])
        assert not one.written().startswith("\x1b[")


@pytest.mark.parametrize("columns", [1, 20, 40, 80, 200])
def test_no_line_wraps(terminal: type[_Terminal], columns: int) -> None:
    with closing(terminal(columns=columns)) as one:
        Screen(one.stream).tasks([_task("transform [a-machine-with-a-long-name]")], ["n" * 300])
        assert max(map(len, _lines(one.written()))) <= max(1, columns - 1)


@pytest.mark.parametrize("height", [1, 3, 10, 24])
def test_the_table_never_scrolls(terminal: type[_Terminal], height: int) -> None:
    with closing(terminal(lines=height)) as one:
        Screen(one.stream).tasks([_task(f"t{number}") for number in range(50)], ["note"])
        lines = _lines(one.written())
        assert len(lines) < max(height, 6)
        assert lines[-1] == "note"


def test_the_newest_tasks_stay(terminal: type[_Terminal]) -> None:
    with closing(terminal(lines=10)) as one:
        Screen(one.stream).tasks([_task(f"t{number}") for number in range(50)])
        _, more, *rows = _lines(one.written())
        assert more == "... 44 more above"
        assert [row.split()[0] for row in rows] == [f"t{number}" for number in range(44, 50)]


def test_nothing_known_yet() -> None:
    stream = io.StringIO()
    Screen(stream).tasks([])
    assert stream.getvalue() == ""
