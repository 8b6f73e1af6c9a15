"""What the demo shows: a table that is drawn again in place on a terminal, plain lines elsewhere.

Knows no process and no database.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TextIO

from edge_ws.demo.watch import Task

_COLUMNS = ("TASK", "QUEUE", "WORKER", "STATE", "OFFER ms", "START ms")
_WIDTHS = (20, 8, 13, 8, 8, 8)
_GAP = "  "
_SPARE_LINES = 2
"""Left free on the terminal: the cursor's line, and one of what came before."""
_SAID = {None: "queued", "scheduled": "queued"}
DONE = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})


class Screen:
    """Where the demo speaks: to people, on a stream of theirs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._begun = time.monotonic()
        self._drawn = 0
        """Lines of the table above the cursor."""
        self._told: set[str] = set()

    def say(self, sentence: str = "") -> None:
        """Print a line, under the table if there is one."""
        self._drawn = 0
        print(sentence, file=self._stream, flush=True)

    def step(self, sentence: str) -> None:
        """Print a line with the time since the start."""
        self.say(f"{time.monotonic() - self._begun:5.1f} s  {sentence}")

    def tasks(self, tasks: Sequence[Task], notes: Sequence[str] = ()) -> None:
        """Show the tasks as they are now: the whole table again, or a line for each that has ended.

        `notes` are all that is to be said besides, each a line of its own.
        """
        if self._live:
            self._draw(tasks, notes)
            return
        lines = [(task.name, _line(_cells(task))) for task in tasks if task.state in DONE]
        lines += [(note, note) for note in notes]
        for name, line in lines:
            if name not in self._told:
                if not self._told:
                    self.say(_line(_COLUMNS))
                self._told.add(name)
                self.say(line)

    def _draw(self, tasks: Sequence[Task], notes: Sequence[str]) -> None:
        try:
            columns, lines = os.get_terminal_size(self._stream.fileno())
        except OSError:
            columns, lines = 80, 24
        rows = [_line(_cells(task)) for task in tasks]
        # What has scrolled off the screen cannot be drawn again.
        footer = ["", *notes] if notes else []
        room = max(1, lines - _SPARE_LINES - 1 - len(footer))
        if len(rows) > room:
            left_out = len(rows) - room + 1
            rows = [f"... {left_out} more above", *rows[left_out:]]
        # A line as wide as the terminal would wrap and take two.
        table = [line[: max(1, columns - 1)] for line in (_line(_COLUMNS), *rows, *footer)]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._stream.write(up + "".join(f"\r{line}\x1b[K\n" for line in table) + "\x1b[J")
        self._stream.flush()
        self._drawn = len(table)


def _cells(task: Task) -> tuple[str, ...]:
    return (
        task.name,
        task.queue,
        task.worker or "-",
        _SAID.get(task.state, task.state or ""),
        _ms(task.push_ms),
        _ms(task.start_ms),
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _line(cells: Sequence[str]) -> str:
    *words, push, start = (
        f"{cell:<{width}.{width}}" if index < len(cells) - 2 else f"{cell:>{width}}"
        for index, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
    return _GAP.join((*words, push, start)).rstrip()
