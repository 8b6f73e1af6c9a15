"""A gateway's figures: counted once, by minutes of the database's clock, added up over gateways."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName
from edge_ws.server.figure_rows import figures_row
from edge_ws.server.figures import BOUNDS, KEPT, LONGEST, Figures, Histogram
from edge_ws.store.figures import GatewayFigures

DATABASE = 1_800_000_000.0
"""The database's time when a clock of these tests says 0."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, **connections: int) -> Figures:
    figures = Figures(lambda: {"websocket": 0, "longpoll": 0, **connections}, clock=clock)
    figures.aligned(DATABASE, 0.0)
    return figures


def record(name: str, figures: Figures | str | None, **changes: Any) -> GatewayFigures:
    values: dict[str, Any] = {
        "id": GatewayId(name),
        "hostname": name,
        "pid": 1,
        "started_at": DATABASE,
        "seen_s": 1.0,
        "is_alive": True,
        "has_ended": False,
        "has_metrics": False,
        "figures": figures.as_text() if isinstance(figures, Figures) else figures,
    }
    return GatewayFigures(**{**values, **changes})


def test_what_is_said_again_counts_once() -> None:
    clock = Clock()
    figures = made(clock)
    claim = ClaimId("c")
    figures.offered(claim, waited_s=2.0, free_s=0.25)
    clock.now = 1.0
    for _ in range(3):
        figures.accepted(claim)
    clock.now = 3.0
    for _ in range(3):
        figures.started(claim)
    assert figures.counts["offers"] == figures.counts["offer_results:accepted"] == 1
    assert figures.durations["push_latency"].total == pytest.approx(0.25)
    assert sum(figures.durations["start_latency"].buckets) == 1
    assert figures.durations["start_latency"].total == pytest.approx(5.0)


def test_a_wish_is_measured_until_its_revision_is_in_force() -> None:
    clock = Clock()
    figures = made(clock)
    name = WorkerName("w")
    figures.wished(name, 3, at=0.0)
    clock.now = 0.5
    figures.wished(name, 3, at=0.5)
    assert not figures.applied(name, 2)
    clock.now = 2.0
    assert figures.applied(name, 3)
    assert not figures.applied(name, 3)
    assert figures.durations["wish_latency"].total == pytest.approx(2.0)


def test_what_never_ends_is_forgotten() -> None:
    figures = made(Clock())
    for number in range(3 * KEPT):
        figures.offered(ClaimId(str(number)), 1.0, 1.0)
        figures.wished(WorkerName(f"w{number}"), 1, at=0.0)
    assert len(figures._offered) == len(figures._wished) == KEPT


def test_minutes_and_the_hour() -> None:
    clock = Clock()
    figures = made(clock, websocket=3, longpoll=1)
    for minute in range(90):
        clock.now = 60.0 * minute
        figures.turn()
        figures.count("connects", "websocket")
        figures.count("log_bytes", by=minute)
    row: Any = figures_row([record("a", figures)], DATABASE + clock.now)
    assert len(row["minutes"]) == 60
    assert [one["connects"] for one in row["minutes"]] == [{"websocket": 1}] * 60
    assert [one["log_bytes"] for one in row["minutes"]] == list(range(30, 90))
    assert row["hour"]["connects"] == {"websocket": 60}
    assert {one["longpoll_share"] for one in row["minutes"]} == {0.25}
    assert row["minutes"][-1]["minute"] > row["minutes"][0]["minute"] == row["hour"]["minute"]


def test_a_gateway_whose_clock_is_off_counts_in_the_databases_minutes() -> None:
    right, wrong = Clock(), Clock()
    wrong.now = 5_000_000.0
    one, other = made(right), Figures(dict, clock=wrong)
    other._ahead_s = -86_400.0 * 365
    other.turn()
    other.aligned(DATABASE, wrong.now)
    for _ in range(2):
        one.count("offers")
        other.count("offers")
        right.now += 60.0
        wrong.now += 60.0
    for figures in (one, other):
        figures.turn()
    row: Any = figures_row([record("a", one), record("b", other)], DATABASE + 60.0)
    assert sum(minute["offers"] for minute in row["minutes"]) == row["hour"]["offers"] == 4


def test_what_the_database_s_clock_jumps_over_is_not_shown_in_the_future() -> None:
    clock = Clock()
    figures = made(clock)
    figures.count("offers")
    figures.aligned(DATABASE + 7200.0, 0.0)
    figures.count("offers")
    figures.aligned(DATABASE, 0.0)
    figures.count("offers")
    row: Any = figures_row([record("a", figures)], DATABASE)
    assert row["hour"]["offers"] == 2


def test_the_own_memory_is_newer_than_the_row() -> None:
    clock = Clock()
    figures = made(clock)
    figures.count("offers")
    written = record("a", figures)
    figures.count("offers")
    row: Any = figures_row([written], DATABASE, (GatewayId("a"), figures.snapshot()))
    assert row["hour"]["offers"] == 2
    assert figures_row([written], DATABASE)["hour"]["offers"] == 1  # type: ignore[index]


def test_a_gateway_that_was_killed_still_counts_but_has_no_connections_any_more() -> None:
    killed_at, clock = Clock(), Clock()
    killed, living = made(killed_at, websocket=5), made(clock, websocket=1)
    killed.count("ends", "success")
    for clock.now in (60.0, 120.0):
        living.turn()
    gateways = [record("dead", killed, is_alive=False, seen_s=100.0), record("b", living)]
    row: Any = figures_row(gateways, DATABASE + 120.0)
    assert row["hour"]["ends"] == {"success": 1}
    assert [one["connections"]["websocket"] for one in row["minutes"][-3:]] == [6, 1, 1]
    assert [one["alive"] for one in row["gateways"]] == [False, True]


def test_one_that_has_not_written_this_minute_yet_keeps_its_connections() -> None:
    clock = Clock()
    figures = made(clock, websocket=5)
    row: Any = figures_row([record("a", figures)], DATABASE + 70.0)
    assert row["minutes"][-1]["connections"]["websocket"] == 5


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"version": 2}', '{"version": 1}', '{"version": 1, "minutes": [1]}']
)
def test_a_row_that_cannot_be_read_hides_no_other(text: str | None) -> None:
    figures = made(Clock())
    figures.count("offers")
    row: Any = figures_row([record("strange", text), record("a", figures)], DATABASE)
    assert row["hour"]["offers"] == 1
    assert len(row["gateways"]) == 2


def test_quantiles_of_added_buckets_are_near_the_true_ones() -> None:
    clock, random_ = Clock(), random.Random(7)
    one, other = made(clock), made(clock)
    values = [random_.lognormvariate(-3.0, 1.5) for _ in range(4000)]
    for index, value in enumerate(values):
        (one, other)[index % 2].durations["push_latency"].add(value)
    row: Any = figures_row([record("a", one), record("b", other)], DATABASE)
    shown = row["hour"]["push_latency"]
    values.sort()
    assert shown["count"] == 4000
    assert shown["max"] == pytest.approx(values[-1], abs=1e-5)
    for name, true in (("p50", values[2000]), ("p99", values[3960])):
        assert true / 1.6 < shown[name] < true * 1.6


def test_the_text_fits_its_column_whatever_happens() -> None:
    clock = Clock()
    figures = made(clock)
    for minute in range(70):
        clock.now = 60.0 * minute
        figures.turn()
        for label in range(40):
            figures.count("drops", f"reason-{label}")
        for one in figures.durations.values():
            for bound in BOUNDS:
                one.add(bound)
    text = figures.as_text()
    assert len(text) <= LONGEST
    assert json.loads(text)["minutes"][-1]["c"]["drops:reason-0"] == 1


def test_a_negative_duration_is_none() -> None:
    histogram = Histogram()
    histogram.add(-3.0)
    assert (histogram.buckets[0], histogram.total) == (1, 0.0)


def test_what_a_gone_worker_had_not_accepted_counts_once() -> None:
    figures = made(Clock())
    for name in ("accepted", "refused", "open"):
        figures.offered(ClaimId(name), 0.0, 0.0)
    figures.accepted(ClaimId("accepted"))
    figures.offer_ended(ClaimId("refused"), "refused")
    for _ in range(2):
        figures.gone([ClaimId(name) for name in ("accepted", "refused", "open", "another's")])
    results = {name: count for name, count in figures.counts.items() if name.startswith("offer_results")}
    assert results == {f"offer_results:{name}": 1 for name in ("accepted", "refused", "disconnected")}
