"""A real `edge-ws worker` with a provider's JWT: it renews in time, over the open connection, whichever way."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ws.provider.identities import JwtIdentities
from edge_ws.server.token_watch import PAUSE_S
from tests.support.gateway import make_token
from tests.support.identity_provider import Provider, providing, settings
from tests.support.stand import Stand

each_way = pytest.mark.parametrize("way", ["websocket", "longpoll"])
LIFE_S = 12.0


@pytest.fixture
def provider() -> Iterator[Provider]:
    with providing() as provider:
        yield provider


@pytest.fixture
def trusting(stand: Stand, provider: Provider) -> Stand:
    stand.identities = JwtIdentities(settings(provider.url))
    stand.identities.refresh()
    return stand


def _write(file: Path, token: str) -> None:
    """As secrets come on disks: complete, in one go."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(token)
    new.replace(file)


def _connections(stand: Stand) -> int:
    return len(re.findall(r"\bconnected: w1 ", stand.told))


@each_way
def test_a_new_jwt_in_the_file_is_shown_over_the_open_connection(
    trusting: Stand, provider: Provider, way: str
) -> None:
    file = trusting.site.folder / "token"
    ends_at = time.time() + LIFE_S
    _write(file, provider.sign(exp=ends_at, kid="e"))
    with trusting.gateway():
        trusting.start("--transport", way)
        trusting.until(lambda: _connections(trusting) == 1)
        new = provider.sign(kid="e")
        _write(file, new)
        trusting.until(lambda: "the new token is in force" in trusting.told)
        assert time.time() < ends_at, "the machine is too slow for this test"
        trusting.until(lambda: time.time() > ends_at + 1.0)
        assert trusting.condition()["connection"]["connected"]
        assert (_connections(trusting), new in trusting.told) == (1, False)


def test_a_command_is_asked_before_the_jwt_expires(trusting: Stand, provider: Provider) -> None:
    folder = trusting.site.folder
    store, runs = folder / "jwts", folder / "runs"
    program = folder / "jwt.py"
    # Each run gives the next one.
    program.write_text(
        f"import pathlib\nruns = pathlib.Path({str(runs)!r})\n"
        "n = len(runs.read_text()) if runs.exists() else 0\nruns.write_text('x' * (n + 1))\n"
        f"print(pathlib.Path({str(store)!r}, str(n)).read_text())\n"
    )
    store.mkdir()
    ends_at = time.time() + LIFE_S
    lives = [ends_at, *(time.time() + 600.0 for _ in range(9))]
    for number, at in enumerate(lives):
        (store / str(number)).write_text(provider.sign(exp=at, kid="e", jti=str(number)))
    words = ("--token-command", f"{sys.executable} -S {program}")
    with trusting.gateway():
        trusting.start(*words)
        trusting.until(lambda: _connections(trusting) == 1)
        trusting.until(lambda: "the new token is in force" in trusting.told)
        assert time.time() < ends_at, "the machine is too slow for this test"
        trusting.until(lambda: time.time() > ends_at + 1.0)
        assert (_connections(trusting), runs.read_text()) == (1, "xx")
        assert trusting.condition()["connection"]["connected"]


def test_without_another_jwt_the_worker_is_sent_away_and_comes_back_by_the_next_one(
    trusting: Stand, provider: Provider
) -> None:
    file = trusting.site.folder / "token"
    _write(file, provider.sign(life_s=LIFE_S, kid="e"))
    with trusting.gateway():
        trusting.start()
        trusting.until(lambda: _connections(trusting) == 1)
        trusting.until(lambda: "token refused by" in trusting.told)
        _write(file, provider.sign(kid="e"))
        trusting.until(lambda: _connections(trusting) == 2)


def test_a_token_of_ours_is_renewed_the_same_way(stand: Stand) -> None:
    store, file = stand.store, stand.site.folder / "token"
    _write(
        file, store.tokens.create_token("old", worker_pattern="w1", queues=None, team=None, expires_in_s=None)
    )
    with stand.gateway():
        stand.start()
        stand.until(lambda: _connections(stand) == 1)
        _write(file, "nonsense")
        stand.until(lambda: "the gateway refuses it" in stand.told)
        _write(file, make_token(store))
        stand.until(lambda: "the new token is in force" in stand.told)
        store.tokens.revoke_token("old")
        # What it came by at first is good no more, and it stays: that nothing happens can only be waited for.
        # In this time tokens are looked at three times; the first look would have sent it away.
        time.sleep(3 * PAUSE_S)
        assert (stand.condition()["connection"]["connected"], _connections(stand)) == (True, 1)
