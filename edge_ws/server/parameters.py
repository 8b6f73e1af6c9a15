"""What the parameters of operators' operations are, and how one is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import MAX_CONCURRENCY, is_queue_name
from edge_ws.store.worker_states import WorkerState
from edge_ws.times import moment

LONGEST_COMMENT = 800
"""edge3's column takes 1,024, and who wished it when is written in front."""
LONGEST_DEADLINE_S = 7 * 86_400.0
"""Of a shutdown: what is to run for longer has none."""
_UNFIT = re.compile("[\0\ud800-\udfff]")
"""What no database takes as text: the zero byte, and halves of characters."""
LARGEST = 2**31 - 1
"""What an integer column takes."""


class Kind(Enum):
    """What a parameter is; the value is how a sentence names it."""

    TEXT = "a text"
    TEXTS = "a list of texts"
    NUMBER = "a whole number"
    LENGTH = "seconds, or a length of time such as 2h or 30m"
    SWITCH = "true or false"
    WORKERS = "a worker's name, or a list of names"
    QUEUES = "a queue's name, or a list of names"


def _as_it_is(value: object) -> object:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of an operation."""

    kind: Kind
    required: bool = False
    check: Callable[[Any], object] = _as_it_is
    """Returns the value to take for one of the right type; raises UsageError for one out of range."""

    def read(self, name: str, value: object) -> object:
        """Return the value to take.

        Raises:
            UsageError: it is of another type, or out of range.
        """
        listed = value if isinstance(value, list) else [value]
        is_number = isinstance(value, int) and not isinstance(value, bool)
        texts = bool(listed) and all(isinstance(one, str) for one in listed)
        fits = {
            Kind.TEXT: isinstance(value, str),
            Kind.TEXTS: texts and isinstance(value, list),
            Kind.NUMBER: is_number,
            Kind.LENGTH: is_number or isinstance(value, str),
            Kind.SWITCH: isinstance(value, bool),
            Kind.WORKERS: texts,
            Kind.QUEUES: texts,
        }
        if not fits[self.kind]:
            raise UsageError(f"{name} must be {self.kind.value}, not {str(value)[:60]!r}")
        if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            raise UsageError(f"{name}: the number is not between {-LARGEST} and {LARGEST}")
        if texts and (unfit := next(filter(_UNFIT.search, listed), None)) is not None:
            raise UsageError(f"{name}: {unfit[:60]!r} has a character that no text can have")
        return self.check(value)


def check_queues(names: list[str]) -> list[str]:
    """Return them, each once, if all can name queues."""
    for name in names:
        if not is_queue_name(name):
            raise UsageError(f"queues: {name[:60]!r} cannot name a queue")
    return list(dict.fromkeys(names))


def check_one_or_more_queues(asked: str | list[str]) -> str | list[str]:
    """Return the queues' names.

    Raises:
        UsageError: one cannot name a queue.
    """
    return check_queues([asked])[0] if isinstance(asked, str) else check_queues(asked)


def check_moment(text: str) -> str:
    """Return the moment in the form in which it is written down.

    Raises:
        UsageError: it is none.
    """
    return moment(text).isoformat(timespec="seconds")


def check_concurrency(number: int) -> int:
    """Return the number of slots.

    Raises:
        UsageError: no worker has so many.
    """
    if not 0 <= number <= MAX_CONCURRENCY:
        raise UsageError(f"concurrency: {number} is not between 0 and {MAX_CONCURRENCY}")
    return number


def check_comment(text: str, name: str = "comment") -> str:
    """Return what an operator gives as a reason.

    Raises:
        UsageError: it is empty, or too long.
    """
    comment = text.strip()
    if not comment:
        raise UsageError(f"{name}: say why")
    if len(comment) > LONGEST_COMMENT:
        raise UsageError(f"{name}: it has {len(comment)} characters; {LONGEST_COMMENT} fit")
    return comment


def check_states(names: list[str]) -> list[str]:
    """Return the names of states of workers.

    Raises:
        UsageError: there is no such state.
    """
    known = {state.value for state in WorkerState}
    for name in names:
        if name not in known:
            raise UsageError(f"state: there is no {name[:60]!r}; there are {', '.join(sorted(known))}")
    return names
