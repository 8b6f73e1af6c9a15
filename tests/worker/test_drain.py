"""The clock of a drain."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from edge_ws.worker.drain import Patience, WorkerDrain
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


class Drainable:
    """A daemon that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.runs_anything = True
        self.runs_tasks = True

    def drain(self, why: str) -> None:
        self.told.append(f"drain: {why}")

    def stop_jobs(self, reason: str) -> None:
        self.told.append(f"stop: {reason}")

    def go(self) -> None:
        self.told.append("go")

    def retry_now(self) -> None:
        self.told.append("retry")


@asynccontextmanager
async def running(leaver: Drainable, drain_s: float) -> AsyncIterator[WorkerDrain]:
    one = WorkerDrain(Patience(drain_s, 0.0, 0.02), leaver)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.run)
        tasks.start_soon(one.heed_signals)
        await anyio.lowlevel.checkpoint()
        yield one
        tasks.cancel_scope.cancel()


async def test_it_goes_soon_after_the_last_task_whatever_is_undelivered() -> None:
    leaver = Drainable()
    async with running(leaver, 0.0) as one:
        one.begin()
        await anyio.sleep(0.1)
        assert leaver.told == []
        leaver.runs_tasks = False
        await until(lambda: leaver.told == ["go"])


async def test_nothing_is_stopped_before_a_drain_begins() -> None:
    leaver = Drainable()
    async with running(leaver, 0.001):
        await anyio.sleep(0.05)
    assert leaver.told == []


async def test_a_drain_that_lasts_too_long_stops_what_runs() -> None:
    leaver = Drainable()
    async with running(leaver, 0.02) as one:
        one.begin()
        await until(lambda: leaver.told)
        assert leaver.told == ["stop: drain timeout of 0.02 s"]


OVER = "stop: the deadline of an operator's shutdown is over"


async def test_a_deadline_counts_from_when_it_was_heard() -> None:
    leaver = Drainable()
    async with running(leaver, 60.0) as one:
        one.end_in(0.05, is_new=True)
        # That nothing happens can only be waited for: four times the deadline.
        await anyio.sleep(0.2)
        assert leaver.told == [], "no drain has begun"
        one.begin()
        await until(lambda: leaver.told)
        assert leaver.told == [OVER]


async def test_of_deadline_and_own_limit_the_earlier_counts() -> None:
    leaver = Drainable()
    async with running(leaver, 0.02) as one:
        one.end_in(60.0, is_new=True)
        one.begin()
        await until(lambda: leaver.told)
        assert leaver.told == ["stop: drain timeout of 0.02 s"]


async def test_a_deadline_that_is_told_once_more_does_not_move_on() -> None:
    leaver = Drainable()
    async with running(leaver, 0.0) as one:
        one.end_in(0.1, is_new=True)
        one.begin()
        one.end_in(60.0, is_new=False)
        await until(lambda: leaver.told)
        assert leaver.told == [OVER]


async def test_another_deadline_takes_its_place() -> None:
    leaver = Drainable()
    async with running(leaver, 0.0) as one:
        one.end_in(0.3, is_new=True)
        one.begin()
        one.end_in(60.0, is_new=True)
        # Twice the first deadline, which the later one took the place of: nothing may happen at it.
        await anyio.sleep(0.6)
        assert leaver.told == []
        one.end_in(0.0, is_new=True)
        await until(lambda: leaver.told)
        assert leaver.told == [OVER]


async def test_without_a_limit_it_waits_until_it_is_hurried() -> None:
    leaver = Drainable()
    async with running(leaver, 0.0) as one:
        one.begin()
        await anyio.sleep(0.05)
        assert leaver.told == []
        one.hurry("edge-ws stop --now")
        one.hurry("again")
        await until(lambda: leaver.told)
        assert leaver.told == ["stop: edge-ws stop --now"]


async def test_what_is_not_reported_in_time_waits_for_the_next_start() -> None:
    leaver = Drainable()
    async with running(leaver, 0.0) as one:
        one.hurry("now")
        await until(lambda: leaver.told)
        # Its processes have time to end.
        await anyio.sleep(0.1)
        assert leaver.told == ["stop: now"]
        leaver.runs_anything = False
        await until(lambda: leaver.told[-1] == "go")


@pytest.fixture
def _signals() -> Iterator[None]:
    """Give back what a receiver of signals leaves in another state."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
async def test_the_second_signal_leaves_at_once() -> None:
    leaver = Drainable()
    before = signal.getsignal(signal.SIGHUP)
    async with running(leaver, 0.0):
        await until(lambda: signal.getsignal(signal.SIGHUP) != before)
        for number, told in (
            (signal.SIGHUP, "retry"),
            (signal.SIGTERM, "drain: SIGTERM"),
            (signal.SIGHUP, "retry"),
            (signal.SIGINT, "go"),
        ):
            leaver.told.clear()
            os.kill(os.getpid(), number)
            await until(lambda: leaver.told)
            assert leaver.told == [told]
