"""The guard over processes: it finds children and orphans, and leaves the rest in peace."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack

import psutil
import pytest

from tests.support.leftovers import no_leftovers
from tests.support.waiting import wait_until


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_child_that_stays_is_named_and_killed() -> None:
    with ExitStack() as stack:
        stack.enter_context(
            pytest.raises(AssertionError, match=r"the test left processes behind: \d+ sleep 300")
        )
        stack.enter_context(no_leftovers("the test", (), grace_s=0.1))
        child = subprocess.Popen(["sleep", "300"])
    assert is_gone(child.pid)
    child.wait()


def test_an_orphan_that_stays_is_killed() -> None:
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(AssertionError, match="sleep 301"))
        stack.enter_context(no_leftovers("the test", (), grace_s=0.1))
        script = "setsid sleep 301 >/dev/null 2>&1 & echo $!"
        done = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True)
    wait_until(lambda: is_gone(int(done.stdout)))


def test_what_ends_in_time_is_no_leftover() -> None:
    with no_leftovers("the test", (), grace_s=10):
        child = subprocess.Popen(["sleep", "0.2"])
    assert child.wait(10) == 0


def test_spared_and_earlier_processes_are_left_alone() -> None:
    earlier = subprocess.Popen(["sleep", "302"])
    spared: set[int] = set()
    try:
        with no_leftovers("the test", spared, grace_s=0.1):
            later = subprocess.Popen(["sleep", "303"])
            spared.add(later.pid)
        assert earlier.poll() is None
        assert later.poll() is None
    finally:
        for process in (earlier, later):
            process.kill()
            process.wait(10)
