"""Real processes, their parent and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import PACKAGE
from tests.support.waiting import wait_until


@contextmanager
def parent(folder: Path, name: str, end_within_s: float = 60.0) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.children", name, str(end_within_s)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def pids(folder: Path, note: str) -> set[int]:
    return {int(path.name.rpartition("-")[2]) for path in folder.glob(f"{note}-*")}


def living(folder: Path) -> set[int]:
    return {pid for pid in pids(folder, "lives") if Path(f"/proc/{pid}").exists()}


def test_all_end_when_told(tmp_path: Path) -> None:
    with parent(tmp_path, "obedient") as process:
        wait_until(lambda: len(living(tmp_path)) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert pids(tmp_path, "ended") == pids(tmp_path, "lives")


def test_a_terminals_interrupt_reaches_all_and_is_one_request(tmp_path: Path) -> None:
    with parent(tmp_path, "obedient") as process:
        wait_until(lambda: len(living(tmp_path)) == 2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) == 0
        assert pids(tmp_path, "ended") == pids(tmp_path, "lives")


def test_one_that_dies_is_replaced(tmp_path: Path) -> None:
    with parent(tmp_path, "obedient") as process:
        (victim, _) = wait_until(lambda: found if len(found := living(tmp_path)) == 2 else None)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(living(tmp_path)) == 2 and victim not in living(tmp_path))
        process.terminate()
        assert process.wait(10) == 0


def test_the_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    with parent(tmp_path, "stubborn", 600) as process:
        wait_until(lambda: len(living(tmp_path)) == 2)
        process.terminate()
        wait_until(lambda: pids(tmp_path, "told") == pids(tmp_path, "lives"))
        process.terminate()
        assert process.wait(30) == 0
        wait_until(lambda: not living(tmp_path))


def test_who_does_not_end_is_killed(tmp_path: Path) -> None:
    with parent(tmp_path, "stubborn", 0.5) as process:
        wait_until(lambda: len(living(tmp_path)) == 2)
        process.terminate()
        assert process.wait(10) == 0
        wait_until(lambda: not living(tmp_path))


def test_an_expected_fault_ends_all_with_its_code(tmp_path: Path) -> None:
    with parent(tmp_path, "misconfigured") as process:
        assert process.wait(10) == 5


def test_children_follow_a_parent_that_was_killed(tmp_path: Path) -> None:
    with parent(tmp_path, "obedient") as process:
        wait_until(lambda: len(living(tmp_path)) == 2)
        process.kill()
        process.wait()
        wait_until(lambda: not living(tmp_path))
        assert pids(tmp_path, "ended") == pids(tmp_path, "lives")
