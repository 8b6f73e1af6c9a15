"""The worker as process 1 of a container: in a process namespace of its own, as `docker run` makes one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from edge_ws.cli.first_process import stand_aside
from tests.support.waiting import wait_until

_UNSHARE = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
_PROGRAM = """
import os, signal, subprocess, sys, time
from edge_ws.cli.first_process import stand_aside
stand_aside()
told = []
def tell(number, frame):
    told.append(number)
    print("told", signal.Signals(number).name, flush=True)
signal.signal(signal.SIGTERM, tell)
signal.signal(signal.SIGINT, tell)
# Three orphans, and a child whose exit code is wanted long after its end.
for _ in range(3):
    subprocess.run(["sh", "-c", "setsid sleep 0.2 &"], check=True)
child = subprocess.Popen(["sh", "-c", "exit 3"])
# Five times as long as the orphans live: whatever is not reaped by then is a zombie.
time.sleep(1)
zombies = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != str(child.pid)
           and open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"]
print("zombies", len(zombies), "code", child.wait(), "first", os.getpid() == 1, flush=True)
while len(told) < int(sys.argv[1]):
    time.sleep(0.05)
if sys.argv[2] == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(7)
"""


def _can_unshare() -> bool:
    try:
        return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    if not _can_unshare():
        pytest.skip("process namespaces need root here")
    started = []

    def run(*words: str) -> subprocess.Popen[str]:
        command = [*_UNSHARE, sys.executable, "-c", _PROGRAM, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def first_of(unshare: subprocess.Popen[str]) -> psutil.Process:
    children = psutil.Process(unshare.pid).children
    return wait_until(children)[0]


def test_no_zombie_stays_and_no_exit_code_is_stolen(start: Start) -> None:
    process = start("0", "end")
    assert process.stdout is not None
    assert process.stdout.readline() == "zombies 0 code 3 first False\n"
    assert process.wait(20) == 7


def test_each_signal_reaches_the_program_once(start: Start) -> None:
    process = start("2", "end")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("zombies 0")
    for name in ("SIGTERM", "SIGINT"):
        first_of(process).send_signal(signal.Signals[name])
        assert process.stdout.readline() == f"told {name}\n"
    assert process.wait(20) == 7
    assert process.stdout.read() == ""


def test_a_program_that_is_killed_ends_the_first_process_too(start: Start) -> None:
    assert start("0", "crash").wait(20) == 128 + signal.SIGKILL


def test_any_other_process_goes_on_as_it_is() -> None:
    before = os.getpid()
    stand_aside()
    assert os.getpid() == before
