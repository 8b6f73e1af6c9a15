"""Frames to JSON bytes and back, with limits; every fault of the peer's bytes is a RemoteProtocolError.

A frame is a JSON object with its snake_case type under `type`. Unknown fields are ignored, so that a
neighbouring release may add one; an unknown type is refused. A message is a frame, or an array of frames.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import itertools
import re
import types
import typing
from collections.abc import Callable
from enum import Enum

import orjson

from edge_ws.errors import LocalProtocolError, RemoteProtocolError
from edge_ws.protocol import frames
from edge_ws.protocol.frames import (
    FACTS,
    ID_LENGTH,
    LOG_CHUNK,
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_FRAME,
    MESSAGE_GOAL,
    NAME_LENGTH,
    Frame,
    ServerFrame,
    Shown,
    Within,
    WorkerFrame,
)
from edge_ws.protocol.ids import WorkerName
from edge_ws.texts import words

_Read = Callable[[object, str], object]
_T = typing.TypeVar("_T")

_SCALARS: dict[type, str] = {int: "an integer", bool: "true or false"}
_ID = re.compile(r"[!-~]+")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


FRAME_TYPES: dict[str, type] = {_snake(cls.__name__): cls for cls in (*typing.get_args(Frame),)}
"""Type name on the wire -> class."""
_NAMES: dict[type, str] = {cls: name for name, cls in FRAME_TYPES.items()}
_WORKER_TYPES = {_NAMES[cls] for cls in typing.get_args(WorkerFrame)}
_SERVER_TYPES = {_NAMES[cls] for cls in typing.get_args(ServerFrame)}


def frame_type(frame: Frame) -> str:
    """Return the name under which the frame travels."""
    return _NAMES[type(frame)]


# Encoding


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(type(value).__name__)


def _mended(value: object) -> object:
    """Return the value with what is no Unicode text (undecodable file names and output) made visible."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_mended(key): _mended(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_mended(entry) for entry in value]
    if dataclasses.is_dataclass(value):
        return {field.name: _mended(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes (UTF-8 JSON).

    Raises:
        LocalProtocolError: it would be larger than `MAX_FRAME`, or holds what JSON cannot say.
    """
    try:
        try:
            fields = orjson.dumps(frame, default=_plain)
        except orjson.JSONEncodeError:
            fields = orjson.dumps(_mended(frame), default=_plain)
    except orjson.JSONEncodeError as error:
        raise LocalProtocolError(f"a {frame_type(frame)} frame cannot be written: {error}") from error
    head = b'{"type":"%b"' % frame_type(frame).encode()
    data = head + b"," + fields[1:] if len(fields) > len(b"{}") else head + b"}"
    if len(data) > MAX_FRAME:
        raise LocalProtocolError(f"a {frame_type(frame)} frame of {len(data)} bytes is over {MAX_FRAME}")
    return data


def encode_batch(batch: typing.Sequence[Frame]) -> bytes:
    """Return one message with these frames; the caller keeps it under `MAX_FRAME` (see `pack`)."""
    return _message([encode(frame) for frame in batch])


def pack(batch: typing.Iterable[Frame]) -> typing.Iterator[bytes]:
    """Yield messages with these frames in their order, as few as `MESSAGE_GOAL` allows.

    Raises:
        LocalProtocolError: one of them cannot be written; those before it have been yielded.
    """
    return (message for message, _ in _packed(batch))


def pack_first(batch: typing.Iterable[Frame]) -> tuple[bytes, int]:
    """Return the first of the messages that `pack` yields, and how many of the frames it holds."""
    return next(_packed(batch))


def _packed(batch: typing.Iterable[Frame]) -> typing.Iterator[tuple[bytes, int]]:
    waiting: list[bytes] = []
    size = 0
    for frame in batch:
        data = encode(frame)
        if waiting and size + len(data) > MESSAGE_GOAL:
            yield _message(waiting), len(waiting)
            waiting, size = [], 0
        waiting.append(data)
        size += len(data) + 1
    if waiting:
        yield _message(waiting), len(waiting)


def _message(encoded: list[bytes]) -> bytes:
    return encoded[0] if len(encoded) == 1 else b"[" + b",".join(encoded) + b"]"


# Decoding


def _fail(path: str, want: str) -> typing.NoReturn:
    # The path may hold what the peer has sent: the name of a fact.
    raise RemoteProtocolError(words(f"{path} must be {want}"))


def _read_scalar(kind: type) -> _Read:
    def read(value: object, path: str) -> object:
        if type(value) is not kind:
            _fail(path, _SCALARS[kind])
        return value

    return read


def _no_nul(value: object) -> object:
    """Return the value without NULs: PostgreSQL's text holds none, and one must not cost a whole report."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _read_text(value: object, path: str) -> object:
    if not isinstance(value, str):
        _fail(path, "a string")
    return _no_nul(value)


def _read_id(longest: int) -> _Read:
    def read(value: object, path: str) -> object:
        if not isinstance(value, str) or len(value) > longest or not _ID.fullmatch(value):
            _fail(path, f"1 to {longest} printable ASCII characters without a space")
        return value

    return read


def _read_within(inner: _Read, limits: Within) -> _Read:
    def read(value: object, path: str) -> object:
        known = inner(value, path)
        size = len(known) if isinstance(known, bytes | str) else typing.cast("float", known)
        if not limits.least <= size <= limits.most:
            _fail(path, f"within {limits.least:g} and {limits.most:g}")
        return known

    return read


def _read_shown(inner: _Read, shown: Shown) -> _Read:
    def read(value: object, path: str) -> object:
        known = inner(value, path)
        if isinstance(known, dict):
            some = itertools.islice(known.items(), FACTS)
            return {_words(key, shown.most): _words(entry, shown.most) for key, entry in some}
        return _words(known, shown.most)

    return read


def _words(value: object, most: int) -> object:
    return words(value, most) if isinstance(value, str) else value


def _read_float(value: object, path: str) -> object:
    if type(value) not in (int, float):
        _fail(path, "a number")
    return float(typing.cast("float", value))


def _read_bytes(value: object, path: str) -> object:
    if not isinstance(value, str):
        _fail(path, "base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        _fail(path, "base64 text")


def _read_enum(kind: type[Enum]) -> _Read:
    def read(value: object, path: str) -> object:
        try:
            return kind(value)
        except ValueError:
            _fail(path, "one of " + ", ".join(str(member.value) for member in kind))

    return read


def _read_tuple(item: _Read) -> _Read:
    def read(value: object, path: str) -> object:
        if not isinstance(value, list):
            _fail(path, "an array")
        return tuple(item(entry, f"{path}[{index}]") for index, entry in enumerate(value))

    return read


def _read_optional(inner: _Read) -> _Read:
    def read(value: object, path: str) -> object:
        return None if value is None else inner(value, path)

    return read


def _read_dict(allowed: tuple[type, ...]) -> _Read:
    def read(value: object, path: str) -> object:
        if not isinstance(value, dict):
            _fail(path, "an object")
        for key, entry in value.items():
            if not isinstance(entry, allowed):
                _fail(f"{path}.{key[:40]}", "a plain value")
        return {_no_nul(key): _no_nul(entry) for key, entry in value.items()}

    return read


def _reader(hint: object) -> _Read:
    """Return the function that checks and converts a JSON value for that type hint."""
    if isinstance(hint, typing.NewType):
        return _read_id(NAME_LENGTH if hint is WorkerName else ID_LENGTH)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        read = _read_shown if isinstance(args[1], Shown) else _read_within
        return read(_reader(args[0]), args[1])
    if origin in (typing.Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))
        return _read_optional(_reader(inner))
    if origin is tuple:
        return _read_tuple(_reader(args[0]))
    if origin is dict:
        return _read_dict(typing.get_args(args[1]) or (args[1],))
    assert isinstance(hint, type), hint
    return _class_reader(hint)


def reader(kind: type[_T]) -> Callable[[object, str], _T]:
    """Return what reads a plain JSON value as that class; for what is kept or told beside the wire.

    It raises RemoteProtocolError, which begins with the given name of the value, for one that is not sound.
    """
    return typing.cast("Callable[[object, str], _T]", _reader(kind))


def _class_reader(kind: type) -> _Read:
    if dataclasses.is_dataclass(kind):
        return _object_reader(kind)
    if issubclass(kind, Enum):
        return _read_enum(kind)
    if kind in _SCALARS:
        return _read_scalar(kind)
    return {str: _read_text, float: _read_float, bytes: _read_bytes}[kind]


def _object_reader(cls: type) -> _Read:
    hints = typing.get_type_hints(cls, include_extras=True)
    readers: dict[str, tuple[_Read, bool]] = {}
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        readers[field.name] = (_reader(hints[field.name]), required)

    def read(value: object, path: str) -> object:
        if not isinstance(value, dict):
            _fail(path, "an object")
        known: dict[str, object] = {}
        for name, (reader, required) in readers.items():
            if name in value:
                known[name] = reader(value[name], f"{path}.{name}")
            elif required:
                raise RemoteProtocolError(f"{path}.{name} is missing")
        return cls(**known)

    return read


_READERS: dict[str, _Read] = {name: _object_reader(cls) for name, cls in FRAME_TYPES.items()}


def _check_depth(value: object, left: int = MAX_DEPTH) -> None:
    if left < 0:
        raise RemoteProtocolError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for entry in value.values():
            _check_depth(entry, left - 1)
    elif isinstance(value, list):
        for entry in value:
            _check_depth(entry, left - 1)


_HEAVY_BYTES = 256 * 1024
_HEAVY_ELEMENTS = 2000
"""About 2 ms."""


def _elements(raw: bytes) -> int:
    """Return how many values a message has at the most, at a thousandth of what it costs to read it."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def is_heavy(data: bytes | str) -> bool:
    """Tell whether a message takes so long to decode that an event loop should not do it."""
    raw = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    return len(raw) > _HEAVY_BYTES or _elements(raw) > _HEAVY_ELEMENTS


def _parse(data: bytes | str, most_elements: int | None = None) -> object:
    raw = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    size = len(raw)
    if size > MAX_FRAME:
        raise RemoteProtocolError(f"{size} bytes are over the limit of {MAX_FRAME}", close_code=4413)
    if most_elements is not None and _elements(raw) > most_elements:
        raise RemoteProtocolError(f"more than {most_elements} values in one message")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError(f"not JSON: {error}") from error
    _check_depth(value)
    return value


def _frame(value: object, allowed: set[str]) -> Frame:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise RemoteProtocolError("a frame is an object with a type")
    name = value["type"]
    if name not in allowed:
        raise RemoteProtocolError(f"no frame of type {name[:40]!r} may come from this side")
    return typing.cast("Frame", _READERS[name](value, name))


def decode_from_worker(data: bytes | str) -> WorkerFrame:
    """Return the frame that a worker's bytes hold, or raise RemoteProtocolError."""
    return typing.cast("WorkerFrame", _frame(_parse(data, MAX_ELEMENTS), _WORKER_TYPES))


def decode_from_server(data: bytes | str) -> ServerFrame:
    """Return the frame that a server's bytes hold, or raise RemoteProtocolError."""
    return typing.cast("ServerFrame", _frame(_parse(data), _SERVER_TYPES))


def decode_batch_from_worker(data: bytes | str) -> tuple[WorkerFrame, ...]:
    """Return the frames of a worker's message, one or many, or raise RemoteProtocolError."""
    return typing.cast("tuple[WorkerFrame, ...]", _batch(_parse(data, MAX_ELEMENTS), _WORKER_TYPES))


def decode_batch_from_server(data: bytes | str) -> tuple[ServerFrame, ...]:
    """Return the frames of a server's message, one or many, or raise RemoteProtocolError."""
    return typing.cast("tuple[ServerFrame, ...]", _batch(_parse(data), _SERVER_TYPES))


def _batch(value: object, allowed: set[str]) -> tuple[Frame, ...]:
    if not isinstance(value, list):
        return (_frame(value, allowed),)
    return tuple(_frame(entry, allowed) for entry in value)


__all__ = [
    "FRAME_TYPES",
    "LOG_CHUNK",
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "MAX_FRAME",
    "decode_batch_from_server",
    "decode_batch_from_worker",
    "decode_from_server",
    "decode_from_worker",
    "encode",
    "encode_batch",
    "frame_type",
    "frames",
    "is_heavy",
    "pack",
    "pack_first",
    "reader",
]
