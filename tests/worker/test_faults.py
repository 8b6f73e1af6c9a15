"""Unexpected exceptions: what they cost, how they are told, and a loop that goes on after them."""

from __future__ import annotations

import logging

import anyio
import pytest

from edge_ws.errors import UsageError
from edge_ws.worker.faults import Faults

pytestmark = pytest.mark.anyio


def _fail(number: int) -> None:
    raise ZeroDivisionError(number)


def test_each_place_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            with faults.contained("one item"):
                _fail(number)
        with faults.contained("a group"):
            raise ExceptionGroup("", [UsageError("x"), KeyError("y")])
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "one item ended by a fault of this program, ZeroDivisionError: 0, at " in caplog.text
    assert "test_faults.py" in caplog.text
    assert (faults.count, faults.last and faults.last.error) == (4, "KeyError: 'y'")


def test_what_is_expected_passes() -> None:
    faults = Faults()
    with pytest.raises(UsageError), faults.contained("x"):
        raise UsageError("wrong")
    with pytest.raises(KeyboardInterrupt), faults.contained("x"):
        raise KeyboardInterrupt
    assert faults.count == 0


async def test_a_loop_goes_on_after_a_fault_and_ends_by_its_own_error() -> None:
    faults, rounds = Faults(), 0

    async def loop() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            _fail(rounds)
        raise UsageError("the end")

    with anyio.fail_after(5), pytest.raises(UsageError):
        await faults.keep("a loop", loop)
    assert (rounds, faults.count) == (2, 1)
