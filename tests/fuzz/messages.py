"""What a hostile or broken peer may send: good messages, good ones that were tampered with, and anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st

from edge_ws.protocol import codec
from edge_ws.protocol.frames import LOG_CHUNK, MAX_FRAME, Hello, Status, WorkerFrame
from edge_ws.protocol.ids import WorkerName
from tests.protocol.strategies import objects, worker_frames

WORKER = "w1"
CORPUS = {path.name: path.read_bytes() for path in sorted(Path(__file__).with_name("corpus").iterdir())}
"""Messages that once did harm, or that are odd in a way of their own."""

PIECES = (
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"\\",
    b"\0",
    b"\xff",
    b"\r\n",
    b"\x1b[2J",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"2147483647",
    b"2147483648",
    b"9223372036854775808",
    b"1" * 400,
    b'"type":"hello",',
    b'"type":"status",',
    b'"claims":[',
    b"[" * 200,
    b'{"a":' * 200,
    b'"x":' + b'"y' * 40,
)


@st.composite
def _tampered(draw: st.DrawFn) -> bytes:
    body = bytearray(draw(_good | st.sampled_from(sorted(CORPUS.values()))))
    for _ in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, len(body)))
        end = draw(st.integers(begin, min(len(body), begin + 40)))
        body[begin:end] = draw(st.sampled_from(PIECES) | st.binary(max_size=20) | st.just(bytes(body[end:])))
    return bytes(body[: MAX_FRAME + 1])


def _encoded(frames: list[WorkerFrame]) -> bytes:
    return codec.encode_batch(frames)


@st.composite
def _talk(draw: st.DrawFn) -> list[WorkerFrame]:
    """A hello that is let in, as the worker that `WORKER` names, and statements of the same site."""
    hello = replace(draw(objects(Hello)), worker=WorkerName(WORKER), protocol=1, oldest_protocol=1, team=None)
    said = draw(st.lists(worker_frames().filter(lambda one: not isinstance(one, Hello)), max_size=5))
    site = hello.inventory.site
    return [
        hello,
        *(
            replace(one, inventory=replace(one.inventory, site=site)) if isinstance(one, Status) else one
            for one in said
        ),
    ]


_good = st.one_of(
    _talk(), _talk().map(lambda said: said[1:]), st.lists(worker_frames(), min_size=1, max_size=6)
).map(_encoded)
_huge = st.sampled_from(
    (
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" + b"{}," * 100_000 + b"{}]",
        b'{"type":"beat"' + b',"a":1' * 50_000 + b"}",
        b'{"type":"log","claim":"c","offset":0,"data":"' + b"A" * (2 * LOG_CHUNK) + b'"}',
        b" " * (MAX_FRAME + 1),
    )
)


def messages() -> st.SearchStrategy[bytes]:
    """Return a strategy for the bodies of messages."""
    return st.one_of(
        _good,
        _tampered(),
        _tampered(),
        st.binary(max_size=200),
        st.sampled_from(sorted(CORPUS.values())),
        _huge,
    )
