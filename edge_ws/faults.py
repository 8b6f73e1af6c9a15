"""What went wrong without ending anything: told apart by its place, counted, and shown by `edge-ws status`.

For daemon and job host alike; each logs in its own way.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

KINDS = 50
"""Faults that are told apart; of more than these the latest are kept."""
REPORT = "please report it"
"""What to do about a fault of this program."""
_LONGEST = 500
_PACKAGE = str(Path(__file__).parent)


@dataclass(slots=True)
class Fault:
    """One fault at one place, however often it came."""

    what: str
    """What it is of, or what it ended."""
    error: str
    place: str
    """A file; of an exception the file and line of our own code, the innermost."""
    advice: str
    count: int
    first_at: datetime
    last_at: datetime


class Tally:
    """All faults of this life of the process."""

    def __init__(self) -> None:
        self.count = 0
        self._known: dict[tuple[str, str], Fault] = {}

    @property
    def last(self) -> Fault | None:
        """The one that came last."""
        return max(self._known.values(), key=lambda fault: fault.last_at, default=None)

    def all(self) -> list[Fault]:
        """Return each that is told apart."""
        return list(self._known.values())

    def add(
        self, kind: str, *, what: str, error: str, place: str, advice: str = REPORT, count: int = 1
    ) -> bool:
        """Count it; tell whether it is the first of its kind at its place."""
        now = datetime.now(UTC)
        self.count += count
        known = self._known.get((kind, place))
        if known is not None:
            known.count, known.last_at = known.count + count, now
            return False
        if len(self._known) >= KINDS:
            del self._known[min(self._known, key=lambda one: self._known[one].last_at)]
        what, error = visible(what)[:_LONGEST], visible(error)[:_LONGEST]
        self._known[kind, place] = Fault(what, error, visible(place), advice, count, now, now)
        return True


def visible(text: str) -> str:
    """Return the text with what is no Unicode (undecodable file names and output) made visible."""
    return text.encode("utf-8", "backslashreplace").decode()


def place_of(error: BaseException) -> str:
    """Return the innermost line of our own code that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)] or list(frames)
    if not ours:
        return "an unknown place"
    return f"{ours[-1].filename.removeprefix(_PACKAGE).lstrip('/')}:{ours[-1].lineno}"
