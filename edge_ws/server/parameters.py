"""What the parameters of operators' operations are, and how one is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import is_queue_name

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
