"""Real small processes: what fails is named, and nothing is left, whatever ends the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_ws.demo.processes import Parts, tail
from edge_ws.errors import EdgeWsError
from tests.support.programs import clean_environment
from tests.support.waiting import wait_until

PYTHON = sys.executable
SLEEP = [PYTHON, "-c", "import time; print('up', flush=True); time.sleep(600)"]
_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child, own = subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)
print(child.pid, own.pid, flush=True)
time.sleep(600)
"""
STUBBORN = [PYTHON, "-c", _STUBBORN]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with _parts(tmp_path) as parts:
        yield parts


def _parts(folder: Path) -> Parts:
    return Parts(cwd=folder, logs=folder, hosts=folder / "hosts", environment=dict(os.environ))


# What fails


def test_a_part_that_ends_by_itself(parts: Parts, tmp_path: Path) -> None:
    part = parts.start("short", [PYTHON, "-c", "print('done')"], os.environ, lasting=False)
    parts.finish(part, 30.0)
    parts.check()
    assert (tmp_path / "short.log").read_text() == "done\n"


def test_output_is_apart_and_private(parts: Parts, tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = "import sys; print('secret'); print('words', file=sys.stderr)"
    part = parts.start("short", [PYTHON, "-c", program], os.environ, lasting=False, output=told)
    parts.finish(part, 30.0)
    assert (told.read_text(), told.stat().st_mode & 0o777) == ("secret\n", 0o600)
    assert part.log.read_text() == "words\n"


@pytest.mark.parametrize(("lasting", "code"), [(True, 0), (True, 3), (False, 3)])
def test_an_end_is_a_failure_with_the_logs_end(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str], lasting: bool, code: int
) -> None:
    program = f"for i in range(100): print('line', i)\nraise SystemExit({code})"
    part = parts.start("frail", [PYTHON, "-c", program], os.environ, lasting=lasting)
    part.process.wait()
    with pytest.raises(EdgeWsError) as caught:
        parts.check()
    assert str(caught.value) == (
        f"the demo's frail failed: it ended with exit code {code}; all logs are in {tmp_path}"
    )
    told = capsys.readouterr().err
    assert f"The end of {part.log}:" in told
    assert "  | line 99\n" in told
    assert "line 50\n" not in told


def test_a_signal_is_named(parts: Parts) -> None:
    part = parts.start("frail", SLEEP, os.environ)
    part.process.kill()
    part.process.wait()
    with pytest.raises(EdgeWsError, match="frail failed: it ended by signal 9"):
        parts.check()


def test_waiting_ends(parts: Parts) -> None:
    part = parts.start("slow", SLEEP, os.environ)
    with pytest.raises(EdgeWsError, match="slow failed: it had not answered after"):
        parts.wait(part, "answered", lambda: False, 0.2)


def test_tail_of_nothing(tmp_path: Path) -> None:
    assert tail(tmp_path / "absent") == []
    (tmp_path / "empty").touch()
    assert tail(tmp_path / "empty") == []


def test_tail_of_a_tasks_log_is_readable(tmp_path: Path) -> None:
    log = tmp_path / "attempt=1.log"
    log.write_text(
        '{"timestamp": "12:00", "level": "info", "event": "begun", "ti_id": "x"}\n'
        '{"timestamp": "12:01", "level": "error", "event": "Task failed",'
        ' "error_detail": [{"exc_type": "ValueError", "exc_value": "no oven today", "frames": []}]}\n'
        '["no", "log"]\n{"half": 1}\nno JSON\n'
        "2026 [info     ] request finished    [http.access] client_addr=127.0.0.1:46036\n"
    )
    assert tail(log) == [
        "12:00 info begun",
        "12:01 error Task failed ValueError: no oven today",
        '["no", "log"]',
        '{"half": 1}',
        "no JSON",
    ]


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_signals_are_raised_where_it_waits(
    tmp_path: Path, number: signal.Signals, raised: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    with _parts(tmp_path) as parts:
        part = parts.start("slow", SLEEP, os.environ)
        os.kill(os.getpid(), number)
        with pytest.raises(raised) as caught:
            parts.wait(part, "answered", lambda: False, 30.0)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 143
    assert signal.getsignal(number) is before
    assert part.ended


# What is left


def _pids(log: Path) -> list[int]:
    words = wait_until(lambda: log.exists() and log.read_text().split())
    return [int(word) for word in words]


def _all_gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def test_nothing_is_left_of_a_stubborn_part(tmp_path: Path) -> None:
    with _parts(tmp_path) as parts:
        part = parts.start("stubborn", STUBBORN, os.environ)
        pids = [part.process.pid, *_pids(part.log)]
        assert not _all_gone(pids)
    assert wait_until(lambda: _all_gone(pids))
    assert part.process.returncode == -signal.SIGKILL


def test_an_obedient_part_may_end_by_itself(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye') or 0))\n"
        "print('up', flush=True); time.sleep(600)"
    )
    with _parts(tmp_path) as parts:
        part = parts.start("worker", [PYTHON, "-c", program], os.environ)
        wait_until(lambda: "up" in part.log.read_text())
    assert part.log.read_text().split() == ["up", "bye"]


def test_a_stranger_under_an_old_number_is_spared(tmp_path: Path) -> None:
    from edge_ws.demo.guard import sweep

    with subprocess.Popen([PYTHON, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        sweep({other.pid: 1.0}, tmp_path)
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0


_DEMO = """
import sys, time
from pathlib import Path
from edge_ws.demo import processes
from edge_ws.demo.processes import Parts
import os
processes.LEAVE_WITHIN_S = float(os.environ.get("LEAVE_WITHIN_S", processes.LEAVE_WITHIN_S))
folder = Path(sys.argv[1])
with Parts(cwd=folder, logs=folder, hosts=folder / "hosts", environment=dict(os.environ)) as parts:
    part = parts.start("stubborn", sys.argv[2:], os.environ)
    while not part.log.read_text():
        time.sleep(0.01)
    print(part.process.pid, part.log.read_text(), flush=True)
    parts.wait(part, "answered", lambda: False, 600.0)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_whatever_ends_the_demo(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [PYTHON, "-c", _DEMO, str(tmp_path), *STUBBORN],
        env=clean_environment(tmp_path, PYTEST_LEFTOVERS_OF=os.environ["PYTEST_LEFTOVERS_OF"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        pids = [int(word) for word in demo.stdout.readline().split()]
        assert len(pids) == 3
        # As a closed terminal, or an impatient person, ends the whole group.
        os.killpg(demo.pid, number)
        assert wait_until(lambda: _all_gone(pids), 20.0)
    assert demo.returncode == (-number if number == signal.SIGKILL else 128 + number)


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with subprocess.Popen(
        [PYTHON, "-c", _DEMO, str(tmp_path), *STUBBORN],
        env=clean_environment(
            tmp_path, PYTEST_LEFTOVERS_OF=os.environ["PYTEST_LEFTOVERS_OF"], LEAVE_WITHIN_S="600"
        ),
        stdout=subprocess.PIPE,
    ) as demo:
        assert demo.stdout is not None
        pids = [int(word) for word in demo.stdout.readline().split()]
        demo.send_signal(signal.SIGTERM)
        # Were it waited for, this would not be true in time.
        wait_until(lambda: demo.poll() is not None or demo.send_signal(signal.SIGTERM) or False, every_s=0.3)
        assert _all_gone(pids)
    assert demo.returncode == 143
