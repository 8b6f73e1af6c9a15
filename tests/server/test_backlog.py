from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_ws.server.backlog import Backlog

QUEUES = ("a", "b", "c")
some = st.sets(st.sampled_from(QUEUES))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("filled"), some),
        st.tuples(st.just("left"), some),
        st.tuples(st.just("forget"), st.one_of(some, st.none())),
        st.tuples(st.just("take"), st.one_of(some, st.none())),
    )
)


def take_all(backlog: Backlog, served: set[str]) -> frozenset[str]:
    asked = backlog.take(served)
    assert asked is not None
    return asked


def test_at_first_any_queue_may_hold_jobs() -> None:
    backlog = Backlog()
    assert (backlog.is_due, backlog.named()) == (True, None)
    assert take_all(backlog, {"a", "b"}) == {"a", "b"}
    assert take_all(backlog, {"a", "b", "c"}) == {"c"}
    assert not backlog.is_due


def test_a_worker_of_every_queue_settles_all() -> None:
    backlog = Backlog()
    assert backlog.take(None) is None
    backlog.look_again()
    assert (backlog.is_due, backlog.named()) == (False, frozenset())
    backlog.filled({"a"})
    assert backlog.is_due
    assert backlog.take(None) == {"a"}


def test_what_nobody_serves_waits_until_somebody_does() -> None:
    backlog = Backlog()
    backlog.take(None)
    backlog.filled({"dead"})
    assert take_all(backlog, {"a"}) == set()
    assert not backlog.is_due
    backlog.look_again()
    assert backlog.is_due
    assert take_all(backlog, {"a", "dead"}) == {"dead"}


def test_what_arrives_during_a_look_is_looked_at_again() -> None:
    backlog = Backlog()
    backlog.take({"a"})
    backlog.filled({"a"})
    backlog.left([])
    assert backlog.is_due
    assert take_all(backlog, {"a"}) == {"a"}


def test_a_slot_that_comes_free_during_a_look_is_looked_at_again() -> None:
    backlog = Backlog()
    backlog.take({"a"})
    backlog.left({"a"})
    assert not backlog.is_due
    backlog.look_again()
    backlog.take({"a"})
    backlog.look_again()
    backlog.left({"a"})
    assert backlog.is_due


@given(steps)
def test_it_asks_for_all_that_may_hold_jobs_and_for_nothing_else(
    history: list[tuple[str, set[str] | None]],
) -> None:
    backlog, may_hold = Backlog(), set(QUEUES)
    for verb, queues in history:
        if verb == "forget":
            backlog.forget(queues)
            may_hold = set(QUEUES) if queues is None else set(queues)
        elif verb == "take":
            asked = backlog.take(queues)
            served = set(QUEUES) if queues is None else queues
            assert (set(QUEUES) if asked is None else asked) >= may_hold & served
            assert asked is None or asked == may_hold & served
            may_hold -= served
        else:
            getattr(backlog, verb)(queues)
            may_hold |= queues or set()
        known = backlog.named()
        assert known is None or known == may_hold
