"""What a worker may have outstanding: in number, in bytes, of one kind, and beside all others."""

from __future__ import annotations

import anyio
import pytest

from edge_ws.protocol.ids import WorkerName
from edge_ws.server.budget import ITEMS, SIZE, SIZE_IN_ALL, Budget, Outstanding
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

W1, W2 = WorkerName("w1"), WorkerName("w2")


async def entered(budget: Budget, worker: WorkerName = W1, size: int = 1, **more: object) -> Outstanding:
    place = await budget.enter(worker, size, **more)  # type: ignore[arg-type]
    assert place is not None
    return place


async def is_kept_out(budget: Budget, worker: WorkerName = W1, size: int = 1, **more: object) -> bool:
    """Whether that has no room now."""
    with anyio.move_on_after(0.01):
        await entered(budget, worker, size, **more)
        return False
    return True


async def test_a_worker_waits_for_its_own_room_and_for_nobody_elses() -> None:
    budget = Budget()
    places = [await entered(budget) for _ in range(ITEMS)]
    assert await is_kept_out(budget)
    await entered(budget, W2)
    places[0].leave()
    await entered(budget)
    assert await is_kept_out(budget)


async def test_bytes_count_and_one_large_statement_always_passes() -> None:
    budget = Budget()
    large = await entered(budget, size=3 * SIZE)
    assert await is_kept_out(budget)
    large.leave()
    await entered(budget, size=SIZE - 1)
    await entered(budget)
    assert await is_kept_out(budget)


async def test_a_kind_has_a_bound_of_its_own() -> None:
    budget = Budget()
    first = await entered(budget, kind="a", most=2)
    await entered(budget, kind="a", most=2)
    assert await is_kept_out(budget, kind="a", most=2)
    await entered(budget, kind="b", most=2)
    first.leave()
    await entered(budget, kind="a", most=2)


async def test_past_the_bound_of_all_each_has_room_for_one() -> None:
    budget = Budget()
    many = SIZE_IN_ALL // SIZE
    for number in range(many):
        await entered(budget, WorkerName(f"many{number}"), SIZE)
    place = await entered(budget)
    assert await is_kept_out(budget)
    await entered(budget, W2)
    place.leave()
    await entered(budget)


async def test_who_waits_goes_on_when_something_is_settled() -> None:
    budget = Budget()
    place = await entered(budget, size=SIZE)
    got: list[Outstanding] = []

    async def wait() -> None:
        got.append(await entered(budget, size=SIZE))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not got
        place.leave()
        await until(lambda: len(got) == 1)
        got[0].leave()
        await until(lambda: len(got) == 2)


async def test_where_nothing_is_settled_one_waits_and_the_others_are_left_out_at_once() -> None:
    budget = Budget(patience_s=0.05)
    place = await entered(budget, size=SIZE)
    assert await budget.enter(W1, 1) is None
    with anyio.fail_after(5):
        for _ in range(1000):
            assert await budget.enter(W1, 1) is None
    place.leave()
    await entered(budget)
