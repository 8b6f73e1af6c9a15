"""The two sessions wired back to back through the codec, on a clock that the test moves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ws.errors import EdgeWsError, LocalProtocolError, RemoteProtocolError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Accept,
    Beat,
    Bye,
    Frame,
    Go,
    Hello,
    Inventory,
    Offer,
    Refusal,
    Refused,
    ServerFrame,
    Status,
    Timers,
    Welcome,
    Wish,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, GatewayId, HostId, SiteId, WorkerName
from edge_ws.protocol.session import FIRST_FRAME_S, CloseCode, Due, ServerSession, Session, WorkerSession
from edge_ws.protocol.states import Connection
from tests.protocol.strategies import server_frames, worker_frames

INVENTORY = Inventory(
    site=SiteId("site"),
    hosts=(),
    dead_hosts=(),
    claims=(),
    revision=0,
    concurrency=8,
    queues=None,
    stale_slots=0,
    draining=False,
)
HELLO = Hello(
    protocol=1,
    oldest_protocol=1,
    worker=WorkerName("factory-7"),
    team=None,
    concurrency=8,
    queues=None,
    inventory=INVENTORY,
)
STATUS = Status(inventory=INVENTORY)
ACCEPT = Accept(claim=ClaimId("c"), host=HostId("h"))
OFFER = Offer(claim=ClaimId("c"), slots=1, payload="{}")
BYE = Bye(reason="drained")
REFUSED = Refused(code=Refusal.TOKEN, sentence="expired")


def welcome(timers: Timers | None = None) -> Welcome:
    return Welcome(
        protocol=1,
        gateway=GatewayId("g"),
        timers=timers or Timers(),
        wish=Wish(revision=0, concurrency=None, queues=None),
        execution_api_url=None,
    )


class Pair:
    """Both sides of one connection; frames travel as bytes and arrive at once."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start
        self.worker = WorkerSession(start)
        self.server = ServerSession(start)

    def up(self, frame: WorkerFrame) -> None:
        self.worker.sending(frame, self.now)
        self.server.receive(codec.decode_from_worker(codec.encode(frame)), self.now)

    def down(self, frame: ServerFrame) -> None:
        self.server.sending(frame, self.now)
        self.worker.receive(codec.decode_from_server(codec.encode(frame)), self.now)

    @property
    def states(self) -> tuple[Connection, Connection]:
        return self.worker.state, self.server.state

    def is_in(self, state: Connection) -> bool:
        return self.states == (state, state)


def ready_pair(start: float = 0.0, timers: Timers | None = None) -> Pair:
    pair = Pair(start)
    pair.up(HELLO)
    pair.down(welcome(timers))
    assert pair.is_in(Connection.READY)
    return pair


# The course of a connection


def test_both_sides_go_through_the_same_states() -> None:
    pair = Pair()
    assert pair.is_in(Connection.OPENING)
    pair.up(HELLO)
    assert pair.is_in(Connection.GREETED)
    pair.down(welcome())
    assert pair.is_in(Connection.READY)
    pair.down(OFFER)
    pair.up(ACCEPT)
    pair.down(Go(claim=OFFER.claim, token="t"))
    assert pair.is_in(Connection.READY)
    pair.up(BYE)
    assert pair.is_in(Connection.CLOSED)


@pytest.mark.parametrize("is_ready", [False, True])
def test_refused_closes(is_ready: bool) -> None:
    pair = Pair()
    pair.up(HELLO)
    if is_ready:
        pair.down(welcome())
    pair.down(REFUSED)
    assert pair.is_in(Connection.CLOSED)


@given(st.lists(st.booleans().flatmap(lambda up: worker_frames() if up else server_frames()), max_size=20))
def test_whatever_one_side_may_send_the_other_takes(frames: list[Frame]) -> None:
    pair = Pair()
    for frame in frames:
        before = pair.states
        try:
            if isinstance(frame, WorkerFrame):
                pair.up(frame)
            else:
                pair.down(frame)
        except LocalProtocolError:
            assert pair.states == before
        assert pair.worker.state is pair.server.state


# Wrong order, wrong side


def worker_in(state: Connection) -> WorkerSession:
    return _pair_in(state).worker


def server_in(state: Connection) -> ServerSession:
    return _pair_in(state).server


def _pair_in(state: Connection) -> Pair:
    pair = Pair()
    if state is not Connection.OPENING:
        pair.up(HELLO)
    if state in {Connection.READY, Connection.CLOSED}:
        pair.down(welcome())
    if state is Connection.CLOSED:
        pair.up(BYE)
    assert pair.is_in(state)
    return pair


WRONG_FROM_WORKER = [
    (Connection.OPENING, STATUS),
    (Connection.OPENING, ACCEPT),
    (Connection.OPENING, BYE),
    (Connection.GREETED, HELLO),
    (Connection.GREETED, STATUS),
    (Connection.GREETED, BYE),
    (Connection.READY, HELLO),
    (Connection.CLOSED, HELLO),
    (Connection.CLOSED, ACCEPT),
]
WRONG_FROM_SERVER = [
    (Connection.OPENING, welcome()),
    (Connection.OPENING, REFUSED),
    (Connection.OPENING, OFFER),
    (Connection.GREETED, OFFER),
    (Connection.GREETED, Beat()),
    (Connection.READY, welcome()),
    (Connection.CLOSED, Beat()),
]


@pytest.mark.parametrize(("state", "frame"), WRONG_FROM_WORKER, ids=str)
def test_wrong_order_from_the_worker(state: Connection, frame: WorkerFrame) -> None:
    _refuse_both(worker_in(state), server_in(state), state, frame)


@pytest.mark.parametrize(("state", "frame"), WRONG_FROM_SERVER, ids=str)
def test_wrong_order_from_the_server(state: Connection, frame: ServerFrame) -> None:
    _refuse_both(server_in(state), worker_in(state), state, frame)


@pytest.mark.parametrize("frame", [welcome(), Beat(), REFUSED, OFFER], ids=codec.frame_type)
def test_a_worker_never_says_what_is_the_servers_to_say(frame: ServerFrame) -> None:
    for state in Connection:
        _refuse_both(worker_in(state), server_in(state), state, frame)


@pytest.mark.parametrize("frame", [HELLO, STATUS, ACCEPT, BYE], ids=codec.frame_type)
def test_a_server_never_says_what_is_the_workers_to_say(frame: WorkerFrame) -> None:
    for state in Connection:
        _refuse_both(server_in(state), worker_in(state), state, frame)


def _refuse_both(sender: Session, receiver: Session, state: Connection, frame: Frame) -> None:
    with pytest.raises(LocalProtocolError, match=codec.frame_type(frame)):
        sender.sending(frame, 1.0)
    with pytest.raises(RemoteProtocolError, match=codec.frame_type(frame)) as caught:
        receiver.receive(frame, 1.0)
    assert caught.value.close_code == CloseCode.PROTOCOL.value
    assert sender.state is receiver.state is state


def test_local_and_remote_errors_are_two_classes() -> None:
    assert not issubclass(LocalProtocolError, RemoteProtocolError)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
    assert issubclass(LocalProtocolError, EdgeWsError)
    assert issubclass(RemoteProtocolError, EdgeWsError)


def test_a_refused_frame_is_no_sign_of_life() -> None:
    server = ready_pair().server
    with pytest.raises(RemoteProtocolError):
        server.receive(HELLO, 29.0)
    due = server.tick(30.0)
    assert due.close is not None
    assert due.close.code is CloseCode.SILENT


# The first frames


def test_the_server_waits_for_hello_for_five_seconds() -> None:
    server = ServerSession(100.0)
    assert server.deadline() == 100.0 + FIRST_FRAME_S
    assert server.tick(104.9) == Due()
    due = server.tick(105.0)
    assert due.close is not None
    assert due.close.code is CloseCode.SILENT
    assert "hello" in due.close.reason


def test_the_worker_waits_for_welcome_for_five_seconds_from_its_hello() -> None:
    worker = WorkerSession(100.0)
    assert worker.deadline() is None
    worker.sending(HELLO, 103.0)
    assert worker.deadline() == 108.0
    assert worker.tick(107.9) == Due()
    due = worker.tick(108.0)
    assert due.close is not None
    assert due.close.code is CloseCode.SILENT
    assert "welcome" in due.close.reason


def test_a_server_that_was_greeted_takes_its_own_time() -> None:
    server = ServerSession(0.0)
    server.receive(HELLO, 1.0)
    assert server.deadline() is None
    assert server.tick(1000.0) == Due()


# Heartbeats and silence


def test_each_side_beats_when_it_has_said_nothing() -> None:
    pair = ready_pair()
    pair.now = 10.0
    pair.down(OFFER)
    assert pair.worker.deadline() == 15.0
    assert pair.worker.tick(14.9) == Due()
    assert pair.worker.tick(15.0) == Due(beat=True)
    assert pair.server.tick(15.0) == Due()
    assert pair.server.tick(25.0) == Due(beat=True)
    pair.now = 15.0
    pair.up(STATUS)
    assert pair.worker.tick(15.0) == Due()


@pytest.mark.parametrize("side", ["worker", "server"])
def test_a_side_that_is_silent_for_two_heartbeats_is_dead(side: str) -> None:
    pair = ready_pair()
    session: Session = getattr(pair, side)
    assert session.tick(29.9).close is None
    due = session.tick(30.0)
    assert due.close is not None
    assert due.close.code is CloseCode.SILENT
    assert "30 s" in due.close.reason


def test_other_signs_of_life_count() -> None:
    server = ready_pair().server
    server.heard(20.0)
    assert server.tick(30.0).close is None
    assert server.tick(50.0).close is not None


def test_a_side_is_prompt_until_it_misses_a_heartbeat() -> None:
    server = ready_pair().server
    assert server.is_prompt(15.0)
    assert not server.is_prompt(20.0)
    server.receive(STATUS, 20.0)
    assert server.is_prompt(20.0)


def test_both_sides_use_the_timers_of_welcome() -> None:
    pair = ready_pair(timers=Timers(heartbeat_s=2.0))
    assert pair.worker.timers == pair.server.timers == Timers(heartbeat_s=2.0)
    assert pair.worker.deadline() == pair.server.deadline() == 2.0
    assert pair.worker.tick(4.0).close is not None


def test_nothing_is_due_once_closed() -> None:
    pair = ready_pair()
    pair.up(BYE)
    for session in (pair.worker, pair.server):
        assert session.deadline() is None
        assert session.tick(1e9) == Due()


@given(
    start=st.floats(0, 1e9),
    heartbeat_s=st.floats(0.01, 86_400),
    later=st.lists(st.floats(0, 100), max_size=4),
)
def test_something_is_due_at_every_deadline(start: float, heartbeat_s: float, later: list[float]) -> None:
    pair = ready_pair(start, Timers(heartbeat_s=heartbeat_s))
    for pause_s, up in zip(later, itertools.cycle([True, False]), strict=False):
        pair.now += pause_s
        if up:
            pair.up(STATUS)
        else:
            pair.down(Beat())
    for session in (pair.worker, pair.server):
        deadline = session.deadline()
        assert deadline is not None
        assert session.tick(deadline) != Due()


@given(start=st.floats(0, 1e9), greeted_after_s=st.floats(0, 10))
def test_something_is_due_at_every_first_deadline(start: float, greeted_after_s: float) -> None:
    server, worker = ServerSession(start), WorkerSession(start)
    worker.sending(HELLO, start + greeted_after_s)
    for session in (server, worker):
        deadline = session.deadline()
        assert deadline is not None
        assert session.tick(deadline).close is not None


def test_two_live_sides_keep_a_connection_for_a_day() -> None:
    """Drive both by their deadlines alone."""
    pair = ready_pair()
    end, beats = 86_400.0, 0
    while pair.now < end:
        deadlines = [session.deadline() for session in (pair.worker, pair.server)]
        pair.now = min(deadline for deadline in deadlines if deadline is not None)
        for session, beat in ((pair.worker, STATUS), (pair.server, Beat())):
            due = session.tick(pair.now)
            assert due.close is None
            if due.beat:
                beats += 1
                peer = pair.server if session is pair.worker else pair.worker
                session.sending(beat, pair.now)
                peer.receive(beat, pair.now)
    assert beats == pytest.approx(2 * end / 15, rel=0.01)


def test_close_codes_lie_in_their_ranges() -> None:
    comes_back = {CloseCode.REPLACED, CloseCode.SILENT, CloseCode.TOO_SLOW, CloseCode.PROTOCOL}
    comes_back |= {CloseCode.UNAVAILABLE, CloseCode.TOO_LARGE}
    assert all(4000 <= code.value < 4500 for code in comes_back)
    assert {code for code in CloseCode if code.value >= 4500} == {CloseCode.REFUSED}
