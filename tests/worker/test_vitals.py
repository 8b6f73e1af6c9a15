"""What a daemon measures of itself."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import anyio
import psutil
import pytest

from edge_ws.protocol.frames import Log, Status
from edge_ws.protocol.ids import ClaimId
from edge_ws.worker.facts import settings_told
from edge_ws.worker.faults import Faults
from edge_ws.worker.site_facts import SiteFacts
from edge_ws.worker.site_facts_process import FACTS, plain
from edge_ws.worker.vitals import Vitals
from edge_ws.worker.watchdog import Watchdog
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


def test_the_clock_is_held_against_the_centres() -> None:
    wall = [1000.0]
    vitals = Vitals(lambda: wall[0])
    assert vitals.clock_skew_s(0.0, None) is None
    # It says 990, half of 0.4 s before that arrives.
    vitals.centre_says(990.0, 5.0)
    assert vitals.clock_skew_s(5.0, 0.4) == pytest.approx(9.8)
    wall[0] += 60.0
    assert vitals.clock_skew_s(65.0, 0.4) == pytest.approx(9.8)
    # Somebody sets this machine's clock back.
    wall[0] -= 9.8
    assert vitals.clock_skew_s(65.0, 0.4) == pytest.approx(0.0)
    vitals.centre_says(None, 70.0)
    assert vitals.clock_skew_s(70.0, None) is None


async def test_a_loop_that_is_held_shows_it() -> None:
    vitals = Vitals()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(vitals.run)
        # A few turns of a loop that nobody holds.
        await anyio.sleep(0.1)
        assert vitals.loop_lag_s(anyio.current_time()) < 1.0
        # The loop is held on purpose, for longer than the second that counts as overdue.
        time.sleep(2.5)  # noqa: ASYNC251 - to block the loop is what is tried
        assert vitals.overdue_s(anyio.current_time()) > 1.0
        await until(lambda: vitals.overdue_s(anyio.current_time()) == 0.0)
        assert vitals.loop_lag_s(anyio.current_time()) > 1.0
        tasks.cancel_scope.cancel()


def test_logs_are_counted_in_bytes() -> None:
    vitals = Vitals()
    vitals.sent(Log(claim=ClaimId("c"), offset=0, data=b"abc"))
    vitals.sent(Status.__new__(Status))
    assert (vitals.log_bytes, dict(vitals.reports)) == (3, {"status": 1})


def test_settings_travel_with_where_they_come_from() -> None:
    rows = [("queues", "a,b", "EDGE_WS_QUEUES"), *((f"setting_{n}", "none", "default") for n in range(40))]
    told = settings_told(rows)
    assert told["setting.queues"] == "a,b from EDGE_WS_QUEUES"
    lines = [value for key, value in told.items() if key.startswith("settings_default")]
    assert ", ".join(map(str, lines)).count("setting_") == 40
    assert len(lines) > 1
    assert all(len(str(line)) <= 300 for line in lines)


def test_facts_are_bounded() -> None:
    told = plain({f"n{number}": number for number in range(3 * FACTS)})
    assert len(told) == FACTS
    odd = {"nan": float("nan"), 3: 4, "a\nb": 1, "list": [1], "long": "x" * 10_000, "yes": True, "big": 2**80}
    assert plain(odd) == {"long": "x" * 200, "yes": 1, "big": float(2**80)}
    with pytest.raises(TypeError, match="must return a dict, and has returned a list"):
        plain([])


def test_the_workers_own_facts_are_not_hidden() -> None:
    site = SiteFacts("x.y", {}, Faults())
    site.known = {"pid": 1, "press": "ready", "status": 40, "site_facts": "x"}
    assert site.beside({"pid": 7, "status": 20}) == {"press": "ready", "site_facts": "press", "status": 40}
    site.known = {"status": 35}
    assert site.beside({"status": 20}) == {}


async def test_a_function_that_hangs_is_killed(tmp_path: Path) -> None:
    (tmp_path / "our_facts.py").write_text(
        # It hangs until the test has seen it killed: in a process of its own it can only look for a file.
        "import os, pathlib, time\n"
        "def get():\n"
        f"    with open({str(tmp_path / 'pids')!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\n"
        f"    while not pathlib.Path({str(tmp_path / 'enough')!r}).exists(): time.sleep(0.01)\n"
        "    return {'press': 1}\n"
    )
    faults = Faults()
    site = SiteFacts(
        "our_facts.get", {**os.environ, "PYTHONPATH": str(tmp_path)}, faults, within_s=3.0, again_s=0.05
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(site.run)
        await until(lambda: faults.count >= 1, 60.0)
        (tmp_path / "enough").touch()
        await until(lambda: site.known == {"press": 1}, 60.0)
        tasks.cancel_scope.cancel()
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) >= 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_systemd_hears_that_the_loop_turns(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Watchdog({**told, "WATCHDOG_PID": str(os.getpid())}).run)
            for _ in range(3):
                await anyio.wait_readable(systemd)
                assert systemd.recv(100) == b"WATCHDOG=1"
            tasks.cancel_scope.cancel()
    for other in ({}, {"NOTIFY_SOCKET": "/x"}, {**told, "WATCHDOG_PID": "1"}, {**told, "WATCHDOG_USEC": "x"}):
        with anyio.fail_after(5.0):
            await Watchdog(other).run()
