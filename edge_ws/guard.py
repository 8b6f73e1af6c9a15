"""Keeps loops going: an unexpected exception costs the one thing that it came from, and is logged once.

For daemon and gateway alike. What is expected (`EdgeWsError`) is no fault in this sense, and passes.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Hashable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import anyio

from edge_ws.errors import EdgeWsError, UnreachableError
from edge_ws.faults import Tally, place_of
from edge_ws.recent import Recent
from edge_ws.texts import words

AGAIN_FIRST_S = 0.5
AGAIN_LONGEST_S = 30.0
"""What ended by a fault begins anew after these pauses, doubling in between."""
STEADY_S = 60.0
"""A loop that ran for so long begins anew after the first pause."""
LEFT_ALONE = 1000
"""Things that are left alone at once; beyond them the one that has been so for longest is tried again."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class FaultGuard(Tally):
    """Contains faults and counts them."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__()
        self._log = log

    def note(self, what: str, error: BaseException) -> None:
        """Log, once a place, an exception that has ended what is named, and count it."""
        cause = leaf(error)
        # Its text may hold what a peer has sent.
        what, place, told = words(what), place_of(cause), words(f"{type(cause).__name__}: {cause}")
        if not self.add(type(cause).__name__, what=what, error=told, place=place):
            self._log.debug("again: %s ended by %s at %s", what, told, place)
            return
        self._log.error(
            "%s ended by a fault of this program, %s, at %s; all other work continues. Please report it\n%s",
            what,
            told,
            place,
            "".join(traceback.format_tb(cause.__traceback__)).rstrip(),
        )

    def contained(self, what: str) -> _Contained:
        """Return a context in which an unexpected exception ends the block, and nothing else."""
        return _Contained(self, what)

    async def keep(self, what: str, loop: Callable[[], Awaitable[None]], *, tries: int | None = None) -> None:
        """Run a loop; begin it anew when an unexpected exception ends it. Returns when it returns.

        Args:
            what: names the loop.
            loop: runs it.
            tries: so many ends in a row, with no steady run between, are the end; None: no number is.

        Raises:
            EdgeWsError: the loop's own; or it has ended too often.
        """
        pause_s, ends = AGAIN_FIRST_S, 0
        while True:
            began = anyio.current_time()
            with self.contained(what) as block:
                await loop()
                return
            if anyio.current_time() - began > STEADY_S:
                pause_s, ends = AGAIN_FIRST_S, 0
            ends += 1
            if ends == tries:
                raise EdgeWsError(f"{what} ended {ends} times in a row, the last time by {block.told}")
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_LONGEST_S)


class _Contained:
    """See `FaultGuard.contained`."""

    __slots__ = ("_guard", "_what", "told")

    def __init__(self, guard: FaultGuard, what: str) -> None:
        self._guard = guard
        self._what = what
        self.told = ""
        """What has ended the block; empty: nothing has."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Note what has ended the block; what is expected, or no `Exception`, passes."""
        if not isinstance(error, Exception) or expected(error):
            return False
        self.told = words(f"{type(error).__name__}: {error}")
        self._guard.note(self._what, error)
        return True


def expected(error: BaseException) -> bool:
    """Tell whether all that an exception, or a group, holds is expected."""
    if isinstance(error, BaseExceptionGroup):
        return all(expected(one) for one in error.exceptions)
    return isinstance(error, EdgeWsError)


def leaf(error: BaseException) -> BaseException:
    """Return the first unexpected exception of a group; of any other exception itself."""
    while isinstance(error, BaseExceptionGroup):
        error = next((one for one in error.exceptions if not expected(one)), error.exceptions[0])
    return error


def apart(
    do: Callable[[list[_Item]], list[_Result]],
    items: Sequence[_Item],
    failed: Callable[[_Item, Exception], None],
) -> list[_Result]:
    """Return what `do` gives for the items; if it fails, for halves of them, until what fails is alone.

    Args:
        do: does it for many at once, or for none of them.
        items: some.
        failed: told of each that it cannot be done for.

    Raises:
        UnreachableError: for no item it can be done now.
    """
    try:
        return do(list(items))
    except UnreachableError:
        raise
    except Exception as error:  # noqa: BLE001 - whoever is told notes it
        if len(items) == 1:
            failed(items[0], error)
            return []
    middle = len(items) // 2
    return [*apart(do, items[:middle], failed), *apart(do, items[middle:], failed)]


class LeftAlone:
    """What is left alone for a while after a fault: each time for longer."""

    def __init__(self) -> None:
        self._pauses: Recent[Hashable, tuple[float, float]] = Recent(LEFT_ALONE)
        """Until when, and for how long in all."""

    def add(self, item: Hashable, now: float) -> None:
        """Leave it alone from now on."""
        until, pause_s = self._pauses.get(item, (now, 0.0))
        is_again = now < until + AGAIN_LONGEST_S
        pause_s = min(2 * pause_s, AGAIN_LONGEST_S) if pause_s and is_again else AGAIN_FIRST_S
        self._pauses.put(item, (now + pause_s, pause_s))

    def has(self, item: Hashable, now: float) -> bool:
        """Tell whether it is to be left alone still."""
        return item in self._pauses and now < self._pauses[item][0]
