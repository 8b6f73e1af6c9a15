"""Group commit: order is kept, load makes batches, one bad item stops nobody."""

from __future__ import annotations

import threading

import anyio
import pytest

from edge_ws.errors import ConflictError, UnreachableError
from edge_ws.server.batches import AWAY_PAUSE_S, Batches
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


class Writer:
    """Writes numbers; refuses the bad ones, and everything while it is away."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.answers: list[tuple[int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.away = False
        self.conflicts = 0
        self.bad: set[int] = set()

    def write(self, batch: list[int]) -> list[int]:
        self.gate.wait(10)
        if self.away:
            raise UnreachableError("away")
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError("in the way")
        if self.bad & set(batch):
            raise ValueError("bad")
        self.batches.append(batch)
        return [2 * one for one in batch]

    def answer(self, one: int, answer: int) -> None:
        self.answers.append((one, answer))


async def test_what_arrives_meanwhile_is_written_together() -> None:
    writer = Writer()
    batches = Batches(writer.write, writer.answer, 5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        batches.put(0)
        await until(lambda: writer.batches == [[0]])
        writer.gate.clear()
        batches.put(1)
        with anyio.move_on_after(0.05):
            await anyio.sleep_forever()
        for number in range(2, 9):
            batches.put(number)
        writer.gate.set()
        await until(lambda: len(writer.answers) == 9)
        tasks.cancel_scope.cancel()
    assert writer.batches == [[0], [1], [2, 3, 4, 5, 6], [7, 8]]
    assert writer.answers == [(number, 2 * number) for number in range(9)]


async def test_one_bad_item_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer()
    writer.bad = {3}
    batches = Batches(writer.write, writer.answer, 8)
    for number in range(8):
        batches.put(number)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        await until(lambda: len(writer.answers) == 7)
        tasks.cancel_scope.cancel()
    assert [number for number, _ in writer.answers] == [0, 1, 2, 4, 5, 6, 7]
    assert "the writing of 3 ended by" in caplog.text


async def test_a_database_that_is_away_gets_no_answers_and_a_pause() -> None:
    writer = Writer()
    writer.away = True
    batches = Batches(writer.write, writer.answer, 8)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        batches.put(1)
        with anyio.move_on_after(0.1):
            await anyio.sleep_forever()
        writer.away = False
        batches.put(2)
        await until(lambda: writer.answers == [(2, 4)])
        tasks.cancel_scope.cancel()


async def test_a_conflict_is_tried_again_at_once() -> None:
    writer = Writer()
    writer.conflicts = 3
    batches = Batches(writer.write, writer.answer, 5)
    with anyio.fail_after(AWAY_PAUSE_S / 2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(batches.run)
            batches.put(1)
            batches.put(2)
            await until(lambda: sorted(writer.answers) == [(1, 2), (2, 4)])
            tasks.cancel_scope.cancel()


async def test_each_sender_has_its_turn() -> None:
    """Ten of one sender wait before one of another, which is in the next batch of two all the same."""
    writer, left = Writer(), list[int]()
    batches = Batches(writer.write, writer.answer, 2, sender=lambda one: one % 2, left=left.append)
    for number in (0, 2, 4, 6, 8, 1):
        batches.put(number)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        await until(lambda: len(left) == 6)
        tasks.cancel_scope.cancel()
    assert writer.batches == [[0, 1], [2, 4], [6, 8]]


async def test_of_one_key_the_newest_is_written_in_the_first_ones_turn() -> None:
    writer, left = Writer(), list[int]()
    batches = Batches(writer.write, writer.answer, 1, key=lambda one: one // 10, left=left.append)
    for number in (11, 20, 12, 13):
        batches.put(number)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        await until(lambda: len(left) == 4)
        tasks.cancel_scope.cancel()
    assert writer.batches == [[13], [20]]
    assert left == [11, 12, 13, 20], "each is left once, written or replaced"


async def test_what_cannot_be_written_is_left_too() -> None:
    writer, left = Writer(), list[int]()
    writer.bad = {1}
    batches = Batches(writer.write, writer.answer, 8, left=left.append)
    for number in range(3):
        batches.put(number)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        await until(lambda: len(left) == 3)
        writer.away = True
        batches.put(3)
        await until(lambda: len(left) == 4)
        tasks.cancel_scope.cancel()
    assert left == [0, 1, 2, 3]


async def test_two_writers_do_not_wait_for_each_other() -> None:
    writer = Writer()
    async with anyio.create_task_group() as tasks:
        first, second = threading.Event(), threading.Event()

        def write(batch: list[int]) -> list[int]:
            (first if batch == [1] else second).set()
            assert (second if batch == [1] else first).wait(10)
            return batch

        both = Batches(write, writer.answer, 1, writers=2)
        tasks.start_soon(both.run)
        both.put(1)
        both.put(2)
        await until(lambda: sorted(writer.answers) == [(1, 1), (2, 2)])
        tasks.cancel_scope.cancel()
