"""The two tables: what they allow, and that nothing in them goes backwards."""

from __future__ import annotations

import itertools

import pytest

from edge_ws.protocol.codec import FRAME_TYPES
from edge_ws.protocol.states import (
    CLAIM_MOVES,
    CONNECTION_MOVES,
    Connection,
    Phase,
    next_state,
    phases_before,
    reaches,
)

ORDER = [Phase.OFFERED, Phase.ACCEPTED, Phase.STARTED, Phase.ENDED]


@pytest.mark.parametrize(("now", "then"), list(itertools.product(ORDER, ORDER)))
def test_a_claim_reaches_every_later_phase_and_no_other(now: Phase, then: Phase) -> None:
    assert reaches(now, then) is (ORDER.index(now) < ORDER.index(then))


def test_unknown_is_an_answer_and_no_phase_of_a_claim() -> None:
    assert Phase.UNKNOWN not in CLAIM_MOVES
    assert not any(reaches(phase, Phase.UNKNOWN) or reaches(Phase.UNKNOWN, phase) for phase in Phase)


def test_phases_before() -> None:
    assert phases_before(Phase.OFFERED) == frozenset()
    assert phases_before(Phase.STARTED) == {Phase.OFFERED, Phase.ACCEPTED}
    assert phases_before(Phase.ENDED) == {Phase.OFFERED, Phase.ACCEPTED, Phase.STARTED}


def test_every_state_has_its_moves() -> None:
    assert set(CONNECTION_MOVES) == set(Connection)
    assert set(CLAIM_MOVES) == set(Phase) - {Phase.UNKNOWN}


def test_the_table_names_only_frames_that_exist() -> None:
    named = {frame for moves in CONNECTION_MOVES.values() for frame in moves} - {"*"}
    assert named <= set(FRAME_TYPES)


@pytest.mark.parametrize("frame", sorted(FRAME_TYPES))
def test_connection(frame: str) -> None:
    assert next_state(Connection.OPENING, frame) is (Connection.GREETED if frame == "hello" else None)
    greeted = {"welcome": Connection.READY, "refused": Connection.CLOSED}
    assert next_state(Connection.GREETED, frame) is greeted.get(frame)
    ready = {"hello": None, "welcome": None, "bye": Connection.CLOSED, "refused": Connection.CLOSED}
    assert next_state(Connection.READY, frame) is ready.get(frame, Connection.READY)
    assert next_state(Connection.CLOSED, frame) is None
