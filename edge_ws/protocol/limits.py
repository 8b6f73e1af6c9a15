"""What a value on the wire may be at most; the codec enforces it, so that no database column overflows.

Knows no frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

MAX_FRAME = 1024 * 1024
"""Bytes of one message, and so of one encoded frame."""
MESSAGE_GOAL = 128 * 1024
"""Bytes up to which frames are put together in one message; a single larger frame goes alone."""
MAX_DEPTH = 8
"""Nested arrays and objects."""
LOG_CHUNK = 64 * 1024
"""Bytes of log in one `log` frame."""
ID_LENGTH = 36
"""Characters of an id, at most."""
NAME_LENGTH = 64
"""Characters of a worker's name, at most."""


@dataclass(frozen=True, slots=True)
class Within:
    """The least and the greatest value of a field (of bytes and text: the length)."""

    least: float
    most: float


Count = Annotated[int, Within(0, 2**31 - 1)]
"""A number of things; fits a 32-bit column."""
Code = Annotated[int, Within(-(2**31), 2**31 - 1)]
"""A process's exit code, negative for a signal."""
Size = Annotated[int, Within(0, 2**53 - 1)]
"""A number of bytes, or a place in a log; exact in every JSON reader."""
Sentence = Annotated[str, Within(0, 64 * 1024)]
"""Words for people, or a part of a request: of such a length that some of them fit in one frame."""
Seconds = Annotated[float, Within(0, 1e9)]
"""A duration."""
Interval = Annotated[float, Within(0.01, 86_400)]
"""The time between two repetitions: never so short that repeating it is all that happens."""
LogBytes = Annotated[bytes, Within(0, LOG_CHUNK)]
"""A piece of a log."""
