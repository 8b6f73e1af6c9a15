"""What operators wish reaches a connected worker at once, and nothing that it does not admit is offered after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Accept, Applied, Asked, Bye, Go, Offer, Stale, Status, Welcome, Wish
from edge_ws.protocol.ids import CONTROL, OUTCOMES, RENEWAL, HostId, LifeId
from edge_ws.server.hub import REPEAT_S, Hub, Link
from edge_ws.store.records import WishRecord
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker
from tests.support.gateway import Peer, RunningGateway, connected, inventory, make_token
from tests.support.rows import enqueue, job_row, new_job
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


def state(store: Store) -> str:
    (found,) = store.views.workers()
    return found.state


async def apply(peer: Peer, wish: Wish) -> None:
    """Do as a worker that carries out everything."""
    maintenance = wish.maintenance
    slots = 4 if wish.concurrency is None else wish.concurrency
    queues = wish.queues or ("q",)
    peer.inventory = replace(
        peer.inventory,
        revision=wish.revision,
        concurrency=slots,
        queues=queues,
        maintenance=maintenance,
        leaving=wish.shutdown,
        draining=maintenance or wish.shutdown,
    )
    await peer.send(Status(inventory=peer.inventory))
    await peer.send(
        Applied(
            revision=wish.revision,
            concurrency=slots,
            queues=queues,
            maintenance=maintenance,
            leaving=wish.shutdown,
        )
    )


async def greeted(peer: Peer) -> Peer:
    """Say hello as a worker of this release."""
    await peer.hello(capabilities=(CONTROL,), life=LifeId("life"))
    peer.welcome = await peer.expect(Welcome)
    return peer


async def no_offer(peer: Peer) -> None:
    with pytest.raises(TimeoutError):
        await peer.expect(Offer, within_s=0.3)


async def test_maintenance_keeps_jobs_away_until_it_ends(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store), greet=False) as peer:
        await greeted(peer)
        store.operators.request_maintenance("w1", "new disk")
        wish = await peer.expect(Wish)
        assert (wish.maintenance, wish.comment) == (True, "new disk")
        enqueue(engine, new_job())
        await no_offer(peer)
        await apply(peer, wish)
        await until(lambda: state(store) == "maintenance mode")
        await no_offer(peer)
        store.operators.exit_maintenance("w1")
        await apply(peer, await peer.expect(Wish))
        await peer.expect(Offer)
        await until(lambda: state(store) in {"idle", "running"})


async def test_a_release_without_control_is_given_no_jobs(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store)) as peer:
        store.operators.request_maintenance("w1", "why")
        wish = await peer.expect(Wish)
        enqueue(engine, new_job())
        await peer.send(Applied(revision=wish.revision, concurrency=4, queues=("q",)))
        await until(lambda: state(store) == "maintenance mode")
        await no_offer(peer)
        store.operators.exit_maintenance("w1")
        wish = await peer.expect(Wish)
        await peer.send(Applied(revision=wish.revision, concurrency=4, queues=("q",)))
        await peer.expect(Offer)


async def test_a_shutdown_is_told_and_ends_with_the_goodbye(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store), greet=False) as peer:
        await greeted(peer)
        with engine.begin() as connection:
            connection.execute(edge_worker.update().values(state="shutdown request"))
        wish = await peer.expect(Wish)
        assert wish.shutdown
        enqueue(engine, new_job())
        await no_offer(peer)
        await apply(peer, wish)
        await until(lambda: store.operators.applied("w1") == wish.revision)
        assert state(store) == "shutdown request"
        await peer.send(Bye(reason="drained"))
        await until(lambda: state(store) == "offline")


async def test_offers_on_their_way_are_taken_back_with_the_wish(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    """Those beyond the new number of slots; what is accepted goes on, and an acceptance that comes late is stale."""
    async with connected(gateway, make_token(store), greet=False) as peer:
        await greeted(peer)
        enqueue(engine, *(new_job(f"t{number}") for number in range(4)))
        offers = [await peer.expect(Offer) for _ in range(4)]
        await peer.send(Accept(claim=offers[0].claim, host=peer.host))
        await peer.expect(Go)
        store.operators.wish_concurrency("w1", 1)
        stale = {(await peer.expect(Stale)).claim for _ in range(3)}
        assert stale == {offer.claim for offer in offers[1:]}
        wish = await peer.expect(Wish)
        await peer.send(Accept(claim=offers[1].claim, host=peer.host))
        assert (await peer.expect(Stale)).claim == offers[1].claim
        # Not even before it is acknowledged is more offered than it admits.
        await no_offer(peer)
        await apply(peer, wish)
        await no_offer(peer)
        store.operators.wish_concurrency("w1", 3)
        await apply(peer, await peer.expect(Wish))
        assert len({(await peer.expect(Offer)).claim for _ in range(2)}) == 2
        await no_offer(peer)


async def test_a_removed_queue_frees_its_offers_at_once(
    engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    token = make_token(store)
    async with (
        connected(gateway, token, greet=False, queues=("q", "r")) as peer,
        connected(gateway, token, "w2", greet=False, queues=("r",), concurrency=1) as other,
    ):
        await greeted(peer)
        enqueue(engine, new_job("of q", queue="q"))
        offer = await peer.expect(Offer)
        store.operators.remove_queues("w1", ["q"])
        assert (await peer.expect(Stale)).claim == offer.claim
        assert (await peer.expect(Wish)).queues == ("r",)
        await greeted(other)
        store.operators.add_queues("w2", ["q"])
        wish = await other.expect(Wish)
        await other.send(Applied(revision=wish.revision, concurrency=1, queues=wish.queues))
        await other.expect(Offer)
        assert job_row(engine, new_job("of q").key).edge_worker == "w2"


async def test_what_a_heartbeat_says_is_in_force_counts_too(store: Store, gateway: RunningGateway) -> None:
    """Its acknowledgement came while the database was away."""
    async with connected(gateway, make_token(store), greet=False) as peer:
        await greeted(peer)
        store.operators.request_maintenance("w1", "why")
        wish = await peer.expect(Wish)
        peer.inventory = replace(peer.inventory, revision=wish.revision, maintenance=True, draining=True)
        await peer.send(Status(inventory=peer.inventory))
        await until(lambda: store.operators.applied("w1") == wish.revision)
        assert state(store) == "maintenance mode"


@pytest.mark.parametrize("request_", ["maintenance exit", "maintenance request"])
async def test_a_request_for_what_is_so_already_does_not_stand_for_ever(
    engine: sa.Engine, store: Store, gateway: RunningGateway, request_: str
) -> None:
    """edge3's CLI writes it whatever the state is."""
    async with connected(gateway, make_token(store), greet=False) as peer:
        await greeted(peer)
        after = "idle"
        if request_ == "maintenance request":
            store.operators.request_maintenance("w1", "why")
            await apply(peer, await peer.expect(Wish))
            after = "maintenance mode"
            await until(lambda: state(store) == after)
            await anyio.sleep(REPEAT_S)
        with engine.begin() as connection:
            connection.execute(edge_worker.update().values(state=request_))
        await apply(peer, await peer.expect(Wish))
        await until(lambda: state(store) == after)


async def test_who_states_an_older_wish_is_told_the_newer_one_again(
    store: Store, gateway: RunningGateway
) -> None:
    async with connected(gateway, make_token(store), greet=False) as peer:
        await greeted(peer)
        store.operators.wish_concurrency("w1", 2)
        assert (await peer.expect(Wish)).revision == 1
        await anyio.sleep(REPEAT_S)
        await peer.send(Status(inventory=peer.inventory))
        assert (await peer.expect(Wish)).revision == 1


async def test_the_host_asks_over_its_connection(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store), greet=False) as peer:
        await greeted(peer)
        asked = Asked(number=1, maintenance=True, comment="rust")
        peer.inventory = replace(peer.inventory, maintenance=True, draining=True, asked=asked)
        await peer.send(Status(inventory=peer.inventory))
        wish = await peer.expect(Wish)
        assert (wish.maintenance, wish.comment, wish.asked) == (True, "rust", 1)
        # Who does not say that it is in force is told again.
        await apply(peer, wish)
        await until(lambda: state(store) == "maintenance mode")
        peer.inventory = replace(
            peer.inventory, maintenance=False, draining=False, asked=Asked(number=2, maintenance=False)
        )
        await peer.send(Status(inventory=peer.inventory))
        wish = await peer.expect(Wish)
        assert (wish.maintenance, wish.asked) == (False, 2)
        await apply(peer, wish)
        await until(lambda: state(store) == "idle")


async def test_a_goodbye_in_maintenance_is_remembered(store: Store, gateway: RunningGateway) -> None:
    token = make_token(store)
    async with connected(gateway, token, greet=False) as peer:
        await greeted(peer)
        store.operators.request_maintenance("w1", "why")
        await apply(peer, await peer.expect(Wish))
        await peer.send(Bye(reason="drained", maintenance=True))
        await until(lambda: state(store) == "offline maintenance")
    async with connected(gateway, token) as peer:
        assert peer.welcome is not None
        assert peer.welcome.wish.maintenance
        assert peer.welcome.capabilities == (CONTROL, OUTCOMES, RENEWAL)


# The hub alone


@pytest.fixture
def anybody() -> Callable[..., Link]:
    def make(concurrency: int, queues: tuple[str, ...] | None) -> Link:
        from edge_ws.protocol.session import ServerSession
        from edge_ws.store.records import Principal

        link = Link(Principal(worker="w1"), ServerSession(0.0), "websocket")
        link.inventory = inventory(HostId("h"), concurrency=concurrency, queues=queues)
        link.local = concurrency, queues
        link.apply(concurrency, queues)
        return link

    return make


@pytest.mark.parametrize(
    ("local", "wish", "slots", "queues"),
    [
        ((4, ("q",)), (None, None), 4, ("q",)),
        ((4, ("q",)), (2, None), 2, ("q",)),
        ((4, ("q",)), (9, ("q", "r")), 4, ("q",)),
        ((4, ("q", "r")), (0, ("r", "s")), 0, ("r",)),
        ((4, None), (None, ("r",)), 4, ("r",)),
        ((4, None), (1, None), 1, None),
    ],
)
def test_until_it_is_acknowledged_the_narrower_counts(
    anybody: Callable[..., Link],
    local: tuple[int, tuple[str, ...] | None],
    wish: tuple[int | None, tuple[str, ...] | None],
    slots: int,
    queues: tuple[str, ...] | None,
) -> None:
    hub = Hub(lambda: None, lambda _: None)
    link = anybody(*local)
    hub.add(link)
    hub.wished(link, WishRecord(revision=1, concurrency=wish[0], queues=wish[1]))
    assert (link.concurrency, link.queues) == (slots, queues)
    assert hub.served() == (None if queues is None else list(queues))
