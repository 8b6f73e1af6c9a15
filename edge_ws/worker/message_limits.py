"""What has been learnt of the size of messages on each way, kept over restarts of the daemon.

Only a beginning: a larger message is tried again as ever. So a file that cannot be read or written costs
nothing but that what it says is learnt once more.
"""

from __future__ import annotations

import logging
from pathlib import Path

import orjson

from edge_ws.protocol.frames import MAX_FRAME
from edge_ws.worker.files import read_small, write_durably
from edge_ws.worker.transports.sizes import FLOOR, Sizes

log = logging.getLogger(__name__)


class MessageLimits:
    """The limits, by way."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one."""
        self._path = path
        self._limits = _read(path)

    def sizes(self, where: str) -> Sizes:
        """Return what is known of that way; what it learns is kept."""
        return Sizes(
            where, limit=self._limits.get(where, MAX_FRAME), keep=lambda limit: self._keep(where, limit)
        )

    def _keep(self, where: str, limit: int) -> None:
        self._limits[where] = limit
        try:
            write_durably(self._path, orjson.dumps(self._limits))
        except OSError as error:
            log.warning("%s does not take the size of messages that pass: %s", self._path, error.strerror)


def _read(path: Path) -> dict[str, int]:
    try:
        told = orjson.loads(read_small(path))
        return {str(where): min(MAX_FRAME, max(FLOOR, int(limit))) for where, limit in told.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        log.warning("%s cannot be read: message sizes are learnt again", path)
        return {}
