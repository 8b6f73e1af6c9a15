"""What comes is judged by codec and session, in process: most of a million inputs, more than 1,000 a second.

Each example of hypothesis is tampered with in so many ways of a seed's choosing. What has passed these layers
is one of the frames that tests/server/test_extremes.py brings to the store; what passes the web server and the
entrances besides is test_entrances.py's, where an input costs a connection.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edge_ws.errors import RemoteProtocolError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import Frame
from edge_ws.protocol.session import ServerSession, Session, WorkerSession
from tests.fuzz.messages import CORPUS, PIECES, messages
from tests.fuzz.test_entrances import INPUTS
from tests.protocol.strategies import server_frames

EACH = 500
"""Inputs that are made of one example."""
LONGEST = 16 * 1024
"""Of an example: the larger ones are the entrances' business."""
_some = settings(
    max_examples=max(2, INPUTS // 2 // EACH),
    suppress_health_check=[*HealthCheck],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
)


def tampered(message: bytes, others: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Yield the message, and it with pieces cut, doubled, exchanged with others' or put in."""
    yield message
    chance = random.Random(seed)
    for _ in range(EACH - 1):
        body = bytearray(message)
        for _ in range(chance.randint(1, 4)):
            begin = chance.randint(0, len(body))
            end = min(len(body), begin + chance.choice((0, 1, 1, 4, 16, 64)))
            match chance.randrange(5):
                case 0:
                    body[begin:end] = chance.choice(PIECES)
                case 1:
                    body[begin:end] = b""
                case 2:
                    body[begin:begin] = body[begin:end]
                case 3:
                    other = chance.choice(others)
                    at = chance.randint(0, len(other))
                    body[begin:end] = other[at : at + 64]
                case _:
                    body[begin:end] = chance.randbytes(end - begin)
        yield bytes(body)


def judge(decode: Callable[[bytes], tuple[Frame, ...]], session: Session, message: bytes) -> bool:
    """Have the layers take it; return whether it was a message. What it was is written and read as the same."""
    try:
        frames = decode(message)
    except RemoteProtocolError:
        return False
    again = decode(codec.encode_batch(frames))
    # What is not a number is not even equal to itself.
    assert again == frames or repr(again) == repr(frames)
    with suppress(RemoteProtocolError):
        for number, frame in enumerate(frames):
            session.receive(frame, float(number))
            session.tick(float(number))
    return True


@pytest.fixture(scope="module")
def rate() -> Iterator[list[int]]:
    counts: list[int] = []
    begun = time.monotonic()
    yield counts
    took_s = time.monotonic() - begun
    print(f"\ncodec and session: {sum(counts)} inputs in {took_s:.0f} s, {sum(counts) / took_s:.0f} a second")


@_some
@given(message=messages().filter(lambda one: len(one) <= LONGEST), seed=st.integers(0, 2**32))
def test_what_a_gateway_is_told(rate: list[int], message: bytes, seed: int) -> None:
    for one in tampered(message, sorted(CORPUS.values()), seed):
        judge(codec.decode_batch_from_worker, ServerSession(0.0), one)
    rate.append(EACH)


@_some
@given(frames=st.lists(server_frames(), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_what_a_worker_is_told(rate: list[int], frames: list[Frame], seed: int) -> None:
    message = codec.encode_batch(frames)
    if len(message) > LONGEST:
        return
    assert judge(codec.decode_batch_from_server, WorkerSession(0.0), message)
    for one in tampered(message, sorted(CORPUS.values()), seed):
        judge(codec.decode_batch_from_server, WorkerSession(0.0), one)
    rate.append(EACH)
