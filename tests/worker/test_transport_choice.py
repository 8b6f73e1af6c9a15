"""Which transport is tried, and when: by histories of what happened."""

from __future__ import annotations

import pytest

from edge_ws.worker.transport_choice import (
    AUTO,
    LONGPOLL,
    PROBE_FIRST_S,
    PROBE_LONGEST_S,
    ROTATED_AT,
    SHORT_LIVES,
    WEBSOCKET,
    Choice,
)

CUT = {"was_cut": True}


def on_longpoll(why: str = "a proxy") -> Choice:
    """Return a choice that has settled on long-poll at 0."""
    choice = Choice(AUTO, 0.0)
    choice.failed(WEBSOCKET, why, 0.0)
    choice.ready(LONGPOLL, 0.0)
    return choice


def test_both_are_tried_the_websocket_first() -> None:
    choice = Choice(AUTO, 0.0)
    assert choice.order() == (WEBSOCKET, LONGPOLL)
    unproven_s = choice.head_start_s
    choice.ready(WEBSOCKET, 1.0)
    assert choice.head_start_s > unproven_s
    assert choice.renewal(WEBSOCKET, 1.0) is None
    assert (choice.mode.transport, choice.mode.reason) == (WEBSOCKET, "")


@pytest.mark.parametrize("wanted", [WEBSOCKET, LONGPOLL])
def test_what_is_wanted_alone_is_all_there_is(wanted: str) -> None:
    choice = Choice(wanted, 0.0)
    assert choice.order() == (wanted,)
    choice.ready(wanted, 0.0)
    for at in range(10):
        choice.ended(wanted, 1.0, "it broke", float(at), was_cut=True)
    assert choice.order() == (wanted,)
    assert choice.renewal(wanted, 0.0) is None


def test_on_long_poll_it_says_why_and_probes_ever_more_seldom() -> None:
    choice = on_longpoll("a proxy takes the Upgrade header away")
    assert choice.mode.reason == "a proxy takes the Upgrade header away"
    assert choice.order() == (LONGPOLL, WEBSOCKET)
    at, pauses = 0.0, []
    for _ in range(6):
        due, transport = choice.renewal(LONGPOLL, 0.0) or (0.0, "")
        assert transport == WEBSOCKET
        pauses.append(due - at)
        at = due
        choice.failed(WEBSOCKET, "still", at)
    assert pauses == [PROBE_FIRST_S, 120.0, 240.0, 480.0, PROBE_LONGEST_S, PROBE_LONGEST_S]


def test_a_failure_that_comes_after_long_poll_is_ready_gives_the_reason_alone() -> None:
    choice = Choice(AUTO, 0.0)
    choice.ready(LONGPOLL, 1.0)
    assert "too long" in choice.mode.reason
    choice.failed(WEBSOCKET, "no welcome", 5.0)
    assert choice.mode.reason == "no welcome"
    assert choice.renewal(LONGPOLL, 1.0) == (1.0 + PROBE_FIRST_S, WEBSOCKET)


def test_a_reason_of_earlier_days_is_not_given_again() -> None:
    choice = Choice(AUTO, 0.0)
    choice.failed(WEBSOCKET, "the server is away", 0.0)
    assert choice.begin() == (WEBSOCKET, LONGPOLL)
    choice.ready(LONGPOLL, 5.0)
    assert "too long" in choice.mode.reason
    assert choice.begin() == (LONGPOLL, WEBSOCKET)
    assert "too long" in choice.mode.reason


def test_probing_can_be_asked_for() -> None:
    choice = on_longpoll()
    choice.probe_now(10.0)
    assert choice.renewal(LONGPOLL, 0.0) == (10.0, WEBSOCKET)
    choice.ready(WEBSOCKET, 10.5)
    assert choice.mode.reason == ""
    assert choice.order() == (WEBSOCKET, LONGPOLL)
    choice.probe_now(20.0)
    assert choice.renewal(WEBSOCKET, 10.5) is None


def test_one_short_life_is_forgiven_two_are_not() -> None:
    choice = Choice(AUTO, 0.0)
    for life in range(SHORT_LIVES):
        assert choice.order() == (WEBSOCKET, LONGPOLL)
        choice.ready(WEBSOCKET, 10.0 * life)
        choice.ended(WEBSOCKET, 5.0, "the connection broke off", 10.0 * life + 5.0, was_cut=True)
    assert choice.order() == (LONGPOLL, WEBSOCKET)
    assert "break off after 5 s" in choice.mode.reason


def test_what_the_server_closes_counts_for_nothing() -> None:
    choice = Choice(AUTO, 0.0)
    for life in range(10):
        choice.ready(WEBSOCKET, float(life))
        choice.ended(WEBSOCKET, 0.5, "restarting", life + 0.5, was_cut=False)
    assert choice.order() == (WEBSOCKET, LONGPOLL)


def test_flapping_switches_at_most_once_a_minute() -> None:
    """It can be opened at any time, and breaks each time after five seconds."""
    choice, now, switches, transport = Choice(AUTO, 0.0), 0.0, [], ""
    while now < 7200.0:
        if choice.order()[0] == WEBSOCKET or transport == LONGPOLL:
            choice.ready(WEBSOCKET, now)
            switches += [now] if transport == LONGPOLL else []
            transport, now = WEBSOCKET, now + 5.0
            choice.ended(WEBSOCKET, 5.0, "broken", now, was_cut=True)
            continue
        choice.ready(LONGPOLL, now)
        switches.append(now)
        transport = LONGPOLL
        now = (choice.renewal(LONGPOLL, now) or (now, ""))[0]
    assert len(switches) <= 7200 / 60
    # After each climb that failed the next one is later, so the rate falls.
    assert len([at for at in switches if at > 3600.0]) <= 14


def test_a_long_life_forgives_all() -> None:
    choice = on_longpoll()
    for _ in range(4):
        choice.failed(WEBSOCKET, "no", 1e6)
    choice.ready(WEBSOCKET, 1e6)
    choice.ended(WEBSOCKET, 3600.0, "broken", 1e6 + 3600.0, was_cut=True)
    choice.ready(LONGPOLL, 1e6 + 3601.0)
    assert choice.renewal(LONGPOLL, 0.0) == (1e6 + 3601.0 + PROBE_FIRST_S, WEBSOCKET)


def test_lives_of_one_length_are_renewed_before_their_end() -> None:
    choice = Choice(AUTO, 0.0)
    choice.ready(WEBSOCKET, 0.0)
    choice.ended(WEBSOCKET, 300.0, "broken", 300.0, was_cut=True)
    assert choice.renewal(WEBSOCKET, 0.0) is None
    choice.ended(WEBSOCKET, 304.0, "broken", 604.0, was_cut=True)
    assert choice.renewal(WEBSOCKET, 1000.0) == (1000.0 + ROTATED_AT * 300.0, WEBSOCKET)
