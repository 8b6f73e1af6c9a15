"""What a host leaves on disk, so that a daemon can finish what a dead host left.

Two files beside the host's socket: a lock that is held as long as the host lives, and the journal, replaced
as a whole. Only numbers and outcomes are in it, never a payload or a token. It is not synced to the disk:
after a crash of the machine no process is left to find, and the boot id tells.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from pathlib import Path

from edge_ws.processes import boot_id, start_time
from edge_ws.streams import open_to_write


class Journal:
    """The files of one host."""

    def __init__(self, directory: Path, host: str, fingerprint: str) -> None:
        self._path = directory / f"{host}.json"
        self._lock = directory / f"{host}.lock"
        self._locked: int | None = None
        self._saved = ""
        self._is_failing = False
        self._head: dict[str, object] = {
            "host": host,
            "fingerprint": fingerprint,
            "pid": os.getpid(),
            "start_time": start_time(os.getpid()),
            "boot": boot_id(),
        }

    def lock(self) -> None:
        """Take the lock; a forked child does not inherit it, whatever descriptors it keeps.

        Raises:
            OSError: another host of that id lives.
        """
        self._locked = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Let go of the lock's file: in a child, this does not unlock it for the host."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def save(
        self, *, ready: bool, closed: bool, jobs: list[dict[str, object]], failure: str | None = None
    ) -> None:
        """Replace the journal, if anything in it has changed."""
        text = json.dumps({**self._head, "ready": ready, "closed": closed, "failure": failure, "jobs": jobs})
        if text == self._saved:
            return
        new = self._path.with_suffix(".new")
        try:
            with os.fdopen(open_to_write(new), "w", encoding="ascii") as file:
                file.write(text)
            new.replace(self._path)
        except OSError as error:
            # A full disk must not end running tasks; what is lost is what a successor would have known.
            if not self._is_failing:
                self._is_failing = True
                _say(f"{self._path} cannot be written: {error.strerror}; running tasks go on")
            with contextlib.suppress(OSError):
                new.unlink()
            return
        if self._is_failing:
            self._is_failing = False
            _say(f"{self._path} can be written again")
        self._saved = text


def _say(sentence: str) -> None:
    # Standard error is mostly a file on the same disk.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"edge-ws host: {sentence}\n")
        sys.stderr.flush()
