"""What the gateway asks of the centre, as three small interfaces.

Whoever composes a gateway implements them; nothing here knows how. All methods are synchronous, may block
and are called from threads, several at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol


class TaskStates(Protocol):
    """What the centre thinks of task instances."""

    def states(self, subjects: Collection[str]) -> dict[str, str | None]:
        """Return task instance id -> state; an id that the centre does not know (any more) is absent.

        Callbacks' ids are never asked for.

        Raises:
            UnreachableError: the centre's database is away.
        """
        ...


class TaskTokens(Protocol):
    """Credentials with which one job may start."""

    def mint(self, subject: str, *, is_callback: bool, valid_s: float) -> str:
        """Return a token for that task instance (or callback), valid for `valid_s` seconds from now.

        Raises:
            UsageError: the centre's signing settings are missing or wrong.
        """
        ...


class FinishedLogs(Protocol):
    """The centre's folder of task logs, and the remote store behind it if there is one."""

    def size(self, log_path: str) -> int:
        """Return the bytes that the file has now, 0 if it is absent.

        Args:
            log_path: relative to the log folder; comes from a workload, so it is checked.

        Raises:
            EdgeWsError: the path leaves the log folder, or the file cannot be looked at.
        """
        ...

    def write(self, log_path: str, base: int, chunks: Iterable[bytes]) -> None:
        """Cut the file to its first `base` bytes, then append; repeating the call changes nothing more.

        Raises:
            EdgeWsError: the path leaves the log folder, or the file cannot be written.
        """
        ...

    def upload(self, log_path: str, command: str) -> None:
        """Send the file to the remote store, if one is set up; a failure is logged, never raised.

        Args:
            log_path: as in `write`.
            command: the workload's JSON, for stores that want to know the task.
        """
        ...
