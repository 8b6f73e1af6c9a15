"""Whatever this release can say, the old one understands, as far as it knew of it; and the other way round."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import orjson
import pytest
from hypothesis import assume, given

from edge_ws.protocol import codec
from edge_ws.protocol.frames import Frame
from tests.protocol.strategies import server_frames, worker_frames
from tests.releases.parts import Release

_ECHO = """
import sys
from edge_ws.protocol import codec
decoders = {"w": codec.decode_from_worker, "s": codec.decode_from_server}
print(*codec.FRAME_TYPES, flush=True)
for line in sys.stdin.buffer:
    side, data = line.decode().rstrip("\\n").split(" ", 1)
    sys.stdout.buffer.write(codec.encode(decoders[side](data)) + b"\\n")
    sys.stdout.buffer.flush()
"""

Echo = Callable[[str, Frame], bytes]


@pytest.fixture(scope="module")
def echo(old: Release) -> Iterator[Echo]:
    """Let the old release read a frame of a side, and return what it would say itself in its place."""
    with subprocess.Popen(
        [sys.executable, "-c", _ECHO], env=old.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pipe, answers = process.stdin, process.stdout
        known = set(answers.readline().decode().split())

        def ask(side: str, frame: Frame) -> bytes:
            # The others are said only to who has their capability.
            assume(codec.frame_type(frame) in known)
            pipe.write(f"{side} ".encode() + codec.encode(frame) + b"\n")
            pipe.flush()
            return answers.readline()

        yield ask


def _is_part(part: object, whole: object) -> bool:
    """Tell whether all of `part` is in `whole`, where objects may have more fields."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _is_part(value, whole[name]) for name, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(_is_part, part, whole))
    return part == whole


@given(frame=worker_frames())
def test_of_a_worker(echo: Echo, frame: Frame) -> None:
    said = echo("w", frame)
    assert _is_part(orjson.loads(said), orjson.loads(codec.encode(frame)))
    assert type(codec.decode_from_worker(said)) is type(frame)


@given(frame=server_frames())
def test_of_a_gateway(echo: Echo, frame: Frame) -> None:
    said = echo("s", frame)
    assert _is_part(orjson.loads(said), orjson.loads(codec.encode(frame)))
    assert type(codec.decode_from_server(said)) is type(frame)
