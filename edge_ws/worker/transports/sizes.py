"""What passes on one way to the server: how large a message may be, how long it takes, what never passes.

Firewalls and proxies limit bodies, and say so by 413, by another status, by a reset or not at all. So what
fails because of its size perhaps is tried smaller; and messages are made to fit. What does not pass although
it is small and others do is set aside, so that nobody waits: a filter on the way may take offence at a word
of a log, or the gateway at a value. Knows no transport.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from edge_ws.errors import LocalProtocolError
from edge_ws.protocol import codec
from edge_ws.protocol.codec import frame_type
from edge_ws.protocol.frames import (
    LOG_CHUNK,
    MAX_FRAME,
    MESSAGE_GOAL,
    Bye,
    Finished,
    Hello,
    Log,
    NotStarted,
    Refuse,
    Status,
    WorkerFrame,
)

log = logging.getLogger("edge_ws.worker")

FLOOR = 4096
"""Bytes of a message that fails for another reason than its size, as far as that can be told."""
STEP = 4
"""What is tried after a message that has failed: this part of it."""
AGAIN_FIRST_S = 60.0
AGAIN_LONGEST_S = 6 * 3600.0
"""Between two trials whether more passes by now; doubling while it does not."""
_OVERHEAD = 512
"""Bytes of a `log` frame besides its data."""
_CUT = " [... cut, as no more passes on the way to the centre]"


class Sizes:
    """What is known of one way."""

    def __init__(
        self,
        where: str = "the centre",
        clock: Callable[[], float] = time.monotonic,
        *,
        limit: int = MAX_FRAME,
        keep: Callable[[int], object] = lambda _limit: None,
    ) -> None:
        """Begin with what was learnt before; `keep` is told what is learnt."""
        self._where = where
        self._clock = clock
        self._keep = keep
        self._limit = limit
        self._proven = 0
        """The largest message that has passed."""
        self._before_trial: int | None = None
        """The limit that was in force before more was tried."""
        self._trial_at: float | None = None
        self.round_trip_s: float | None = None
        """How long a small message was last under way, there and back; None: not known."""
        self._wait_s = AGAIN_FIRST_S
        if self.is_limited:
            self._trial_at = clock() + self._wait_s

    @property
    def limit(self) -> int:
        """The most bytes that a message may have now."""
        if self._trial_at is not None and self._clock() >= self._trial_at:
            self._before_trial, self._trial_at = self._limit, None
            self._limit = min(MAX_FRAME, STEP * self._limit)
        return self._limit

    @property
    def learnt(self) -> int:
        """The most bytes that are known to pass, or not known not to; more may just be tried."""
        return self._limit if self._before_trial is None else self._before_trial

    @property
    def is_limited(self) -> bool:
        """Whether anything is known not to pass."""
        return self._limit < MAX_FRAME

    @property
    def log_chunk(self) -> int:
        """The most bytes of a log in one frame."""
        # As base64 they are a third longer.
        return min(LOG_CHUNK, (self.limit - _OVERHEAD) * 3 // 4)

    def is_news(self, size: int) -> bool:
        """Tell whether it is worth knowing that a message of that size has passed."""
        return size > FLOOR and size > self._proven

    def passed(self, size: int) -> None:
        """Hear that a message of that size has arrived."""
        self._proven = max(self._proven, size)
        if self._before_trial is not None and size > self._before_trial:
            self._before_trial, self._wait_s = None, AGAIN_FIRST_S
            self._trial_at = self._clock() + self._wait_s if self.is_limited else None
            self._keep(self._limit)

    def doubt(self) -> None:
        """Hear that the way broke: what passed before must show again that it does."""
        self._proven = 0

    def failed(self, size: int, why: str, *, is_told: bool) -> bool:
        """Hear that a message of that size did not arrive; return whether a smaller one is worth a try.

        Args:
            size: its bytes.
            why: a sentence.
            is_told: that it was too large; else that is only possible.
        """
        if size <= FLOOR:
            return False
        if size > self._limit:
            return True
        if not is_told and size <= self._proven:
            self.doubt()
            return False
        if self._before_trial is not None and size > self._before_trial:
            self._limit, self._before_trial = self._before_trial, None
            self._wait_s = min(AGAIN_LONGEST_S, 2 * self._wait_s)
        else:
            self._limit, self._before_trial = max(FLOOR, size // STEP), None
            self._keep(self._limit)
        self._proven = min(self._proven, self._limit)
        self._trial_at = self._clock() + self._wait_s
        log.warning(
            "a message of %d bytes did not pass to %s (%s): from now on they have at most %d",
            size,
            self._where,
            why,
            self._limit,
        )
        return True


def pack(frames: Iterable[WorkerFrame], limit: int) -> Iterator[tuple[bytes, list[WorkerFrame]]]:
    """Yield messages of at most `limit` bytes with these frames in their order, and the frames in each.

    What does not fit is split, cut or left out, as far as the protocol lets it be; a frame that cannot be
    written at all is left out and logged, as nothing that waits behind it is at fault.
    """
    goal = min(limit, MESSAGE_GOAL)
    waiting: list[bytes] = []
    held: list[WorkerFrame] = []
    size = 2
    for frame in frames:
        for piece, data in _pieces(frame, limit):
            if waiting and size + len(data) > goal:
                yield _message(waiting), held
                waiting, held, size = [], [], 2
            waiting.append(data)
            held.append(piece)
            size += len(data) + 1
    if waiting:
        yield _message(waiting), held


def _message(encoded: list[bytes]) -> bytes:
    return encoded[0] if len(encoded) == 1 else b"[" + b",".join(encoded) + b"]"


def _pieces(frame: WorkerFrame, limit: int) -> list[tuple[WorkerFrame, bytes]]:
    try:
        data = codec.encode(frame)
        if len(data) <= limit:
            return [(frame, data)]
    except LocalProtocolError:
        # Too large for any way, perhaps.
        data = b""
    found: list[tuple[WorkerFrame, bytes]] = []
    for piece in fitted(frame, limit):
        try:
            found.append((piece, codec.encode(piece)))
        except LocalProtocolError as error:
            log.error("not sent, and nothing else is kept back by it: %s", error)  # noqa: TRY400
    return found


def fitted(frame: WorkerFrame, limit: int) -> list[WorkerFrame]:
    """Return frames that say the same, as far as `limit` bytes each allow it."""
    match frame:
        case Log():
            chunk = max(1, (limit - _OVERHEAD) * 3 // 4)
            return [
                replace(frame, offset=frame.offset + at, data=frame.data[at : at + chunk])
                for at in range(0, len(frame.data), chunk)
            ]
        case Finished():
            return [replace(frame, detail=_cut(frame.detail, limit))]
        case NotStarted() | Refuse() | Bye():
            return [replace(frame, reason=_cut(frame.reason, limit))]
        case Hello() | Status():
            return [_with_fewer_claims(frame, limit)]
        case _:
            return [frame]


def _cut(text: str, limit: int) -> str:
    """Return the beginning of a text: no character of it takes more than six bytes on the wire."""
    room = max(0, limit - _OVERHEAD) // 6
    return text if len(text) <= room else text[: max(0, room - len(_CUT))] + _CUT


def _with_fewer_claims(frame: Hello | Status, limit: int) -> Hello | Status:
    """Return the frame without the claims that have no room: of what it does not name it proves nothing.

    The gateway asks for those one by one.
    """
    inventory = frame.inventory
    bare = replace(frame, inventory=replace(inventory, claims=()))
    try:
        room = limit - len(codec.encode(bare))
    except LocalProtocolError:
        return bare
    claims = []
    for held in inventory.claims:
        # Names, quotes and the widest numbers.
        room -= 128 + len(held.claim) + len(held.host or "")
        if room < 0:
            break
        claims.append(held)
    return replace(bare, inventory=replace(inventory, claims=tuple(claims)))


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
