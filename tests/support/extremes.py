"""Every value of a frame at both ends of what the wire permits, made from the frames' own type hints."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from edge_ws.protocol.frames import ID_LENGTH, NAME_LENGTH, Shown, Within
from edge_ws.protocol.ids import WorkerName

TEXTS = (
    "",
    "x" * 70_000,
    "\0\r\n\x1b[2J\u202e\ufffe\U0010ffff'\"\\{}%s",
    "{" * 2000,
)
NUMBERS = (-(2**63), 2**64 - 1, -1.7976931348623157e308, 5e-324, True)
_MANY = 1000


def ends(hint: object) -> Iterator[Any]:
    """Yield the ends of a type hint's range, as JSON has them."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from _ends_of(args[0], args[1])
    elif origin is tuple:
        yield []
        yield from (
            [end] * (1 if isinstance(end, str) and len(end) > 100 else _MANY) for end in ends(args[0])
        )
    elif origin is not None:
        yield None
        yield from ends(next(arg for arg in args if arg is not type(None)))
    elif isinstance(hint, typing.NewType):
        yield "~"
        yield "'" * (NAME_LENGTH if hint is WorkerName else ID_LENGTH)
    elif hint is bool:
        yield from (False, True)
    elif hint is str:
        yield from TEXTS
    elif isinstance(hint, type) and issubclass(hint, Enum):
        yield from (member.value for member in hint)


def _ends_of(kind: object, limits: Within | Shown) -> Iterator[Any]:
    if kind is str:
        yield from TEXTS
    elif isinstance(limits, Shown):
        yield {}
        yield {text: text for text in TEXTS}
        yield {str(number): str(number) for number in range(_MANY)}
        if kind != dict[str, str]:
            yield {str(place): number for place, number in enumerate(NUMBERS)}
            names = (
                "stale_slots",
                "not_ready",
                "concurrency",
                "no_job_host",
                "disk_free_gb",
                "pid",
                "hostname",
            )
            yield from (dict.fromkeys(names, value) for value in (*NUMBERS, *TEXTS))
    elif kind is bytes:
        yield from ("", "AAAA" * (int(limits.most) // 3))
    else:
        assert isinstance(kind, type)
        yield from (kind(limits.least), kind(limits.most))


def at_ends(cls: type, base: dict[str, Any], keep: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Yield the object with one of its values at an end of its range, each in turn, but for those to keep."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if field.name in keep:
            continue
        inner = _object_in(hints[field.name])
        if inner is None:
            yield from ({**base, field.name: end} for end in ends(hints[field.name]))
            continue
        is_many = typing.get_origin(hints[field.name]) is tuple
        there = base[field.name]
        for one in at_ends(inner, there[0] if is_many else there, keep):
            yield {**base, field.name: [one] if is_many else one}


def _object_in(hint: object) -> type | None:
    """Return the class of the objects that a field holds, if it holds any."""
    for one in (hint, *typing.get_args(hint)):
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            return one
    return None
