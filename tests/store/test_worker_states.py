"""The table of a worker's states: it is edge3's, it is whole, and no request is lost in it."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest

from edge_ws.store.worker_states import (
    AWAY,
    MAINTENANCE,
    MOVES,
    REQUESTS,
    Event,
    WorkerState,
    after,
    said,
    state_of,
)

S, E = WorkerState, Event
SAYS = {event for event in Event if event.name.startswith("SAYS_")}


def test_the_states_are_edge3s(edge3_path: Path) -> None:
    source = (edge3_path / "airflow/providers/edge3/models/edge_worker.py").read_text()
    (enum,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "EdgeWorkerState"
    )
    theirs = {
        node.targets[0].id: ast.literal_eval(node.value) for node in enum.body if isinstance(node, ast.Assign)
    }
    assert {state.name: state.value for state in WorkerState} == theirs


def test_every_state_has_its_moves_and_can_be_left() -> None:
    assert set(MOVES) == set(WorkerState)
    for state, moves in MOVES.items():
        assert any(then is not state for then in moves.values()), state


def test_every_state_that_is_written_can_be_reached() -> None:
    reached = {then for moves in MOVES.values() for then in moves.values()}
    # edge3's worker writes that one, ours says how it is at once.
    assert set(WorkerState) - reached == {S.STARTING}


def test_no_word_of_the_worker_takes_a_request_back() -> None:
    """But the one that says that it is fulfilled."""
    fulfils = {
        S.MAINTENANCE_REQUEST: {E.SAYS_PENDING, E.SAYS_MAINTENANCE, E.SAYS_TERMINATING},
        S.MAINTENANCE_EXIT: {E.SAYS_IDLE, E.SAYS_RUNNING, E.SAYS_TERMINATING},
        S.SHUTDOWN_REQUEST: set(),
    }
    assert set(fulfils) == REQUESTS
    for state, event in itertools.product(REQUESTS, SAYS):
        assert (after(state, event) is not None) == (event in fulfils[state]), (state, event)


def test_maintenance_lasts_until_somebody_ends_it() -> None:
    for state, event in itertools.product(MAINTENANCE, Event):
        if event not in {E.EXIT_MAINTENANCE, E.REQUEST_SHUTDOWN}:
            assert (after(state, event) or state) in MAINTENANCE, (state, event)


def test_silence_and_goodbye_lead_away() -> None:
    for state in set(WorkerState) - AWAY:
        for event in (E.SILENCE, E.LEAVE, E.LEAVE_IN_MAINTENANCE):
            assert after(state, event) in AWAY, (state, event)


@pytest.mark.parametrize(
    ("jobs", "maintenance", "leaving", "event"),
    [
        (0, False, False, E.SAYS_IDLE),
        (1, False, False, E.SAYS_RUNNING),
        (1, True, False, E.SAYS_PENDING),
        (0, True, False, E.SAYS_MAINTENANCE),
        (1, False, True, E.SAYS_TERMINATING),
        (0, True, True, E.SAYS_TERMINATING),
    ],
)
def test_what_a_worker_says(jobs: int, maintenance: bool, leaving: bool, event: Event) -> None:
    assert said(jobs, maintenance=maintenance, leaving=leaving) is event


def test_a_state_that_nobody_knows_is_unknown() -> None:
    assert state_of("rubbish") is S.UNKNOWN
