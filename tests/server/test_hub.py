"""What the hub says of its workers' free slots, whatever it was told in whatever order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edge_ws.protocol.frames import Inventory
from edge_ws.protocol.ids import ClaimId, SiteId, WorkerName
from edge_ws.protocol.session import CloseCode, ServerSession
from edge_ws.server.hub import Hub, Link
from edge_ws.store.records import Principal, WishRecord

INVENTORY = Inventory(
    site=SiteId("s"),
    hosts=(),
    dead_hosts=(),
    claims=(),
    revision=0,
    concurrency=4,
    queues=None,
    stale_slots=0,
    draining=False,
)
NOW = 1000.0


def link(name: str, queues: tuple[str, ...] | None = None, concurrency: int = 4) -> Link:
    made = Link(Principal(worker=WorkerName(name)), ServerSession(NOW), "websocket")
    made.inventory = INVENTORY
    made.apply(concurrency, queues)
    return made


def free(hub: Hub, queues: set[str] | None = None, now: float = NOW) -> dict[str, int]:
    return {one.principal.worker: one.free for one in hub.capacities(now, queues)}


def test_workers_are_found_by_their_queues() -> None:
    hub = Hub(lambda: None, lambda _: None)
    a, b, every = link("a", ("x", "x", "y")), link("b", ("y",)), link("c")
    for one in (a, b, every):
        hub.add(one)
    assert free(hub) == {"a": 4, "b": 4, "c": 4}
    assert free(hub, {"x"}) == {"a": 4, "c": 4}
    assert free(hub, {"z"}) == {"c": 4}
    hub.applied(a, 2, ("z",))
    assert free(hub, {"x"}) == {"c": 4}
    assert free(hub, {"z"}) == {"a": 2, "c": 4}
    hub.remove(every)
    assert free(hub, {"y", "z"}) == {"a": 2, "b": 4}


def test_a_newer_connection_takes_the_older_ones_place() -> None:
    hub = Hub(lambda: None, lambda _: None)
    older, newer = link("a", ("x",)), link("a", ("y",))
    hub.add(older)
    hub.add(newer)
    assert older.closing is not None
    assert older.closing.code is CloseCode.REPLACED
    hub.remove(older)
    hub.applied(older, 9, ("x",))
    assert (free(hub, {"x"}), free(hub, {"y"})) == ({}, {"a": 4})


def test_who_is_silent_refused_or_leaves_is_left_out() -> None:
    hub = Hub(lambda: None, lambda _: None)
    one = link("a")
    hub.add(one)
    assert free(hub, now=NOW + 60) == {}
    hub.pause(one, 1.0)
    assert free(hub, now=one.not_before - 0.1) == {}
    assert hub.next_chance(one.not_before - 0.1) == one.not_before
    assert hub.next_chance(one.not_before + 0.1) is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["hold", "drop", "apply", "stale"]), st.integers(0, 5), st.integers(1, 3))
    )
)
def test_free_slots_are_always_what_is_left(steps: list[tuple[str, int, int]]) -> None:
    hub, one = Hub(lambda: None, lambda _: None), link("a", concurrency=8)
    hub.add(one)
    held: dict[ClaimId, int] = {}
    concurrency, stale = 8, 0
    for what, number, slots in steps:
        claim = ClaimId(str(number))
        if what == "hold":
            one.hold([(claim, slots)])
            held[claim] = slots
        elif what == "drop":
            assert one.drop(claim) == (held.pop(claim, None) is not None)
        elif what == "apply":
            concurrency = 2 * slots
            hub.applied(one, concurrency, ("q",))
        else:
            stale = number
            one.inventory = replace(INVENTORY, stale_slots=stale)
        left = concurrency - stale - sum(held.values())
        assert one.free() == left
        assert free(hub) == ({"a": left} if left > 0 else {})


@given(
    said=st.integers(0, 2**31 - 1),
    own=st.integers(0, 2**31 - 1),
    wished=st.none() | st.integers(0, 1024),
    queues=st.tuples(*[st.none() | st.sets(st.sampled_from("xyz"))] * 3),
)
def test_no_word_of_a_worker_goes_past_what_is_wished(
    said: int, own: int, wished: int | None, queues: tuple[set[str] | None, set[str] | None, set[str] | None]
) -> None:
    said_queues, own_queues, wished_queues = (None if one is None else tuple(one) for one in queues)
    hub, one = Hub(lambda: None, lambda _: None), link("a")
    one.local = own, own_queues
    hub.add(one)
    hub.wished(one, WishRecord(revision=1, concurrency=wished, queues=wished_queues))
    hub.applied(one, said, said_queues)
    assert one.concurrency == min(said, own if wished is None else wished, 1024)
    among = own_queues if wished_queues is None else wished_queues
    for queue in "xyz":
        is_served = all(some is None or queue in some for some in (said_queues, among))
        assert bool(hub.served({queue})) == is_served
