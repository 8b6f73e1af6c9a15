"""What uvicorn says of strangers' garbage: a line now and then, where it would print a traceback for each.

Knows uvicorn's words only; what is served, and the answer to the garbage, are not its business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge_ws.server.quota import Quota

GARBAGE = "Invalid UTF-8 sequence received from client."
"""uvicorn closes such a WebSocket with 1007, and logs an exception with these words."""
REFUSED = "ASGI callable returned without completing handshake."
"""It says so of every WebSocket that is refused with an answer, which is as it should be."""
WITHIN_S = 60.0


class OneLine(logging.Filter):
    """Makes one line a minute of the garbage that anybody may send, and none of a refusal."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._quota = Quota(1, WITHIN_S, known=1)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record pass, without its traceback if a stranger can cause it."""
        if record.msg != GARBAGE:
            return record.msg != REFUSED
        left_out = self._quota.admit(GARBAGE, self._clock())
        if left_out is None:
            return False
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg = "A WebSocket was closed: its text is not UTF-8; such since the last such line: %d"
        record.args = (left_out,)
        return True


def quieten() -> None:
    """Have uvicorn's log go through `OneLine`, once in a process."""
    logger = logging.getLogger("uvicorn.error")
    if not any(isinstance(one, OneLine) for one in logger.filters):
        logger.addFilter(OneLine())
