"""Files and standard streams whose writes never raise: a full or failing disk must not end what reports.

What the disk does not take is lost, counted, and said as soon as the disk takes something again.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Note = Callable[[str], bytes]
"""Makes the line that says what is missing, with its line end."""


def plain_note(sentence: str) -> bytes:
    """Return the sentence as a line of text."""
    return f"edge-ws: {sentence}\n".encode()


def open_to_write(path: Path) -> int:
    """Make a file anew, readable by its owner only; return its descriptor.

    Whatever has that name goes: nothing is written through a link, into a pipe or to a file's other name.

    Raises:
        OSError: it cannot be made, or a folder is there.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class LossyFile(io.FileIO):
    """An unbuffered file for appending whose `write` and `close` never raise `OSError`."""

    def __init__(self, file: str | int, note: Note = plain_note, *, closefd: bool = True) -> None:
        """Open it, or take over a descriptor; opening may raise `OSError` as always."""
        super().__init__(file, "a", closefd=closefd)
        self._note = note
        self._lost = 0
        self._why = ""
        self._is_torn = False

    @property
    def missing(self) -> str:
        """What is missing since the disk last took something, as a sentence; empty: nothing."""
        if not self._lost:
            return ""
        return f"{self._lost} bytes of output are missing here, as they could not be written: {self._why}"

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it, or lose what cannot be written; return the length of all of it."""
        view = memoryview(data).cast("B")
        if self._lost:
            end = b"\n" if self._is_torn else b""
            if self._put(memoryview(end + self._note(self.missing))):
                self._lost += len(view)
                return len(view)
            self._lost = 0
        left = self._put(view)
        if left:
            self._lost += left
            self._is_torn = left < len(view)
        return len(view)

    def _put(self, view: memoryview) -> int:
        """Return how many of the bytes were not written."""
        try:
            while view:
                written = super().write(view)
                if written is None:
                    self._why = "the reader does not keep up"
                    break
                view = view[written:]
        except OSError as error:
            self._why = error.strerror or type(error).__name__
        return len(view)

    def close(self) -> None:
        """Close it; some file systems tell only now what they have not taken."""
        with suppress(OSError):
            super().close()


def protect_standard_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` of this process, and of its forks, never raise `OSError`."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            continue  # closed: Python has None there, and prints nothing
        stream = io.TextIOWrapper(
            LossyFile(number, closefd=False),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
            write_through=True,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
