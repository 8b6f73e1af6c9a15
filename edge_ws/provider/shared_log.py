"""Which part of a job's log is in the log's file already, though nobody here has written it.

Worker and centre may have one log folder between them, on one machine or over the network. Nobody tells; but
every line of a log has its time, so one that is there twice is the same line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

_STAMP = b'"timestamp"'
"""What the lines of Airflow's logs have in them."""
_LONGEST_LINE = 65536
_BLOCK = 1024 * 1024


class SharedLog:
    """A job's log, and its file as far as that had been written before the log was to be moved there."""

    def __init__(self, descriptor: int, base: int, chunks: Iterable[bytes]) -> None:
        """Look for the beginning of the log in the file's first `base` bytes.

        Args:
            descriptor: the open file.
            base: its size when the move began: what lies beyond that may be an earlier try to move it.
            chunks: the log; read as far as is necessary.
        """
        self._descriptor = descriptor
        self._chunks = iter(chunks)
        self._begun = self._read_line()
        self._at = self._find(base)

    @property
    def is_there(self) -> bool:
        """Whether somebody has written it there, if perhaps not to its end."""
        return self._at is not None

    def missing(self) -> Iterator[bytes]:
        """Yield what is to be appended: all, or what follows the lines that are there."""
        if self._at is None:
            yield from self._all()
            return
        at, kept, differs = self._at, b"", False
        for chunk in self._all():
            if differs:
                yield chunk
                continue
            # A line that is torn between two chunks is compared whole.
            data = kept + chunk
            here = os.pread(self._descriptor, len(data), at)
            same = _same_lines(data, here)
            kept, at = data[same:], at + same
            differs = kept != here[same:]
            if differs:
                yield kept

    def _read_line(self) -> bytes:
        begun = b""
        for chunk in self._chunks:
            begun += chunk
            if b"\n" in begun or len(begun) > _LONGEST_LINE:
                break
        return begun

    def _all(self) -> Iterator[bytes]:
        yield self._begun
        yield from self._chunks

    def _find(self, base: int) -> int | None:
        line = self._begun[: self._begun.find(b"\n") + 1]
        if _STAMP not in line:
            return None
        # Before the file's first line there is, so to speak, the end of another.
        wanted, window, at = b"\n" + line, b"\n", -1
        while at < base and (
            block := os.pread(self._descriptor, min(_BLOCK, base - at - len(window)), at + len(window))
        ):
            window += block
            found = window.find(wanted)
            if found >= 0:
                return at + found + 1
            kept = min(len(window), len(wanted) - 1)
            at, window = at + len(window) - kept, window[-kept:]
        return None


def _same_lines(data: bytes, here: bytes) -> int:
    """Return how many bytes both have in common, in whole lines."""
    same = 0
    while (end := data.find(b"\n", same) + 1) and data[same:end] == here[same:end]:
        same = end
    return same
