"""The codec: every frame comes back as it went, and no bytes raise anything but RemoteProtocolError."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ws.errors import LocalProtocolError, RemoteProtocolError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    FACTS,
    LOG_CHUNK,
    MAX_DEPTH,
    MAX_FRAME,
    Accept,
    Beat,
    Bye,
    Facts,
    Finished,
    Frame,
    Go,
    Log,
    Offer,
    Refuse,
    ServerFrame,
    Status,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, HostId
from tests.protocol.strategies import FRAMES, objects, server_frames, worker_frames

CLAIM = ClaimId("2f1d8e4a-6d0b-4a57-9f0e-0a3e6b1c7d55")
HOST = HostId("9a4c2b7e-1f3d-4c6a-8b5e-7d2f0e1a3c4b")
DECODERS: tuple[Callable[[bytes | str], object], ...] = (
    codec.decode_from_worker,
    codec.decode_from_server,
    codec.decode_batch_from_worker,
    codec.decode_batch_from_server,
)


def decode(data: bytes | str, cls: type) -> Frame:
    if cls in typing.get_args(WorkerFrame):
        return codec.decode_from_worker(data)
    return codec.decode_from_server(data)


def body_of(frame: Frame) -> dict[str, object]:
    body = orjson.loads(codec.encode(frame))
    assert isinstance(body, dict)
    return body


def error_of(decoder: Callable[[bytes | str], object], data: bytes) -> RemoteProtocolError | None:
    try:
        decoder(data)
    except RemoteProtocolError as error:
        return error
    return None


# There and back


@pytest.mark.parametrize("cls", FRAMES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_every_frame_comes_back(cls: type, data: st.DataObject) -> None:
    frame = data.draw(objects(cls))
    encoded = codec.encode(frame)
    assert decode(encoded, cls) == frame
    assert decode(encoded.decode(), cls) == frame


@given(st.lists(worker_frames(), max_size=5))
def test_a_workers_batch_comes_back(batch: list[WorkerFrame]) -> None:
    assert codec.decode_batch_from_worker(codec.encode_batch(batch)) == tuple(batch)


@given(st.lists(server_frames(), max_size=5))
def test_a_servers_batch_comes_back(batch: list[ServerFrame]) -> None:
    assert codec.decode_batch_from_server(codec.encode_batch(batch)) == tuple(batch)


def test_types_on_the_wire() -> None:
    assert body_of(Log(claim=CLAIM, offset=3, data=b"\xff\x00")) == {
        "type": "log",
        "claim": CLAIM,
        "offset": 3,
        "data": "/wA=",
    }
    assert codec.encode(Beat()) == b'{"type":"beat"}'
    assert codec.frame_type(Finished(claim=CLAIM, exit_code=0, log_end=0)) == "finished"


# What a neighbouring release may send


@pytest.mark.parametrize("cls", FRAMES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_unknown_fields_are_ignored(cls: type, data: st.DataObject) -> None:
    frame = data.draw(objects(cls))
    body = body_of(frame) | {"from_the_future": {"a": [1, None]}}
    assert decode(orjson.dumps(body), cls) == frame


def test_unknown_fields_inside_are_ignored() -> None:
    body = body_of(Status(inventory=_inventory()))
    body["inventory"] = {**typing.cast("dict[str, object]", body["inventory"]), "new": 1}
    assert codec.decode_from_worker(orjson.dumps(body)) == Status(inventory=_inventory())


@pytest.mark.parametrize("cls", FRAMES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_defaults_fill_what_is_absent_and_nothing_else(cls: type, data: st.DataObject) -> None:
    frame = data.draw(objects(cls))
    for field in dataclasses.fields(cls):
        body = body_of(frame)
        del body[field.name]
        if field.default is not dataclasses.MISSING:
            assert getattr(decode(orjson.dumps(body), cls), field.name) == field.default
        elif field.default_factory is not dataclasses.MISSING:
            assert getattr(decode(orjson.dumps(body), cls), field.name) == field.default_factory()
        else:
            with pytest.raises(RemoteProtocolError, match=rf"\.{field.name} is missing"):
                decode(orjson.dumps(body), cls)


# What breaks the protocol


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_arbitrary_bytes_raise_only_our_error(data: bytes | str) -> None:
    for decoder in DECODERS:
        with pytest.raises(RemoteProtocolError):
            decoder(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("cls", FRAMES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_wrong_values_raise_only_our_error(cls: type, data: st.DataObject) -> None:
    body = body_of(data.draw(objects(cls)))
    for name in data.draw(st.sets(st.sampled_from(sorted(body)))):
        body[name] = data.draw(_JSON)
    try:
        encoded = orjson.dumps(body)
    except orjson.JSONEncodeError:
        return
    for decoder in DECODERS:
        error = error_of(decoder, encoded)
        if error is not None:
            assert len(str(error)) < 300
            assert error.close_code in {4400, 4413}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"type":"beat"', "not JSON"),
        (b'\xff{"type":"beat"}', "not JSON"),
        (b'{"type":"b\xc3\x28t"}', "not JSON"),
        (b'{"type":"beat","x":"\\ud800"}', "not JSON"),
        (b'{"type":"beat","x":NaN}', "not JSON"),
        (b'{"type":"beat","x":1e999}', "not JSON"),
        ("\ud800", "not JSON"),
        (b"null", "a frame is an object with a type"),
        (b"[]", "a frame is an object with a type"),
        (b"{}", "a frame is an object with a type"),
        (b'{"type":7}', "a frame is an object with a type"),
        (b'{"type":["beat"]}', "a frame is an object with a type"),
        (b'{"type":"warp"}', "no frame of type 'warp'"),
        (b'{"type":"accept","claim":"a","host":"b"}', "no frame of type 'accept'"),
    ],
)
def test_malformed(data: bytes | str, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said) as caught:
        codec.decode_from_server(data)
    assert caught.value.close_code == 4400


def test_a_long_type_is_cut_in_the_sentence() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_from_server(orjson.dumps({"type": "x" * 5000}))
    assert len(str(caught.value)) < 120


def test_the_other_sides_frames_are_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        codec.decode_from_worker(codec.encode(Go(claim=CLAIM, token="t")))
    with pytest.raises(RemoteProtocolError):
        codec.decode_from_server(codec.encode(Bye(reason="")))
    with pytest.raises(RemoteProtocolError):
        codec.decode_batch_from_worker(codec.encode_batch([Bye(reason=""), Beat()]))


def test_a_message_is_a_frame_or_an_array_of_frames() -> None:
    assert codec.encode_batch([Beat()]) == codec.encode(Beat())
    assert codec.decode_batch_from_server(codec.encode(Beat())) == (Beat(),)
    assert codec.decode_batch_from_server(b"[]") == ()


def test_frames_are_packed_into_few_messages() -> None:
    frames = [Go(claim=CLAIM, token="t" * 10_000) for _ in range(30)]
    messages = list(codec.pack(frames))
    assert 2 <= len(messages) <= 4
    assert all(len(message) <= codec.MESSAGE_GOAL + 16 for message in messages)
    assert [one for message in messages for one in codec.decode_batch_from_server(message)] == frames
    large = Go(claim=CLAIM, token="t" * 2 * codec.MESSAGE_GOAL)
    assert len(list(codec.pack([Beat(), large, Beat()]))) == 3
    assert list(codec.pack([])) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("claim", 1, "1 to 36 printable"),
        ("claim", "", "1 to 36 printable"),
        ("claim", "x" * 37, "1 to 36 printable"),
        ("claim", "a b", "1 to 36 printable"),
        ("claim", "a\n", "1 to 36 printable"),
        ("claim", "\u0661", "1 to 36 printable"),
        ("exit_code", True, "an integer"),
        ("exit_code", 1.0, "an integer"),
        ("exit_code", "1", "an integer"),
        ("exit_code", None, "an integer"),
        ("exit_code", 2**31, "within"),
        ("exit_code", -(2**31) - 1, "within"),
        ("log_end", -1, "within"),
        ("log_end", 2**53, "within"),
        ("detail", None, "a string"),
        ("detail", ["a"], "a string"),
        ("log_uploaded", 1, "true or false"),
        ("log_uploaded", "true", "true or false"),
    ],
)
def test_wrong_values(name: str, value: object, said: str) -> None:
    body = body_of(Finished(claim=CLAIM, exit_code=0, log_end=0)) | {name: value}
    with pytest.raises(RemoteProtocolError, match=rf"finished\.{name} must be .*{said}"):
        codec.decode_from_worker(orjson.dumps(body))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("inventory", []),
        ("inventory.claims", {}),
        ("inventory.claims", ["x"]),
        ("inventory.claims", [{"claim": "a", "phase": "nowhere", "log_end": 0}]),
        ("inventory.claims", [{"claim": "a", "phase": [], "log_end": 0}]),
        ("inventory.queues", [1]),
        ("inventory.queues", "default"),
        ("inventory.concurrency", -1),
        ("sysinfo", []),
        ("sysinfo", {"a": None}),
        ("sysinfo", {"a": {}}),
    ],
)
def test_wrong_values_inside(path: str, value: object) -> None:
    body = body_of(Status(inventory=_inventory()))
    *parents, last = path.split(".")
    place = body
    for parent in parents:
        place = typing.cast("dict[str, object]", place[parent])
    place[last] = value
    with pytest.raises(RemoteProtocolError, match=rf"status\.{path}.* must be"):
        codec.decode_from_worker(orjson.dumps(body))


def test_timers_that_would_spin_are_refused() -> None:
    welcome = (
        b'{"type":"welcome","protocol":1,"gateway":"g","execution_api_url":null,'
        b'"wish":{"revision":0,"concurrency":null,"queues":null},"timers":{"heartbeat_s":%s}}'
    )
    assert codec.decode_from_server(welcome % b"1")
    for value in (b"0", b"-1", b"1e9"):
        with pytest.raises(RemoteProtocolError, match="heartbeat_s must be within"):
            codec.decode_from_server(welcome % value)


# Limits


def test_the_largest_frame_passes_and_one_byte_more_does_not() -> None:
    frame = Offer(claim=CLAIM, slots=1, payload="")
    room = MAX_FRAME - len(codec.encode(frame))
    largest = dataclasses.replace(frame, payload="x" * room)
    assert codec.decode_from_server(codec.encode(largest)) == largest
    with pytest.raises(LocalProtocolError, match="offer frame of 1048577 bytes"):
        codec.encode(dataclasses.replace(frame, payload="x" * (room + 1)))


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.__name__)
def test_oversized_bytes_are_not_even_parsed(decoder: Callable[[bytes | str], object]) -> None:
    for data in (b" " * (MAX_FRAME + 1), " " * (MAX_FRAME + 1), "\u20ac" * (MAX_FRAME // 2)):
        with pytest.raises(RemoteProtocolError, match="over the limit") as caught:
            decoder(data)
        assert caught.value.close_code == 4413


def test_depth() -> None:
    def nested(levels: int) -> bytes:
        return b'{"type":"beat","x":' + b"[" * levels + b"]" * levels + b"}"

    assert codec.decode_from_server(nested(MAX_DEPTH)) == Beat()
    for levels in (MAX_DEPTH + 1, 500, 100_000):
        with pytest.raises(RemoteProtocolError):
            codec.decode_from_server(nested(levels))


def test_a_log_chunk() -> None:
    largest = Log(claim=CLAIM, offset=0, data=b"x" * LOG_CHUNK)
    assert codec.decode_from_worker(codec.encode(largest)) == largest
    with pytest.raises(RemoteProtocolError, match=r"log\.data must be within"):
        codec.decode_from_worker(codec.encode(dataclasses.replace(largest, data=b"x" * (LOG_CHUNK + 1))))


@pytest.mark.parametrize("data", ["%%%%", "YQ", "YQ==YQ==", "Y Q==", "\u00fc", 7])
def test_bytes_that_are_no_base64(data: object) -> None:
    with pytest.raises(RemoteProtocolError, match="base64"):
        codec.decode_from_worker(orjson.dumps({"type": "log", "claim": "a", "offset": 0, "data": data}))


# Text that JSON or a database cannot hold


def test_a_nul_becomes_visible() -> None:
    sent = Refuse(claim=CLAIM, reason="a\0b")
    assert codec.decode_from_worker(codec.encode(sent)) == Refuse(claim=CLAIM, reason="a\ufffdb")
    status = Status(inventory=_inventory(), sysinfo={"k\0": "v\0", "n": 1, "flag": True})
    received = codec.decode_from_worker(codec.encode(status))
    assert isinstance(received, Status)
    assert received.sysinfo == {"k\ufffd": "v\ufffd", "n": 1, "flag": True}


def test_what_people_read_of_a_worker_is_short_and_printable() -> None:
    said = "a\r\n\x1b[2J\u202eb" + "x" * 1000
    frames_ = [
        {"type": "refuse", "claim": "c", "reason": said},
        {"type": "not_started", "claim": "c", "reason": said, "fault": said},
        {"type": "finished", "claim": "c", "exit_code": 0, "log_end": 0, "detail": said},
        {"type": "bye", "reason": said},
    ]
    refuse, not_started, finished, bye = codec.decode_batch_from_worker(orjson.dumps(frames_))
    read = [refuse.reason, not_started.reason, not_started.fault, finished.detail, bye.reason]
    assert read == ["a   [2J b" + "x" * 291] * 5
    facts = codec.reader(Facts)({said: said, "number": 2**64 - 1}, "facts")
    assert facts == {read[0]: read[0], "number": 2**64 - 1}
    assert len(codec.reader(Facts)({str(number): number for number in range(1000)}, "facts")) == FACTS


def test_undecodable_text_is_sent_all_the_same() -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    sent = Finished(claim=CLAIM, exit_code=1, log_end=0, detail=f"no file {name}")
    received = codec.decode_from_worker(codec.encode(sent))
    assert received == dataclasses.replace(sent, detail="no file caf\\udce9")
    inside = Status(inventory=dataclasses.replace(_inventory(), queues=(name,)), sysinfo={name: name})
    received = codec.decode_from_worker(codec.encode(inside))
    assert isinstance(received, Status)
    assert received.inventory.queues == ("caf\\udce9",)
    assert received.sysinfo == {"caf\\udce9": "caf\\udce9"}


def test_what_json_cannot_say_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError, match="accept frame cannot be written"):
        codec.encode(Accept(claim=CLAIM, host=typing.cast("HostId", object())))
    with pytest.raises(LocalProtocolError, match="finished frame cannot be written"):
        codec.encode(Finished(claim=CLAIM, exit_code=2**70, log_end=0))


def _inventory() -> typing.Any:
    return codec.decode_from_worker(
        orjson.dumps(
            {
                "type": "status",
                "inventory": {
                    "site": "s",
                    "hosts": [HOST],
                    "dead_hosts": [],
                    "claims": [{"claim": CLAIM, "phase": "started", "log_end": 5, "host": HOST}],
                    "revision": 1,
                    "concurrency": 8,
                    "queues": ["a"],
                    "stale_slots": 0,
                    "draining": False,
                },
            }
        )
    ).inventory
