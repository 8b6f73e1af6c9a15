"""The executor by itself: `sync` and `queue_workload`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from tests.bench.machine import Meter
from tests.bench.report import Result, middle
from tests.bench.site import Bench
from tests.bench.stand import OWNER, Stand, make_command
from tests.support.databases import using


def sync(bench: Bench) -> list[Result]:
    """`sync()` while nothing changes: of the rows 80 % are queued, 10 % running, 10 % over and reported."""
    results = []
    for rows in bench.plan.sync_rows:
        took: dict[str, list[float]] = {"edge_ws": [], "edge3": []}
        statements: dict[str, float] = {}
        for system in bench.systems:
            is_edge3 = system == "edge3"
            with bench.stand.executor(is_edge3=is_edge3) as executor:
                url = bench.stand.edge3_url if is_edge3 else bench.stand.url
                bench.stand.clear(url)
                with using(url) as engine:
                    held = _fill(engine, rows, is_edge3=is_edge3)
                executor.ask("hold", names=held)
                calls = max(2, bench.plan.sync_calls // (3 if is_edge3 else 1))
                with Meter({"executor": executor.pid, "postgres": bench.stand.postgres.pid}) as meter:
                    said = executor.ask("sync", times=calls)
            took[system] = [1000 * one for one in said["seconds"]]
            statements[system] = said["statements"]
            bench.say(f"sync: {system} {rows} rows: {middle(took[system]):.2f} ms; {meter.load}")
        goal = rows == 50_000
        results += [
            Result(
                name=f"sync(), {rows:,} rows",
                unit="ms",
                edge_ws=middle(took["edge_ws"]),
                edge3=middle(took["edge3"]),
                goal="<= 5" if goal else "",
            ),
            Result(
                name=f"sync(), {rows:,} rows, statements",
                unit="",
                edge_ws=statements.get("edge_ws"),
                edge3=statements.get("edge3"),
                goal="<= 4" if goal else "",
            ),
        ]
    return results


def _fill(engine: sa.Engine, rows: int, *, is_edge3: bool) -> list[str]:
    """Write the rows; return the names of the jobs that the executor is still to hear of."""
    owner = (
        ("", "") if is_edge3 else (", edge_ws_owner", f", CASE WHEN n % 10 = 9 THEN NULL ELSE {OWNER} END")
    )
    statement = sa.text(
        f"""INSERT INTO edge_job (dag_id, task_id, run_id, map_index, try_number, task_instance_id, state, queue,
            concurrency_slots, priority_weight, command, queued_dttm, edge_worker, last_update{owner[0]})
        SELECT 'bench', 't-' || n, 'bench', -1, 1, '',
            CASE WHEN n % 10 = 9 THEN 'success' WHEN n % 10 = 8 THEN 'running' ELSE 'queued' END,
            'nobody', 1, 1, CAST(:command AS text), now(),
            CASE WHEN n % 10 >= 8 THEN 'bench-0' END, now(){owner[1]}
        FROM generate_series(1, {rows}) AS n"""
    )
    command = make_command("t", "nobody", "01a1ffa7-1579-75c6-bdc2-8433b5a57793")
    with engine.begin() as connection:
        connection.execute(statement, {"command": command})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE edge_job")
    return [f"t-{number}" for number in range(1, rows + 1) if number % 10 != 9]


def queue(bench: Bench) -> list[Result]:
    """`queue_workload` with its flush, and the scheduler's commit of 16 tasks, beside a gateway that listens."""
    each: dict[str, list[float]] = {"edge_ws": [], "without": [], "edge3": []}
    commits: dict[str, list[float]] = {"edge_ws": [], "without": [], "edge3": []}
    statements: dict[str, float] = {}
    plan, stand = bench.plan, bench.stand
    for _ in range(plan.rounds):
        for system in bench.systems:
            ways = ["edge3"] if system == "edge3" else ["edge_ws", *_without(stand)]
            with stand.executor(is_edge3=system == "edge3") as executor, _listening(bench, system):
                for way in ways:
                    with _triggers(stand, enabled=way != "without"):
                        executor.ask("queue", batches=2, mark=secrets.token_hex(4))
                        said = executor.ask("queue", batches=plan.queue_batches, mark=secrets.token_hex(4))
                    each[way] += [1000 * one / said["batch"] for one in said["calls"]]
                    commits[way] += [1000 * one for one in said["commits"]]
                    statements[way] = said["statements"]
                    bench.say(
                        f"queue: {way}: {middle(each[way]):.3f} ms a workload, "
                        f"COMMIT of {said['batch']} {middle(commits[way]):.2f} ms, {statements[way]:.1f} statements"
                    )
    results = [
        Result(
            name="queue_workload",
            unit="ms",
            edge_ws=middle(each["edge_ws"]),
            edge3=middle(each["edge3"]),
        ),
        Result(
            name="queue_workload, the scheduler's COMMIT of 16",
            unit="ms",
            edge_ws=middle(commits["edge_ws"]),
            edge3=middle(commits["edge3"]),
        ),
    ]
    if each["without"]:
        results += [
            Result(name="queue_workload, without our triggers", unit="ms", edge_ws=middle(each["without"])),
            Result(
                name="queue_workload, COMMIT of 16 without our triggers",
                unit="ms",
                edge_ws=middle(commits["without"]),
            ),
        ]
    else:
        bench.say("queue: edge_job has no triggers, so there is nothing to compare without them")
    return results


def _without(stand: Stand) -> list[str]:
    query = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'edge_job'::regclass AND NOT tgisinternal"
    with using(stand.url) as engine, engine.connect() as connection:
        return ["without"] if connection.exec_driver_sql(query).scalar_one() else []


@contextmanager
def _triggers(stand: Stand, *, enabled: bool) -> Iterator[None]:
    if enabled:
        yield
        return

    def switch(word: str) -> None:
        with using(stand.url) as engine, engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE edge_job {word} TRIGGER USER")

    switch("DISABLE")
    try:
        yield
    finally:
        switch("ENABLE")


@contextmanager
def _listening(bench: Bench, system: str) -> Iterator[None]:
    if system == "edge3":
        yield
        return
    with bench.stand.gateway(bench.stand.url):
        yield
