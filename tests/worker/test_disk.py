"""A real small disk that is full or read-only: what a worker sees of it, keeps on it, and does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Timers
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from edge_ws.worker.control import ask
from edge_ws.worker.disk import fault
from edge_ws.worker.job import Record
from edge_ws.worker.outbox import Outbox
from tests.support.gateway import make_token, serving
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import wait_until
from tests.worker.test_daemon import daemon, read_until

C = ClaimId("11111111-1111-4111-8111-111111111111")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "16m") as mounted:
        yield mounted


def record(phase: Phase, **changed: object) -> Record:
    known = {"claim": C, "slots": 1, "phase": phase, "host": HostId("h"), "log_path": "/x", **changed}
    return Record(**known)  # type: ignore[arg-type]


def test_what_a_disk_takes(disk: SmallDisk) -> None:
    assert fault(disk.path, was_full=False) == ""
    assert fault(disk.path / "not" / "there", was_full=False) == ""
    assert list(disk.path.iterdir()) == []
    disk.fill(leave=512 * 1024)
    told = fault(disk.path, was_full=False)
    assert told == f"only 0.5 MiB are free on the disk of {disk.path}; 0.8 MiB are needed"
    disk.free()
    disk.fill(leave=900 * 1024)
    # Enough to go on with, too little to begin again.
    assert fault(disk.path, was_full=False) == ""
    assert fault(disk.path, was_full=True).endswith("1.0 MiB are needed")
    disk.free()
    disk.set_readonly(True)
    assert fault(disk.path, was_full=False) == f"{disk.path} is on a disk that is read-only"


def test_what_was_reserved_is_kept_however_full_the_disk_is(disk: SmallDisk) -> None:
    outbox = Outbox(disk.path / "outbox")
    assert outbox.reserve(C)
    disk.fill()
    for phase in (Phase.ACCEPTED, Phase.STARTED, Phase.ENDED):
        assert outbox.save(record(phase, detail="x" * 1000))
        assert [one.phase for one in Outbox(disk.path / "outbox").load()] == [phase]
    outbox.drop(C)
    assert list((disk.path / "outbox").iterdir()) == []


def test_nothing_is_promised_that_cannot_be_kept(disk: SmallDisk) -> None:
    outbox = Outbox(disk.path / "outbox")
    disk.fill()
    assert not outbox.reserve(C)
    assert not outbox.save(record(Phase.ACCEPTED))
    disk.free()
    assert outbox.reserve(C)


def test_a_read_only_disk_raises_nothing(disk: SmallDisk) -> None:
    outbox = Outbox(disk.path / "outbox")
    assert outbox.save(record(Phase.ACCEPTED))
    disk.set_readonly(True)
    assert not outbox.save(record(Phase.ENDED))
    assert not outbox.reserve(ClaimId("other"))
    outbox.drop(C)
    assert [one.phase for one in outbox.load()] == [Phase.ACCEPTED]


def test_room_that_no_record_needs_is_given_back(tmp_path: Path) -> None:
    assert Outbox(tmp_path).reserve(C)
    assert Outbox(tmp_path).load() == []
    assert list(tmp_path.iterdir()) == []


def test_a_worker_on_a_full_disk_takes_no_jobs_says_so_and_recovers(
    tmp_path: Path, sqlite_engine: sa.Engine
) -> None:
    store, settings = Store(sqlite_engine), GatewaySettings(hostname="test", timers=Timers(heartbeat_s=0.5))
    with (
        small_disk(tmp_path / "state", "16m") as disk,
        serving(store, settings) as gateway,
        daemon(tmp_path, gateway.base_url, make_token(store)) as process,
    ):
        read_until(process, "taking jobs")
        wait_until(lambda: store.views.workers()[0].room.ready, 60.0)
        disk.fill()
        wait_until(lambda: not store.views.workers()[0].room.ready, 60.0)
        (found,) = store.views.workers()
        assert found.room.code == "disk"
        assert f"are free on the disk of {tmp_path / 'state'}" in found.room.why
        assert ask(tmp_path / "state", "status")["why_no_jobs"] == found.room.why
        disk.free()
        wait_until(lambda: store.views.workers()[0].room.ready, 60.0)
        disk.fill()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
