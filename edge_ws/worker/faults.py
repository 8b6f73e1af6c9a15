"""Unexpected exceptions: each costs the one thing it came from, and is logged once, counted and shown.

What is expected (`EdgeWsError`) is no fault in this sense, and passes.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import anyio

from edge_ws.errors import EdgeWsError

log = logging.getLogger("edge_ws.worker")

AGAIN_FIRST_S = 0.5
AGAIN_LONGEST_S = 30.0
"""A loop that ended by a fault begins anew after these pauses."""
STEADY_S = 60.0
"""A loop that ran for so long begins anew after the first pause."""
KINDS = 50
"""Faults that are told apart; of more than these only the number is known."""
_PACKAGE = str(Path(__file__).parent.parent)


@dataclass(slots=True)
class Fault:
    """One exception at one place of the code, however often it came."""

    what: str
    """What it ended."""
    error: str
    place: str
    """File and line of our own code, the innermost."""
    count: int
    first_at: datetime
    last_at: datetime


class Faults:
    """All faults of this life of the process."""

    def __init__(self) -> None:
        self.count = 0
        self._known: dict[tuple[str, str], Fault] = {}

    @property
    def last(self) -> Fault | None:
        """The one that came last."""
        return max(self._known.values(), key=lambda fault: fault.last_at, default=None)

    def note(self, what: str, error: BaseException) -> None:
        """Count an unexpected exception that ended `what`; the first of its kind is logged with its place."""
        cause = _leaf(error)
        place, now = _place(cause), datetime.now(UTC)
        self.count += 1
        known = self._known.get((type(cause).__name__, place))
        if known is not None:
            known.count, known.last_at = known.count + 1, now
            log.debug("again: %s ended by %r at %s", what, cause, place)
            return
        told = f"{type(cause).__name__}: {cause}"
        if len(self._known) < KINDS:
            self._known[type(cause).__name__, place] = Fault(what, told[:500], place, 1, now, now)
        log.error(
            "%s ended by a fault of this program, %s, at %s; everything else goes on. Please report it",
            what,
            told,
            place,
            exc_info=cause,
        )

    def contained(self, what: str) -> _Contained:
        """Return a context in which an unexpected exception ends the block, and nothing else."""
        return _Contained(self, what)

    async def keep(self, what: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop; begin it anew when an unexpected exception ends it. Returns when it returns.

        Raises:
            EdgeWsError: the loop's own.
        """
        pause_s = AGAIN_FIRST_S
        while True:
            began = anyio.current_time()
            with self.contained(what):
                await loop()
                return
            if anyio.current_time() - began > STEADY_S:
                pause_s = AGAIN_FIRST_S
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_LONGEST_S)


class _Contained:
    """See `Faults.contained`."""

    __slots__ = ("_faults", "_what")

    def __init__(self, faults: Faults, what: str) -> None:
        self._faults = faults
        self._what = what

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Note what has ended the block; what is expected, or no `Exception`, passes."""
        if not isinstance(error, Exception) or expected(error):
            return False
        self._faults.note(self._what, error)
        return True


def expected(error: BaseException) -> bool:
    """Tell whether all that an exception, or a group, holds is expected."""
    if isinstance(error, BaseExceptionGroup):
        return all(expected(one) for one in error.exceptions)
    return isinstance(error, EdgeWsError)


def _leaf(error: BaseException) -> BaseException:
    """Return the first unexpected exception of a group; of any other exception itself."""
    while isinstance(error, BaseExceptionGroup):
        error = next((one for one in error.exceptions if not expected(one)), error.exceptions[0])
    return error


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)] or list(frames)
    if not ours:
        return "an unknown place"
    return f"{ours[-1].filename.removeprefix(_PACKAGE).lstrip('/')}:{ours[-1].lineno}"
