"""Unexpected exceptions in the job host: each costs the one thing it came from, and is said once and counted.

The daemon is told of all of them, for `edge-ws status`. See `edge_ws.faults`.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator

from edge_ws.faults import Tally, place_of


class Faults:
    """All faults of this life of the host. `on_fault` is called at each one."""

    def __init__(self, on_fault: Callable[[], object]) -> None:
        self._tally = Tally()
        self._on_fault = on_fault

    @property
    def count(self) -> int:
        """How many there have been."""
        return self._tally.count

    def told(self) -> list[dict[str, object]]:
        """Return what the daemon is told of each."""
        return [
            {"what": one.what, "error": one.error, "place": one.place, "count": one.count}
            for one in self._tally.all()
        ]

    @contextlib.contextmanager
    def contained(self, what: str) -> Iterator[None]:
        """Let an exception end the block, and nothing else."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the other jobs go on
            self.note(what, error)

    def note(self, what: str, error: Exception) -> None:
        """Count it, and print it if it is new."""
        sentence = f"{type(error).__name__}: {error}"
        place = place_of(error)
        if self._tally.add(type(error).__name__, what=what, error=sentence, place=place):
            trace = "".join(traceback.format_exception(error))
            # Standard error may be a file on a full disk; see `streams`.
            sys.stderr.write(
                f"edge-ws host: {what}: {sentence}, at {place}; all other work continues. Please report it\n"
                f"{trace}"
            )
        self._on_fault()
