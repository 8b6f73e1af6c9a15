"""A worker's credential at a real gateway: by a provider's JWT, renewed on the open connection, and at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed, InvalidStatus

from edge_ws.protocol import codec
from edge_ws.protocol.frames import Offer, Refused, Renew, Renewed, Welcome
from edge_ws.protocol.ids import RENEWAL
from edge_ws.provider.identities import JwtIdentities
from edge_ws.server import credentials
from edge_ws.store.store import Store
from edge_ws.store.tables import worker
from tests.server.test_longpoll import Poller
from tests.support.gateway import Peer, RunningGateway, connected, make_token, serving
from tests.support.identity_provider import Provider, providing, rsa_key, settings
from tests.support.rows import enqueue, new_job
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with providing() as provider:
        yield provider


@pytest.fixture
def gateway(store: Store, provider: Provider) -> Iterator[RunningGateway]:
    limits = {"queues_claim": "edge_queues", "team_claim": ""}
    with serving(store, identities=JwtIdentities(settings(provider.url, **limits))) as gateway:
        wait_until(lambda: provider.asked)
        wait_until(lambda: _status(gateway, _jwt(provider)) == 200)
        yield gateway


def _jwt(provider: Provider, name: str = "w1", queues: str = "q", **more: Any) -> str:
    return provider.sign(name, edge_queues=queues, **more)


def _ask(gateway: RunningGateway, token: str, name: str = "w1") -> httpx2.Response:
    headers = {"edge-ws-token": token, "edge-ws-worker": name}
    return httpx2.get(f"{gateway.base_url}/edge-ws/v1/whoami", headers=headers)


def _status(gateway: RunningGateway, token: str, name: str = "w1") -> int:
    return _ask(gateway, token, name).status_code


async def _renew(peer: Peer, token: str) -> Renewed:
    await peer.send(Renew(token=token))
    return await peer.expect(Renewed)


async def _closed(peer: Peer) -> tuple[int, Refused]:
    """Wait for the end of a connection whose credential is over."""
    refused = await peer.expect(Refused)
    with pytest.raises(ConnectionClosed) as caught:
        await peer.expect(Welcome)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, refused


async def test_a_jwt_is_a_workers_credential(
    sqlite_engine: sa.Engine, gateway: RunningGateway, provider: Provider
) -> None:
    async with connected(gateway, _jwt(provider, kid="e")) as peer:
        assert peer.welcome is not None
        assert RENEWAL in peer.welcome.capabilities
        assert 500 < (peer.welcome.token_expires_in_s or 0) <= 600
        enqueue(sqlite_engine, new_job())
        await peer.expect(Offer)


async def test_tokens_stay_good(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store)) as peer:
        assert peer.welcome is not None
        assert peer.welcome.token_expires_in_s is None


async def test_who_is_let_in(gateway: RunningGateway, provider: Provider) -> None:
    good = _jwt(provider)
    head, claims, signature = good.split(".")
    wrong = {
        "another's name": (good, "w2"),
        "no signature": (f"{head}.{claims}.", "w1"),
        "another's key": (_jwt(provider, key=rsa_key("attacker")), "w1"),
        "swapped claims": (f"{head}.{_jwt(provider, queues='z').split('.')[1]}.{signature}", "w1"),
        "expired": (_jwt(provider, life_s=-1), "w1"),
        "no queues": (provider.sign(), "w1"),
        "a list for an algorithm": (
            _jwt(provider, key=rsa_key("r"), headers={"x": ["y"]})[:-3] + "AAA",
            "w1",
        ),
    }
    for what, (token, name) in wrong.items():
        answer = _ask(gateway, token, name)
        assert (answer.status_code, answer.headers["edge-ws-error"]) == (401, "token"), what
        with pytest.raises(InvalidStatus) as caught:
            async with connected(gateway, token, name):
                pass
        assert caught.value.response.status_code == 401, what
    async with httpx2.AsyncClient() as client:
        poller = Poller(gateway, good, client, name="w2")
        assert (await poller.post("poll", [poller.hello()])).status_code == 401
        assert (await poller.post("send", [])).status_code == 401
    assert _status(gateway, good) == 200


async def test_queues_beyond_the_claims_are_not_admitted(gateway: RunningGateway, provider: Provider) -> None:
    async with connected(gateway, _jwt(provider, queues="other"), greet=False) as peer:
        await peer.hello()
        assert (await peer.expect(Refused)).code.value == "not_admitted"


async def test_a_flood_of_unknown_keys_asks_the_provider_hardly_ever(
    monkeypatch: pytest.MonkeyPatch, gateway: RunningGateway, provider: Provider
) -> None:
    monkeypatch.setattr("edge_ws.server.entrance.LONGEST_DELAY_S", 0.0)
    asked, begun = provider.asked, time.monotonic()
    flood = [_jwt(provider, headers={"kid": f"k{number}"}, kid="e") for number in range(200)]
    async with httpx2.AsyncClient() as client:
        for token in flood:
            headers = {"edge-ws-token": token, "edge-ws-worker": "w1"}
            answer = await client.get(f"{gateway.base_url}/edge-ws/v1/whoami", headers=headers)
            assert answer.status_code in {401, 503}
    allowed = 1 + (time.monotonic() - begun) / 10
    assert provider.asked - asked <= allowed
    # Nor does it keep others out.
    assert _status(gateway, _jwt(provider)) == 200


async def test_a_provider_that_is_away_keeps_nobody_else_out(store: Store) -> None:
    identities = JwtIdentities(settings("http://127.0.0.1:9/keys"))
    provider = Provider()
    with serving(store, identities=identities) as gateway:
        answer = _ask(gateway, provider.sign())
        assert (answer.status_code, answer.headers["edge-ws-error"]) == (503, "unavailable")
        assert answer.json()["retry_after_s"] in {1.0, 10.0}
        assert _status(gateway, make_token(store)) == 200


# Renewal


async def test_a_connection_goes_on_by_another_jwt(
    sqlite_engine: sa.Engine, gateway: RunningGateway, provider: Provider
) -> None:
    async with connected(gateway, _jwt(provider, life_s=4.0)) as peer:
        renewed = await _renew(peer, _jwt(provider, kid="e"))
        assert renewed.refusal is None
        assert (renewed.expires_in_s or 0) > 500
        # Past the end of the first one, which would have ended the connection.
        await anyio.sleep(4.5)
        enqueue(sqlite_engine, new_job())
        await peer.expect(Offer)


async def test_what_is_no_better_changes_nothing(gateway: RunningGateway, provider: Provider) -> None:
    async with connected(gateway, _jwt(provider)) as peer:
        for token in ("", "x", _jwt(provider, "w2"), _jwt(provider, life_s=-1), "a.b.c"):
            peer_told = await _renew(peer, token)
            assert peer_told.refusal
            assert (peer_told.expires_in_s or 0) > 500
        assert (await _renew(peer, _jwt(provider))).refusal is None


async def test_renewals_take_turns(gateway: RunningGateway, provider: Provider) -> None:
    async with connected(gateway, _jwt(provider)) as peer:
        begun = time.monotonic()
        for _ in range(4):
            await peer.send(Renew(token="x"))
        for _ in range(4):
            await peer.expect(Renewed)
        assert time.monotonic() - begun >= 3 * credentials.RENEW_PAUSE_S - 0.1


async def test_offers_are_as_the_new_jwt_admits(
    sqlite_engine: sa.Engine, gateway: RunningGateway, provider: Provider
) -> None:
    async with connected(gateway, _jwt(provider, queues="q,r"), queues=("q", "r")) as peer:
        assert (await _renew(peer, _jwt(provider, queues="r"))).refusal is None
        enqueue(sqlite_engine, new_job("first", queue="q"))
        enqueue(sqlite_engine, new_job("second", queue="r"))
        assert "second.log" in (await peer.expect(Offer)).payload
        with pytest.raises(TimeoutError):
            await peer.expect(Offer, within_s=1.0)


async def test_a_token_that_replaces_another_may_then_be_revoked(
    sqlite_engine: sa.Engine, store: Store, gateway: RunningGateway
) -> None:
    more: dict[str, Any] = {"worker_pattern": "w1", "queues": None, "team": None, "expires_in_s": None}
    first, second = store.tokens.create_token("old", **more), store.tokens.create_token("new", **more)
    async with connected(gateway, first) as peer:
        assert (await _renew(peer, second)).refusal is None
        names = {one.id: one.name for one in store.tokens.all_tokens()}
        with sqlite_engine.connect() as connection:
            assert names[connection.scalar(sa.select(worker.c.token_id))] == "new"
        store.tokens.revoke_token("old")
        enqueue(sqlite_engine, new_job())
        await peer.expect(Offer)
        store.tokens.revoke_token("new")
        assert (await _closed(peer))[0] == 4500


async def test_another_team_is_another_connection(store: Store, gateway: RunningGateway) -> None:
    async with connected(gateway, make_token(store, team="red")) as peer:
        assert "team blue" in ((await _renew(peer, make_token(store, team="blue"))).refusal or "")
        assert (await _renew(peer, make_token(store))).refusal is None


async def test_polls_go_on_by_another_jwt(gateway: RunningGateway, provider: Provider) -> None:
    async with httpx2.AsyncClient(timeout=15) as client:
        poller = Poller(gateway, _jwt(provider, life_s=4.0), client)
        await poller.poll()
        connection = poller.marks["edge-ws-connection"]
        new = _jwt(provider)
        answer = await poller.post("send", [Renew(token=new)])
        (renewed,) = codec.decode_batch_from_server(answer.content)
        assert isinstance(renewed, Renewed)
        assert renewed.refusal is None
        # As above.
        await anyio.sleep(4.5)
        poller.token = new
        await poller.poll(hold_s=0.1)
        assert poller.marks["edge-ws-connection"] == connection


# The end


@pytest.mark.parametrize("kind", ["jwt", "token"])
async def test_an_expired_credential_ends_its_connection(
    store: Store, gateway: RunningGateway, provider: Provider, kind: str
) -> None:
    life_s = 3.0
    ends_at = time.time() + life_s
    token = (
        _jwt(provider, exp=ends_at)
        if kind == "jwt"
        else make_token(store, expires_in_s=ends_at - time.time())
    )
    async with connected(gateway, token) as peer:
        code, refused = await _closed(peer)
        late_s = time.time() - ends_at
        assert (code, refused.code.value) == (4500, "token")
        assert -1.0 <= late_s < 1.0
    assert _status(gateway, token) == 401


async def test_an_expired_jwt_ends_an_open_poll(gateway: RunningGateway, provider: Provider) -> None:
    ends_at = time.time() + 3.0
    async with httpx2.AsyncClient(timeout=15) as client:
        poller = Poller(gateway, _jwt(provider, exp=ends_at), client)
        await poller.poll()
        answer = await poller.post("poll", [poller.hello()], **{"edge-ws-hold": "10"})
        assert -1.0 <= time.time() - ends_at < 1.0
        assert answer.headers["edge-ws-close"].startswith("4500")
        assert any(isinstance(one, Refused) for one in codec.decode_batch_from_server(answer.content))
        assert (await poller.post("send", [])).status_code == 401
