"""Credentials at the entrance: strangers wait for strangers, and their failures for themselves."""

from __future__ import annotations

import itertools
import threading

import anyio
import pytest

from edge_ws.errors import RefusedError
from edge_ws.server.entrance import (
    ADDRESSES_KEPT,
    COME_BACK_WITHIN_S,
    FORGIVEN_AFTER_S,
    FREE_FAILURES,
    LONGEST_DELAY_S,
    STRANGERS,
    CrowdedError,
    Entrance,
    Failures,
    Turns,
    network,
)

pytestmark = pytest.mark.anyio


def refuse() -> str:
    raise RefusedError("token", "it is unknown here")


async def test_who_is_known_never_waits_for_strangers() -> None:
    entrance, release = Entrance(), threading.Event()
    assert await entrance.judge("good", "10.0.0.1", lambda: "w1") == "w1"

    async def come(number: int) -> None:
        with pytest.raises(RefusedError):
            await entrance.judge(
                f"strange {number}", "10.0.0.1", lambda: refuse() if release.wait(10) else ""
            )

    async with anyio.create_task_group() as tasks:
        for number in range(STRANGERS):
            tasks.start_soon(come, number)
        await anyio.wait_all_tasks_blocked()
        # However slowly they are judged, and although they come from the same address.
        assert await entrance.judge("good", "10.0.0.1", lambda: "w1") == "w1"
        with pytest.raises(CrowdedError):
            await entrance.judge("one more", "10.0.0.2", lambda: "w2")
        release.set()
    assert await entrance.judge("one more", "10.0.0.2", lambda: "w2") == "w2"


async def test_a_credential_that_is_good_no_more_is_a_strangers() -> None:
    entrance, release = Entrance(), threading.Event()
    await entrance.judge("good", None, lambda: "w1")
    with pytest.raises(RefusedError):
        await entrance.judge("good", None, refuse)
    async with anyio.create_task_group() as tasks:
        for number in range(STRANGERS):
            tasks.start_soon(entrance.judge, f"strange {number}", None, lambda: release.wait(10))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(CrowdedError):
            await entrance.judge("good", None, lambda: "w1")
        release.set()


def test_failures_cost_more_and_more_and_are_forgiven() -> None:
    failures = Failures()
    free = [failures.delay_s("10.0.0.1", 0.0) for _ in range(FREE_FAILURES)]
    assert set(free) == {0.0}
    delays = [failures.delay_s("10.0.0.1", 0.0) for _ in range(2000)]
    assert 0.0 < delays[0] < delays[1] < delays[-1] == LONGEST_DELAY_S
    assert failures.delay_s("10.0.0.2", 0.0) == 0.0
    assert failures.delay_s("10.0.0.1", FORGIVEN_AFTER_S + 1.0) == 0.0


def test_many_addresses_take_no_more_memory() -> None:
    failures = Failures()
    for high, low in itertools.product(range(20), range(250)):
        failures.delay_s(f"10.0.{high}.{low}", 0.0)
    assert len(failures) == ADDRESSES_KEPT


def test_one_party_may_have_many_addresses() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:2") != network("2001:db8:0:1::1")
    assert network("::ffff:10.0.0.1") == network("10.0.0.1") != network("10.0.0.2")
    assert network("fe80::1%eth0") == network("fe80::2%eth0")
    assert network(None) == network("nonsense") == ""


def test_nobody_is_told_to_come_back_in_an_hour() -> None:
    turns = Turns()
    told = [turns.come_back_s(100.0) for _ in range(20_000)]
    assert 0.5 < min(told) < 1.1
    assert COME_BACK_WITHIN_S / 2 < max(told) <= COME_BACK_WITHIN_S
    assert len(set(told[10_000:])) > 100
