"""Processes and their start times."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from edge_ws.processes import group_is_there, kill_tree, signal_group, start_time, thread_count
from tests.support.waiting import wait_until

_FAMILY = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
print(subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A group's leader, a member of the group, and a child in a session of its own."""
    with subprocess.Popen([sys.executable, "-c", _FAMILY], stdout=subprocess.PIPE, process_group=0) as leader:
        assert leader.stdout is not None
        below = [int(text) for text in leader.stdout.readline().split()]
        yield leader, below
        for pid in (leader.pid, *below):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    return start_time(pid) is None


def test_a_start_time_stays_and_a_zombie_has_none(family: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    leader, _ = family
    assert start_time(os.getpid()) == start_time(os.getpid())
    since = start_time(leader.pid)
    assert since is not None
    assert since >= (start_time(os.getpid()) or 0)
    leader.kill()
    wait_until(lambda: psutil.Process(leader.pid).status() == psutil.STATUS_ZOMBIE)
    assert start_time(leader.pid) is None


def test_a_strangers_group_gets_no_signal(family: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    leader, _ = family
    since = start_time(leader.pid)
    assert since is not None
    assert not signal_group(leader.pid, since - 1, signal.SIGKILL)
    assert not signal_group(leader.pid, None, signal.SIGKILL)
    kill_tree(leader.pid, since - 1)
    assert leader.poll() is None


def test_a_group_is_reached_when_its_leader_is_gone(
    family: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    leader, (member, apart) = family
    since = start_time(leader.pid)
    leader.kill()
    leader.wait(10)
    assert group_is_there(leader.pid, since)
    assert signal_group(leader.pid, since, signal.SIGKILL)
    wait_until(lambda: gone(member))
    wait_until(lambda: not group_is_there(leader.pid, since))
    assert not gone(apart)


def test_a_tree_ends_with_what_has_left_its_group(family: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    leader, (member, apart) = family
    kill_tree(leader.pid, start_time(leader.pid))
    wait_until(lambda: gone(leader.pid) and gone(member) and gone(apart))
    assert not signal_group(os.getpid() + 4_000_000, 1.0, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_group_is_there_though_it_gets_no_signal(
    family: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    leader, _ = family
    script = (
        "import os, signal; from edge_ws.processes import group_is_there, signal_group, start_time\n"
        f"os.setuid(65534); group = {leader.pid}, start_time({leader.pid})\n"
        "print(group_is_there(*group), signal_group(*group, signal.SIGKILL))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
    assert leader.poll() is None


def test_threads_are_counted() -> None:
    script = (
        "import threading, time; from edge_ws.processes import thread_count as count\n"
        "print(count()); threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); print(count())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "2"]
    assert thread_count() >= 1
