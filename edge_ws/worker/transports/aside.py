"""Statements that do not pass although they are small and others do: set aside, so that nobody waits.

A filter on the way may take offence at a word of a log, or the gateway at a value. Pure.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_ws.protocol.codec import frame_type
from edge_ws.protocol.frames import Bye, Finished, Log, NotStarted, Refuse, WorkerFrame

log = logging.getLogger("edge_ws.worker")

TRIES = 5
"""So often a statement is tried as it is, over as many connections, and then as often without its text."""
REMEMBERED = 1000

_Key = tuple[str, str, int]


@dataclass(slots=True)
class _Failures:
    count: int = 0
    others: int = 0
    """What had passed when it failed first."""


class Aside:
    """What is known of one way."""

    def __init__(self) -> None:
        self._failures: OrderedDict[_Key, _Failures] = OrderedDict()
        self._passed = 0
        self._alone = 0

    @property
    def alone(self) -> bool:
        """Whether the next statement goes by itself, as one of several with it did not pass."""
        return self._alone > 0

    def passed(self, said: Sequence[WorkerFrame]) -> None:
        """Hear that statements have arrived."""
        self._passed += 1
        self._alone = max(0, self._alone - len(said))
        if self._failures:
            for frame in said:
                self._failures.pop(_key(frame), None)

    def failed(self, said: Sequence[WorkerFrame], why: str) -> list[WorkerFrame] | None:
        """Hear that statements did not pass; return what to say instead, None: it is the way that fails.

        Of several each is tried alone first.
        """
        if len(said) > 1:
            self._alone = len(said)
            return list(said)
        (frame,) = said
        self._alone = max(0, self._alone - 1)
        known = self._failures.setdefault(_key(frame), _Failures(others=self._passed))
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)
        known.count += 1
        if known.count < TRIES or self._passed == known.others:
            return None
        substitute = _without_text(frame, why) if known.count < 2 * TRIES else None
        if known.count in {TRIES, 2 * TRIES}:
            what = "left out" if substitute is None else "said without its text"
            log.error("%s of claim %s does not pass, and is %s: %s", *_key(frame)[:2], what, why)
        return [] if substitute is None else [substitute]


def _key(frame: WorkerFrame) -> _Key:
    return frame_type(frame), getattr(frame, "claim", ""), getattr(frame, "offset", 0)


def _without_text(frame: WorkerFrame, why: str) -> WorkerFrame | None:
    """Return the statement without what may be in the way; None: there is nothing of that kind in it."""
    told = f"left out, as it did not pass on the way to the centre: {why[:200]}"
    match frame:
        case Log():
            # Offsets are counted in bytes: as many stand in their place.
            line = f"[{len(frame.data)} bytes {told}]".encode()[: max(0, len(frame.data) - 1)]
            return replace(frame, data=line.ljust(len(frame.data) - 1)[: len(frame.data) - 1] + b"\n")
        case Finished():
            return replace(frame, detail=told)
        case NotStarted() | Refuse() | Bye():
            return replace(frame, reason=told)
        case _:
            return None
