"""What is in force, of what the centre wishes and what was asked for on the host."""

from __future__ import annotations

from edge_ws.protocol.frames import Applied, Asked, Wish
from edge_ws.worker.wishes import CENTRE, HOST, Request, Wishes


def wish(revision: int = 1, **changes: object) -> Wish:
    return Wish(**{"revision": revision, "concurrency": None, "queues": None, **changes})


def request(number: int, *, maintenance: bool = True, settled: bool = False) -> Request:
    asked = Asked(number=number, maintenance=maintenance, comment="new disk" if maintenance else "")
    return Request(asked, settled=settled)


def test_a_wish_beats_the_local_default_until_it_is_taken_back() -> None:
    wishes = Wishes(8, ("a",))
    assert (wishes.concurrency, wishes.queues, wishes.takes_new) == (8, ("a",), True)
    wishes.hear(wish(4, concurrency=0, queues=("b", "c")), in_full=True)
    assert (wishes.concurrency, wishes.queues) == (0, ("b", "c"))
    assert wishes.applied() == Applied(revision=4, concurrency=0, queues=("b", "c"))
    wishes.hear(wish(5), in_full=True)
    assert wishes.applied() == Applied(revision=5, concurrency=8, queues=("a",))


def test_maintenance_of_the_centre() -> None:
    wishes = Wishes(8, None)
    wishes.hear(wish(2, maintenance=True, comment="audit"), in_full=True)
    assert (wishes.maintenance, wishes.comment, wishes.maintained_by) == (True, "audit", CENTRE)
    assert not wishes.takes_new
    assert wishes.applied().maintenance
    wishes.hear(wish(3), in_full=True)
    assert (wishes.maintenance, wishes.comment, wishes.maintained_by) == (False, "", "")


def test_of_host_and_centre_the_later_one_counts() -> None:
    wishes = Wishes(8, None)
    wishes.hear(wish(1, maintenance=True, comment="audit"), in_full=True)
    # The host ends what the centre has begun, at once.
    first = wishes.next_request(maintenance=False, comment="")
    wishes.ask(first)
    assert (first.asked.number, wishes.maintenance) == (1, False)
    # A wish from before the centre has heard of that changes nothing.
    wishes.hear(wish(2, maintenance=True, comment="audit", concurrency=3), in_full=True)
    assert (wishes.maintenance, wishes.concurrency) == (False, 3)
    # It has heard, and an operator wishes again.
    wishes.hear(wish(4, maintenance=True, comment="audit", asked=1), in_full=True)
    assert (wishes.maintenance, wishes.maintained_by) == (True, CENTRE)
    # And the host once more.
    second = wishes.next_request(maintenance=True, comment="new disk")
    wishes.ask(second)
    assert (second.asked.number, wishes.comment, wishes.maintained_by) == (2, "new disk", HOST)
    # Taken in by the centre it is still the host's.
    wishes.hear(wish(5, maintenance=True, comment="new disk", asked=2), in_full=True)
    assert (wishes.comment, wishes.maintained_by) == ("new disk", HOST)
    wishes.hear(wish(6, asked=2), in_full=True)
    assert not wishes.maintenance


def test_a_request_is_kept_across_restarts_and_old_gateways() -> None:
    wishes = Wishes(8, None, request(7))
    assert (wishes.maintenance, wishes.comment) == (True, "new disk")
    # An old gateway has never heard of requests.
    wishes.hear(wish(3), in_full=False)
    assert wishes.maintenance
    assert wishes.asked == request(7).asked
    wishes.hear(wish(3, maintenance=True, comment="new disk", asked=7), in_full=True)
    assert (wishes.maintenance, wishes.maintained_by) == (True, HOST)


def test_a_request_that_was_taken_in_leaves_nothing_but_its_number() -> None:
    wishes = Wishes(8, None, request(7))
    wishes.hear(wish(3, maintenance=True, comment="new disk", asked=7), in_full=True)
    assert (wishes.request, wishes.asked) == (request(7, settled=True), None)
    # The centre may have ended it since, so it is not in force in the next life.
    wishes = Wishes(8, None, wishes.request)
    assert (wishes.maintenance, wishes.comment, wishes.asked, wishes.takes_new) == (False, "", None, True)
    assert wishes.next_request(maintenance=True, comment="x").asked.number == 8
    # Nor when the centre has counted another host's requests meanwhile.
    wishes.hear(wish(5, asked=0), in_full=True)
    assert (wishes.maintenance, wishes.asked) == (False, None)
    # But what the centre repeats is still known to be this host's.
    wishes.hear(wish(6, maintenance=True, comment="new disk", asked=7), in_full=True)
    assert (wishes.maintenance, wishes.maintained_by) == (True, HOST)


def test_an_old_gateway_takes_nothing_back_that_it_does_not_know() -> None:
    wishes = Wishes(8, None, request(1, maintenance=False))
    wishes.hear(wish(2, maintenance=True, comment="audit", asked=1), in_full=True)
    wishes.hear(wish(3, concurrency=2), in_full=False)
    assert (wishes.maintenance, wishes.comment, wishes.concurrency) == (True, "audit", 2)
    assert wishes.applied().revision == 3


def test_a_directory_that_forgot_its_requests_counts_on_from_the_wish() -> None:
    wishes = Wishes(8, None)
    wishes.hear(wish(2, asked=41), in_full=True)
    assert wishes.next_request(maintenance=True, comment="x").asked.number == 42


def test_leaving_is_never_taken_back() -> None:
    wishes = Wishes(8, None)
    wishes.hear(wish(2, shutdown=True), in_full=True)
    assert (wishes.leaving, wishes.takes_new) == ("an operator's wish", False)
    wishes.leave("SIGTERM")
    wishes.hear(wish(3), in_full=True)
    assert wishes.leaving == "an operator's wish"
    assert wishes.applied().leaving
