"""What goes wrong: each fault costs the one thing it came from, and is logged once, counted and shown.

What is expected (`EdgeWsError`) is no fault in this sense, and passes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

import anyio

from edge_ws.errors import EdgeWsError
from edge_ws.faults import Tally, place_of, visible
from edge_ws.protocol.frames import Count, Sentence

log = logging.getLogger("edge_ws.worker")

AGAIN_FIRST_S = 0.5
AGAIN_LONGEST_S = 30.0
"""A loop that ended by a fault begins anew after these pauses."""
STEADY_S = 60.0
"""A loop that ran for so long begins anew after the first pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTold:
    """A fault as a job host tells it."""

    what: Sentence
    error: Sentence
    place: Sentence
    count: Count


class Faults(Tally):
    """All faults of this life of the process, those that its job hosts tell included."""

    def __init__(self) -> None:
        super().__init__()
        self._of_hosts: dict[tuple[str, str, str], int] = {}
        """How often each has come, as its job host has told."""

    def note(self, what: str, error: BaseException) -> None:
        """Log, once a place, an exception that has ended what is named, and count it."""
        cause = _leaf(error)
        place, told = place_of(cause), f"{type(cause).__name__}: {cause}"
        if not self.add(type(cause).__name__, what=what, error=told, place=place):
            log.debug("again: %s ended by %r at %s", what, cause, place)
            return
        log.error(
            "%s ended by a fault of this program, %s, at %s; all other work continues. Please report it",
            what,
            told,
            place,
            exc_info=cause,
        )

    def odd(self, what: str, place: object, error: str, advice: str) -> None:
        """Log, once a place, something that is not what it should be, and count it."""
        named, advice = visible(str(place)), visible(advice)
        if self.add(f"{what}: {error}", what=what, error=error, place=named, advice=advice):
            log.error("%s (%s): %s; %s", what, named, visible(error), advice)

    def of_host(self, host: str, told: FaultTold) -> None:
        """Take in what a job host tells of one of its faults, anew perhaps; it logs them itself."""
        key = (host, told.place, told.error)
        more = told.count - self._of_hosts.get(key, 0)
        if more > 0:
            self._of_hosts[key] = told.count
            what = f"{told.what}, in job host {host}"
            self.add(told.error, what=what, error=told.error, place=told.place, count=more)

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
