"""Copies of running logs in the log folder: whole, by whichever gateway, and gone with the move."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa

from edge_ws.errors import EdgeWsError
from edge_ws.protocol.ids import ClaimId
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import Hub
from edge_ws.server.reaper import Reaper
from edge_ws.server.running_logs import RunningLogs
from edge_ws.store.store import Store
from tests.support.gateway import LogFolder, Tasks
from tests.support.reports import SingleReports
from tests.support.rows import FakeWorker, change_job, enqueue, new_job
from tests.support.waiting import until

PATH = "t.log"


class Full(LogFolder):
    """A folder into which nothing can be written."""

    def copy(self, log_path: str, claim: str, begin: int, data: bytes) -> None:
        raise EdgeWsError("the disk is full")


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def worker(store: Store) -> FakeWorker:
    worker = FakeWorker(store)
    worker.register()
    return worker


@pytest.fixture
def claim(sqlite_engine: sa.Engine, worker: FakeWorker) -> ClaimId:
    """A claim of a row that edge3's executor wrote; its task runs."""
    job = new_job()
    enqueue(sqlite_engine, job)
    change_job(sqlite_engine, job.key, edge_ws_owner=None)
    return worker.start(job)


def say(worker: FakeWorker, claim: ClaimId, offset: int, data: bytes) -> None:
    assert SingleReports(worker.store.reports).append_log(
        worker.principal, claim, offset, data
    ) == offset + len(data)


def move(store: Store, folder: LogFolder) -> None:
    tasks = Tasks()
    Reaper(
        store,
        Hub(lambda: None, lambda _: None),
        GatewaySettings(hostname="test"),
        "g",  # type: ignore[arg-type]
        task_states=tasks,
        finished_logs=folder,
    ).move_logs()


def test_it_grows_with_the_log_and_goes_with_the_move(
    store: Store, worker: FakeWorker, claim: ClaimId
) -> None:
    folder = LogFolder()
    logs = RunningLogs(store.logs, folder)
    for offset, data in ((0, b"one\n"), (4, b"two\n")):
        say(worker, claim, offset, data)
        logs.copy({claim})
        assert folder.copies == {(PATH, claim): b"one\ntwo\n"[: offset + len(data)]}
    say(worker, claim, 8, b"three\n")
    worker.finish(claim)
    move(store, folder)
    assert folder.files == {PATH: b"one\ntwo\nthree\n"}
    assert folder.copies == {}


def test_two_gateways_with_one_folder(store: Store, worker: FakeWorker, claim: ClaimId) -> None:
    folder = LogFolder()
    first, second = (RunningLogs(store.logs, folder) for _ in range(2))
    whole = b"".join(b"line %d\n" % number for number in range(300))
    for number, offset in enumerate(range(0, len(whole), 70)):
        say(worker, claim, offset, whole[offset : offset + 70])
        # Each looks when it has taken something; now and then both do.
        for logs in ((first,), (second,), (first, second), ())[number % 4]:
            logs.copy({claim})
            assert folder.copies[PATH, claim] == whole[: offset + 70]
    second.copy({claim})
    assert folder.copies == {(PATH, claim): whole}


def test_two_gateways_with_folders_of_their_own(store: Store, worker: FakeWorker, claim: ClaimId) -> None:
    """Each has the whole as of its last look, whoever took the bytes before; the end is written by one."""
    here, there = LogFolder(), LogFolder()
    here.files[PATH] = there.files[PATH] = b"the round before\n"
    first, second = RunningLogs(store.logs, here), RunningLogs(store.logs, there)
    say(worker, claim, 0, b"one\n")
    first.copy({claim})
    say(worker, claim, 4, b"two\n")
    second.copy({claim})
    assert here.copies == {(PATH, claim): b"one\n"}
    assert there.copies == {(PATH, claim): b"one\ntwo\n"}
    worker.finish(claim)
    move(store, there)
    assert there.files == {PATH: b"the round before\none\ntwo\n"}
    assert there.copies == {}
    assert here.files == {PATH: b"the round before\n"}


def test_a_copy_that_was_cut_short_is_completed(store: Store, worker: FakeWorker, claim: ClaimId) -> None:
    folder = LogFolder()
    say(worker, claim, 0, b"hello ")
    say(worker, claim, 6, b"world\n")
    folder.copy(PATH, claim, 0, b"hel")
    RunningLogs(store.logs, folder).copy({claim})
    assert folder.copies == {(PATH, claim): b"hello world\n"}


def test_a_copy_that_was_written_after_the_move_is_removed(
    store: Store, worker: FakeWorker, claim: ClaimId
) -> None:
    folder = LogFolder()
    logs = RunningLogs(store.logs, folder)
    say(worker, claim, 0, b"one\n")
    logs.copy({claim})
    worker.finish(claim)
    move(store, folder)
    folder.copy(PATH, claim, 0, b"one\n")
    logs.copy(())
    assert folder.copies == {}
    assert folder.files == {PATH: b"one\n"}


@pytest.mark.anyio
async def test_a_quiet_copy_goes_with_a_move_elsewhere(
    sqlite_engine: sa.Engine, store: Store, worker: FakeWorker, claim: ClaimId
) -> None:
    here, there = LogFolder(), LogFolder()
    logs = RunningLogs(store.logs, here, look_s=0.05)
    say(worker, claim, 0, b"one\n")
    logs.copy({claim})
    # Nothing has come since.
    logs.copy(())
    assert here.copies == {(PATH, claim): b"one\n"}
    worker.finish(claim)
    move(store, there)
    asked: list[str] = []
    sa.event.listen(sqlite_engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.copy_for_ever)
        await until(lambda: not here.copies)
        # With no copy left an idle gateway asks nothing.
        before = len(asked)
        assert before
        await anyio.sleep(1.0)
        assert len(asked) == before
        tasks.cancel_scope.cancel()


def test_quiet_copies_are_not_asked_about_with_each_that_grows(
    sqlite_engine: sa.Engine, store: Store, worker: FakeWorker, claim: ClaimId
) -> None:
    folder = LogFolder()
    logs = RunningLogs(store.logs, folder)
    say(worker, claim, 0, b"one\n")
    logs.copy({claim})
    logs.copy(())
    worker.finish(claim)
    job = new_job("t2")
    enqueue(sqlite_engine, job)
    change_job(sqlite_engine, job.key, edge_ws_owner=None)
    other = worker.start(job)
    say(worker, other, 0, b"two\n")
    logs.copy({other})
    assert folder.copies.keys() == {(PATH, claim), ("t2.log", other)}
    logs.copy({other, claim})
    assert folder.copies.keys() == {("t2.log", other)}


def test_of_our_own_rows_there_is_none(sqlite_engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job("ours")
    enqueue(sqlite_engine, job)
    claim = worker.start(job)
    say(worker, claim, 0, b"one\n")
    folder = LogFolder()
    RunningLogs(store.logs, folder).copy({claim})
    assert folder.copies == {}


def test_a_fault_of_the_folder_is_said_once(
    store: Store, worker: FakeWorker, claim: ClaimId, caplog: pytest.LogCaptureFixture
) -> None:
    logs = RunningLogs(store.logs, Full())
    for offset in range(3):
        say(worker, claim, offset, b"x")
        logs.copy({claim})
    assert caplog.text.count("the disk is full") == 1


def test_real_files(
    store: Store, worker: FakeWorker, claim: ClaimId, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    from edge_ws.provider.ports import AirflowFinishedLogs

    folder = AirflowFinishedLogs()
    logs = RunningLogs(store.logs, folder)
    say(worker, claim, 0, b"one\n")
    logs.copy({claim})
    # Airflow reads every file whose name begins with the log's.
    (copy,) = tmp_path.glob("t.log*")
    assert copy.read_bytes() == b"one\n"
    say(worker, claim, 4, b"two\n")
    logs.copy({claim})
    assert copy.read_bytes() == b"one\ntwo\n"
    worker.finish(claim)
    move(store, folder)  # type: ignore[arg-type]
    assert [(path.name, path.read_bytes()) for path in tmp_path.glob("t.log*")] == [("t.log", b"one\ntwo\n")]
