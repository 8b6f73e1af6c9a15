"""The job host and its supervisors on a disk that is full or read-only: what runs goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.test_server import go
from tests.support.execution_api import ExecutionApi
from tests.support.jobs import Site, make_site, task_workload
from tests.support.raw_host import Line, RawHost, raw_host
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import wait_until

FULL_FOR_S = 3.0


@contextmanager
def host_on(disk: SmallDisk, site: Site) -> Iterator[tuple[RawHost, Line]]:
    """Run a host whose own files and whose tasks' logs are on that disk."""
    environment = site.environment(AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(disk.path / "logs"))
    with raw_host(disk.path / "hosts", environment) as host:
        line = host.connect()
        line.hello()
        yield host, line


@pytest.mark.parametrize("has_room_again", [True, False], ids=["has-room-again", "stays-full"])
def test_a_running_task_outlives_a_full_disk(tmp_path: Path, api: ExecutionApi, has_room_again: bool) -> None:
    site = make_site(tmp_path / "site")
    with small_disk(tmp_path / "disk", "16m") as disk, host_on(disk, site) as (host, line):
        workload = task_workload("chat")
        claim = go(line, api, workload)
        wait_until((site.notes / "chat").exists, 60)
        log = disk.path / "logs" / workload.log_path
        disk.fill()
        size = log.stat().st_size
        time.sleep(FULL_FOR_S)  # The supervisor's heartbeats and lines go on meanwhile.
        assert log.stat().st_size - size < 65536
        line.say("ping", n=1)
        line.hear("pong")
        if has_room_again:
            disk.free()
            wait_until(lambda: log.stat().st_size > size + 65536, 30)
        (site.notes / "quiet").touch()
        ended = line.hear("ended", claim)
        assert (ended["exit_code"], ended["detail"]) == (0, "")
        assert api.states_of(workload.id) == ["success"]
        assert host.process.poll() is None
        text = log.read_text()
        if has_room_again:
            assert "are missing here, as they could not be written: No space left on device" in text
            assert "the last word" in text
