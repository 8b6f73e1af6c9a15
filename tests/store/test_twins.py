"""Two daemons of one site, and settings by which the same silence means different things."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from edge_ws.errors import RefusedError
from edge_ws.protocol.ids import GatewayId, HostId, LifeId, SiteId, WorkerName, new_id
from edge_ws.store.records import RETURNS, Principal, Registered, Registration
from edge_ws.store.store import Store
from edge_ws.store.tables import gateway, worker
from tests.support.gateway import inventory

NAME = WorkerName("w1")


class Site:
    """One state directory, or two copies of it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.said = Registration(
            gateway=GatewayId(new_id()),
            transport="websocket",
            concurrency=1,
            queues=("q",),
            inventory=inventory(HostId(new_id()), site=SiteId(new_id())),
            sysinfo={},
        )

    def connects(self, life: str, host: str, **more: float) -> Registered:
        said = replace(self.said, life=LifeId(life), sysinfo={"hostname": host, "pid": 7}, **more)  # type: ignore[arg-type]
        return self.store.workers.register(Principal(worker=NAME, queues=None, team=None), said)


@pytest.fixture
def site(store: Store) -> Site:
    return Site(store)


def test_two_daemons_that_take_turns_are_told_of_each_other(site: Site) -> None:
    assert site.connects("a", "box-a").twin is None
    assert site.connects("b", "box-b").twin is None, "it may be a restart"
    assert site.connects("a", "box-a").twin is None, "it may be a message that came late"
    assert site.connects("b", "box-b").twin == "box-a, process 7"
    for _ in range(2):
        with pytest.raises(
            RefusedError, match=r"a copy of it, at the same time \(box-b, process 7\)"
        ) as caught:
            site.connects("a", "box-a")
    assert caught.value.code == "name_in_use"
    assert site.connects("b", "box-b").connection, "who has the name keeps it"


def test_of_many_copies_of_one_image_one_keeps_the_name(site: Site) -> None:
    copies = [f"box-{number}" for number in range(5)]
    told = [site.connects(copy, copy).twin for copy in (*copies, *copies[:2])]
    assert told == [None] * 6 + ["box-0, process 7"]
    for copy in (*copies[2:], *copies[2:], copies[0]):
        with pytest.raises(RefusedError, match=r"a copy of it, at the same time \(box-1, process 7\)"):
            site.connects(copy, copy)
    assert site.connects(copies[1], copies[1]).connection


def test_restarts_are_no_twins(site: Site) -> None:
    for number in range(3 * RETURNS):
        assert site.connects(f"life-{number}", "box").twin is None
        assert site.connects(f"life-{number}", "box").twin is None


def test_a_twin_whose_other_has_gone_is_let_in(site: Site, sqlite_engine: sa.Engine) -> None:
    for life in ("a", "b", "a", "b"):
        site.connects(life, f"box-{life}")
    with site.store._database.write() as connection:
        connection.execute(worker.update().values(seen_at=worker.c.seen_at - 46))
    assert site.connects("a", "box-a").twin is None


@pytest.mark.parametrize(
    ("heartbeat_s", "silent_s", "is_here"), [(15, 50, False), (60, 50, True), (60, 190, False)]
)
def test_silence_is_measured_by_the_gateways_own_heartbeat(
    site: Site, heartbeat_s: float, silent_s: float, is_here: bool
) -> None:
    store = site.store
    site.connects("a", "box", heartbeat_s=heartbeat_s)
    store.liveness.announce(GatewayId("g"), "api-1", 7, heartbeat_s)
    with store._database.write() as connection:
        connection.execute(worker.update().values(seen_at=worker.c.seen_at - silent_s))
        connection.execute(gateway.update().values(seen_at=gateway.c.seen_at - silent_s))
    assert [one.is_alive for one in store.views.gateways()] == [is_here]
    store.liveness.mark_silent()
    assert (store.views.workers()[0].state == "unknown") is not is_here
    other = replace(site.said, inventory=inventory(HostId(new_id()), site=SiteId(new_id())))
    if is_here:
        with pytest.raises(RefusedError, match="in use by a connected worker"):
            store.workers.register(Principal(worker=NAME, queues=None, team=None), other)
    else:
        store.workers.register(Principal(worker=NAME, queues=None, team=None), other)
