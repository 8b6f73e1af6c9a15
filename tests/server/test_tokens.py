"""A credential's life at a real gateway: what ends or narrows it acts on open connections at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.protocol import codec
from edge_ws.protocol.frames import Applied, Bye, Offer, Refused, Welcome
from edge_ws.protocol.ids import new_id
from edge_ws.server.config import GatewaySettings
from edge_ws.server.standing import SYSINFO_BYTES
from edge_ws.store.store import Store
from edge_ws.store.watch import Changes, ChangeWatch
from tests.server.test_longpoll import Poller
from tests.support.gateway import connected, make_token, serving
from tests.support.rows import enqueue, new_job

pytestmark = pytest.mark.anyio
RARELY = GatewaySettings(hostname="test", backup_scan_s=600.0)
"""What acts within a test acts by itself."""


class DeafStore(Store):
    """One whose database tells of nothing."""

    def watch(self, on_change: Callable[[Changes], None]) -> ChangeWatch:
        return ChangeWatch(on_change)


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


async def test_a_token_that_expires_closes_its_connection_by_itself(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    with serving(store, RARELY) as gateway:
        token = make_token(store, expires_in_s=2.0)
        async with connected(gateway, token) as peer:
            refused = await peer.expect(Refused, within_s=10)
            (record,) = store.tokens.all_tokens()
            assert record.expires_at is not None
            assert store.views.clock() >= record.expires_at
            assert (refused.code.value, "expired" in refused.sentence) == ("token", True)


@pytest.mark.parametrize("kind", [Store, DeafStore])
async def test_a_token_that_is_revoked_ends_every_way_in(
    sqlite_engine: sa.Engine, client: httpx2.AsyncClient, kind: type[Store]
) -> None:
    store = Store(sqlite_engine)
    with serving(kind(sqlite_engine), RARELY) as one, serving(kind(sqlite_engine), RARELY) as two:
        token = make_token(store)
        poller = Poller(one, token, client, name="w2")
        await poller.poll()
        async with connected(one, token) as peer, connected(one, token, "w3", greet=False) as slow:
            async with poller.holding() as said:
                store.tokens.revoke_token("test")
            assert any(
                isinstance(frame, Refused) for frame in codec.decode_batch_from_server(said[0].content)
            )
            assert (await peer.expect(Refused)).code.value == "token"
            await slow.hello()
            assert (await slow.expect(Refused)).code.value == "token"
        for gateway in (one, two):
            poller.to = gateway
            answer = await poller.post("send", [Applied(revision=0, concurrency=4, queues=("q",))])
            assert (answer.status_code, answer.headers["edge-ws-error"]) == (401, "token")


async def test_a_token_that_is_narrowed_gives_no_more_of_what_it_lost(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    with serving(store, RARELY) as gateway:
        token = make_token(store)
        async with connected(gateway, token, queues=("q", "r")) as peer:
            async with connected(gateway, token, "w2", greet=False) as blue:
                await blue.hello(team="blue")
                await blue.expect(Welcome)
                store.tokens.narrow_token("test", queues=["q", "s"], team="red")
                assert (await blue.expect(Refused)).code.value == "not_admitted"
            for queue, team in (("r", "red"), ("q", None), ("q", "red")):
                enqueue(sqlite_engine, replace(new_job(f"{queue}-{team}"), queue=queue, team=team))
            assert "q-red" in (await peer.expect(Offer)).payload
            assert not any(isinstance(frame, Offer) for frame in peer.received)


async def test_both_secrets_of_a_rotated_token_are_good_for_the_overlap(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    with serving(store, RARELY) as gateway:
        old = make_token(store)
        async with connected(gateway, old) as peer:
            new = store.tokens.rotate_token("test", 600.0)
            async with connected(gateway, new, "w2"):
                (record,) = store.tokens.all_tokens()
                by = {use.worker: use.secret_hash == record.secret_hash for use in store.tokens.token_uses()}
                assert by == {"w1": False, "w2": True}
                assert {use.address for use in store.tokens.token_uses()} == {"127.0.0.1"}
            newest = store.tokens.rotate_token("test", 2.0)
            # Two are good at a time.
            assert (await peer.expect(Refused)).code.value == "token"
        async with connected(gateway, new, "w3") as peer, connected(gateway, newest, "w4") as other:
            assert (await peer.expect(Refused, within_s=10)).code.value == "token"
            enqueue(sqlite_engine, new_job())
            await other.expect(Offer)
        assert store.tokens.find_token(old) is None


async def test_a_stranger_does_not_learn_who_is_connected(
    sqlite_engine: sa.Engine, client: httpx2.AsyncClient
) -> None:
    store = Store(sqlite_engine)
    with serving(store, RARELY) as gateway:
        token = make_token(store)
        polled = Poller(gateway, token, client, name="w2")
        await polled.poll()
        async with connected(gateway, token):
            answers = set()
            for name in ("w1", "w2", "nobody"):
                for marks in ({}, {"edge-ws-connection": new_id()}):
                    stranger = Poller(gateway, "edgews_wrong", client, name=name, marks=marks)
                    answer = await stranger.post("poll", [stranger.hello()])
                    answers.add((answer.status_code, answer.content, tuple(sorted(answer.headers.keys()))))
            assert len(answers) == 1, answers


async def test_a_token_makes_no_more_rows_than_it_admits_nor_large_ones(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    with serving(store, RARELY) as gateway:
        token = make_token(store, max_workers=2)
        large = {"hostname": "here", **{f"k{number}": "x" * 3000 for number in range(300)}}
        for name in ("w1", "w2", "w3", "w1"):
            async with connected(gateway, token, name, greet=False) as peer:
                await peer.hello(sysinfo=large)
                if name == "w3":
                    refused = await peer.expect(Refused)
                    assert (refused.code.value, "2 workers" in refused.sentence) == ("not_admitted", True)
                else:
                    await peer.expect(Welcome)
                    await peer.send(Bye(reason=""))
                    await peer.connection.wait_closed()
        found = store.views.workers()
        assert [one.name for one in found] == ["w1", "w2"]
        for one in found:
            assert one.sysinfo["hostname"] == "here"
            assert len(str(one.sysinfo)) < SYSINFO_BYTES + 1000
