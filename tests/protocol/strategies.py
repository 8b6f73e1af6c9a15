"""Hypothesis strategies for frames, made from the frames' own type hints."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum

from hypothesis import strategies as st

from edge_ws.protocol.frames import ID_LENGTH, NAME_LENGTH, Frame, ServerFrame, Shown, Within, WorkerFrame
from edge_ws.protocol.ids import WorkerName
from edge_ws.texts import printable

# A NUL or a lone surrogate does not come back as it went: test_codec looks at those.
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
_WORDS = _TEXT.map(printable)
_NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_PLAIN: dict[object, st.SearchStrategy[object]] = {str: _TEXT, bool: st.booleans()}


def _within(kind: type, limits: Within) -> st.SearchStrategy[object]:
    if kind is int:
        return st.integers(int(limits.least), int(limits.most))
    if kind is float:
        return st.floats(limits.least, limits.most)
    return st.binary(max_size=300)


def _shown(kind: object) -> st.SearchStrategy[object]:
    """Return what comes back as it went; test_codec looks at the rest."""
    if kind is str:
        return _WORDS
    (_, entry) = typing.get_args(kind)
    return st.dictionaries(_WORDS, _WORDS if entry is str else _WORDS | _NUMBERS, max_size=4)


def values(hint: object) -> st.SearchStrategy[object]:
    """Return a strategy for the values of a type hint."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _shown(args[0]) if isinstance(args[1], Shown) else _within(args[0], args[1])
    if origin is not None:
        return _of_several(origin, args)
    if isinstance(hint, typing.NewType):
        longest = NAME_LENGTH if hint is WorkerName else ID_LENGTH
        return st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=longest)
    assert isinstance(hint, type), hint
    return st.sampled_from(hint) if issubclass(hint, Enum) else objects(hint)


def _of_several(origin: object, args: tuple[typing.Any, ...]) -> st.SearchStrategy[object]:
    if origin is tuple:
        return st.lists(values(args[0]), max_size=4).map(tuple)
    if origin is dict:
        return st.dictionaries(_TEXT, _TEXT if args[1] is str else _TEXT | _NUMBERS, max_size=4)
    assert origin in (typing.Union, types.UnionType), origin
    (inner,) = (arg for arg in args if arg is not type(None))
    return st.none() | values(inner)


def objects(cls: type) -> st.SearchStrategy[typing.Any]:
    """Return a strategy for a frame's class, or for that of an object inside frames."""
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]
    return st.builds(cls, **{name: values(hints[name]) for name in names})


def worker_frames() -> st.SearchStrategy[WorkerFrame]:
    """Return any frame of a worker."""
    return st.one_of([objects(cls) for cls in typing.get_args(WorkerFrame)])


def server_frames() -> st.SearchStrategy[ServerFrame]:
    """Return any frame of a server."""
    return st.one_of([objects(cls) for cls in typing.get_args(ServerFrame)])


FRAMES: tuple[type, ...] = typing.get_args(Frame)
