"""Whose logs are cut, and to what: over the limit of a job, of a worker, and of the table."""

from __future__ import annotations

import pytest

from edge_ws.protocol.ids import WorkerName
from edge_ws.server.config import GatewaySettings
from edge_ws.server.log_limits import MEASURE_S, SHORT, LogLimits
from edge_ws.store.records import LogBounds

MEBIBYTE = 1024 * 1024
W1, W2, W3 = map(WorkerName, ("w1", "w2", "w3"))


class Table:
    """What there is, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sizes: dict[WorkerName, int] = {}

    def limits(self, of_job: int = 0, of_worker: int = 0, of_all: int = 0) -> LogLimits:
        settings = GatewaySettings(
            hostname="g", job_log_limit=of_job, worker_log_limit=of_worker, log_table_limit=of_all
        )
        return LogLimits(lambda: self.sizes, settings, lambda: self.now)


def test_without_limits_all_is_kept() -> None:
    assert Table().limits().bounds({W1}) == {}


def test_one_jobs_log_keeps_what_the_limit_lets_it() -> None:
    assert Table().limits(256 * MEBIBYTE).bounds({W1}) == {W1: LogBounds(248 * MEBIBYTE, 8 * MEBIBYTE)}
    assert Table().limits(MEBIBYTE).bounds({W1}) == {W1: LogBounds(MEBIBYTE // 2, MEBIBYTE // 2)}


def test_a_worker_that_has_too_much_is_cut_alone_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    limits = table.limits(of_worker=10)
    assert limits.bounds({W1, W2}) == {}
    limits.grown(W1, 11)
    assert limits.bounds({W1, W2}) == limits.bounds({W1, W2}) == {W1: SHORT}
    assert [record.getMessage()[:9] for record in caplog.records] == ["Worker w1"]
    table.now += MEASURE_S
    assert limits.bounds({W1, W2}) == {}, "they were moved meanwhile"


def test_in_a_full_table_those_are_cut_who_have_more_than_a_share() -> None:
    table = Table()
    table.sizes = {W1: 70, W2: 40, W3: 5}
    limits = table.limits(of_all=100)
    assert limits.bounds({W1, W2, W3}) == {W1: SHORT, W2: SHORT}
    table.now, table.sizes = MEASURE_S, {W1: 50, W2: 40, W3: 5}
    assert limits.bounds({W1, W2, W3}) == {}


def test_where_both_hold_the_shorter_one_counts() -> None:
    table = Table()
    table.sizes = {W1: 11}
    assert table.limits(MEBIBYTE, 10).bounds({W1}) == {W1: LogBounds(MEBIBYTE // 2, MEBIBYTE // 2)}
