"""Logs of running jobs: edge3's, as its workers have pushed them; ours, for rows that edge3's executor wrote."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Log
from edge_ws.protocol.ids import ClaimId, new_id
from edge_ws.store.logs import SHOWN_LOG
from edge_ws.store.records import JobKey, LogBounds, NewJob
from edge_ws.store.reports import ROW
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_logs
from tests.support.reports import SingleReports
from tests.support.rows import FakeWorker, change_job, enqueue, new_job

MEBIBYTE = 1024 * 1024


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    return Store(engine)


@pytest.fixture
def worker(store: Store) -> FakeWorker:
    worker = FakeWorker(store)
    worker.register()
    return worker


def push(engine: sa.Engine, key: JobKey, *texts: str) -> None:
    """Write chunks as edge3's api-server does."""
    values = {name: getattr(key, name) for name in ("dag_id", "task_id", "run_id", "map_index", "try_number")}
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    with engine.begin() as connection:
        for number, text in enumerate(texts):
            chunk = {"log_chunk_time": begin + timedelta(seconds=number), "log_chunk_data": text}
            connection.execute(edge_logs.insert().values(**values, **chunk))


class TestEdge3Log:
    def test_nobody_has_the_row(self, engine: sa.Engine, store: Store) -> None:
        job = new_job()
        enqueue(engine, job)
        assert store.logs.edge3_log(job.key) is None

    def test_there_is_no_row(self, store: Store) -> None:
        assert store.logs.edge3_log(new_job().key) is None

    @pytest.mark.parametrize("state", ["restarting", "running"])
    def test_its_worker_and_what_it_pushed(self, engine: sa.Engine, store: Store, state: str) -> None:
        job = new_job()
        enqueue(engine, job, new_job("other"))
        change_job(engine, job.key, state=state, edge_worker="old-1")
        found = store.logs.edge3_log(job.key)
        assert found is not None
        assert (found.worker, found.data, found.cut, found.log_path) == ("old-1", b"", 0, "t.log")
        push(engine, job.key, "grün ", "and blue\n")
        push(engine, new_job("other").key, "another's\n")
        found = store.logs.edge3_log(job.key)
        assert found is not None
        assert (found.data.decode(), found.cut) == ("grün and blue\n", 0)

    def test_the_last_of_a_long_one(self, engine: sa.Engine, store: Store) -> None:
        job = new_job()
        enqueue(engine, job)
        change_job(engine, job.key, state="running", edge_worker="old-1")
        # Two bytes each: what counts is what Airflow is given.
        push(engine, job.key, *(letter * MEBIBYTE for letter in "äöüßé"))
        found = store.logs.edge3_log(job.key)
        assert found is not None
        assert len(found.data) == SHOWN_LOG
        assert found.data.decode()[0] == "ö"
        assert found.cut == 2 * MEBIBYTE

    def test_a_chunk_that_is_longer_than_that(self, engine: sa.Engine, store: Store) -> None:
        job = new_job()
        enqueue(engine, job)
        change_job(engine, job.key, state="running", edge_worker="old-1")
        push(engine, job.key, "first", "x" * (SHOWN_LOG + 1))
        found = store.logs.edge3_log(job.key)
        assert found is not None
        assert (len(found.data), found.cut) == (SHOWN_LOG + 1, 5)

    def test_a_worker_of_ours_has_it(self, engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
        job = new_job()
        enqueue(engine, job)
        worker.start(job)
        push(engine, job.key, "of the round before")
        assert store.logs.edge3_log(job.key) is None

    def test_edge3_queued_it_again(self, engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
        """It leaves our claim of the round before in the row."""
        job = new_job()
        enqueue(engine, job)
        worker.start(job)
        assert store.logs.running_log(job.key) is not None
        change_job(engine, job.key, state="running", edge_worker="old-1")
        push(engine, job.key, "theirs")
        assert store.logs.running_log(job.key) is None
        found = store.logs.edge3_log(job.key)
        assert found is not None
        assert found.data == b"theirs"


class TestLogsToShow:
    def test_only_live_ones_of_rows_that_edge3s_executor_wrote(
        self, engine: sa.Engine, store: Store, worker: FakeWorker
    ) -> None:
        jobs = [new_job(name) for name in ("theirs", "ours", "over")]
        enqueue(engine, *jobs)
        for job in (jobs[0], jobs[2]):
            change_job(engine, job.key, edge_ws_owner=None)
        theirs, ours, over = (worker.start(job) for job in jobs)
        SingleReports(store.reports).append_log(worker.principal, theirs, 0, b"hello")
        worker.finish(over)
        assert store.logs.logs_to_show([theirs, ours, over, new_id()]) == [(theirs, "theirs.log", 5)]  # type: ignore[list-item]
        assert store.logs.logs_to_show([]) == []

    def test_a_part_from_any_byte_on(self, engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
        job = new_job()
        enqueue(engine, job)
        claim = worker.start(job)
        whole = bytes(range(256)) * 10
        for offset in range(0, len(whole), 100):
            SingleReports(store.reports).append_log(
                worker.principal, claim, offset, whole[offset : offset + 100]
            )
        for begin in (0, 1, 99, 100, 2000, 2559):
            part = store.logs.log_part(claim, begin)
            assert part == whole[begin : begin + len(part)]
            assert len(part) >= min(1500, len(whole) - begin)
        assert store.logs.log_part(claim, 2560) == b""
        assert store.logs.log_part(claim, 9999) == b""


class TestLongLogs:
    BOUNDS = LogBounds(head=2 * MEBIBYTE, tail=MEBIBYTE)

    def write(self, worker: FakeWorker, claim: ClaimId, size: int, bounds: LogBounds) -> bytes:
        """Write a log of numbered lines of 1 KiB, in pieces as workers send them; return it."""
        whole = b"".join(b"%07d%s\n" % (number, b"." * 1016) for number in range(size // 1024))
        end = 0
        while end < len(whole):
            chunks = [
                Log(claim=claim, offset=at, data=whole[at : at + 65000])
                for at in range(end, end + 4 * 65000, 65000)
            ]
            batch = [(worker.principal, one) for one in chunks if one.data]
            ends = worker.store.reports.append_logs(batch, {worker.principal.worker: bounds})
            assert isinstance(ends[-1], int)
            assert ends[-1] > end, "what is cut counts as being there: the worker goes on"
            end = ends[-1]
        return whole

    def written(self, engine: sa.Engine, worker: FakeWorker, size: int) -> tuple[NewJob, ClaimId, bytes]:
        """Start a job, and write so much of its log; return both with what was written."""
        job = new_job()
        enqueue(engine, job)
        claim = worker.start(job)
        return job, claim, self.write(worker, claim, size, self.BOUNDS)

    def test_the_begin_and_the_end_are_kept_and_a_line_says_what_is_not(
        self, engine: sa.Engine, store: Store, worker: FakeWorker
    ) -> None:
        _, claim, whole = self.written(engine, worker, 8 * MEBIBYTE)
        assert store.reports.log_sizes()["w1"] <= self.BOUNDS.head + self.BOUNDS.tail + ROW  # type: ignore[index]
        kept = b"".join(store.logs.log_chunks(claim))
        told = [line for line in kept.splitlines(keepends=True) if b"left out" in line]
        assert len(told) == 1
        head, tail = kept.split(told[0])
        left_out = int(json.loads(told[0])["event"].split()[0])
        assert whole.startswith(head.removesuffix(b"\n"))
        assert len(head) >= self.BOUNDS.head
        assert whole.endswith(tail)
        assert self.BOUNDS.tail - ROW <= len(tail) <= self.BOUNDS.tail
        assert len(head.removesuffix(b"\n")) + left_out + len(tail) in {len(whole), len(whole) - 1}
        assert all(len(line) == 1024 for line in tail.splitlines(keepends=True))

    def test_while_it_runs_its_end_is_shown_and_the_copy_ends_before_the_gap(
        self, engine: sa.Engine, store: Store, worker: FakeWorker
    ) -> None:
        job, claim, whole = self.written(engine, worker, 5 * MEBIBYTE)
        shown = store.logs.running_log(job.key)
        assert shown is not None
        assert whole[shown.cut :] == shown.data
        assert shown.lost == len(whole) - store.reports.log_sizes()["w1"]  # type: ignore[index]
        assert 0 < shown.lost < shown.cut
        copied = bytearray()
        while part := store.logs.log_part(claim, len(copied)):
            copied += part
        assert whole.startswith(copied)
        assert self.BOUNDS.head <= len(copied) < shown.cut

    def test_a_log_within_the_bounds_is_whole(
        self, engine: sa.Engine, store: Store, worker: FakeWorker
    ) -> None:
        job = new_job()
        enqueue(engine, job)
        claim = worker.start(job)
        whole = self.write(worker, claim, 3 * MEBIBYTE, self.BOUNDS)
        assert b"".join(store.logs.log_chunks(claim)) == whole
        assert store.reports.log_sizes() == {"w1": len(whole)}
