"""A real Airflow with both executors and plugins, an unchanged `airflow edge worker` and a worker of ours."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from edge_ws.store.tables import edge_worker, worker
from tests.support.databases import using
from tests.support.edge3 import ui
from tests.support.site import Site, seconds_until
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("_spare_the_site")]

TASKS = ("by_EdgeExecutor", "by_edge_ws")


def begun(site: Site, dag: str, run: str) -> bool:
    return all((site.notes / f"begun-{run}-{dag}-{task}").exists() for task in TASKS)


def go_on(site: Site, run: str) -> None:
    (site.notes / f"go-on-{run}").touch()


@pytest.mark.parametrize("side", ["theirs", "ours"])
def test_each_worker_runs_tasks_of_both_executors_and_their_logs_are_readable(site: Site, side: str) -> None:
    dag, run = f"on_{side}", f"logs-{side}"
    site.trigger(dag, run)
    try:
        wait_until(lambda: begun(site, dag, run), 60, every_s=0.1)
    except AssertionError:
        raise AssertionError("\n".join(one.tail(40) for one in site.processes.values())) from None
    for task in TASKS:
        log = site.wait_log("the first line", dag, run, task)
        assert site.tasks(dag, run)[task, -1]["state"] == "running"
        assert (log.count("the first line"), log.count("the last line")) == (1, 0)
        assert log.count("DAG bundles loaded") == 1
        if task == "by_edge_ws":
            assert f"Running on {'edge3' if side == 'theirs' else 'edge-ws'} worker {side}" in log
    go_on(site, run)
    assert site.wait_run(dag, run) == "success"
    assert {one["hostname"] for one in site.tasks(dag, run).values()} == {side}
    for task in TASKS:
        log = site.wait_log("the last line", dag, run, task)
        for line in ("the first line", "the last line", "DAG bundles loaded"):
            assert log.count(line) == 1, line
        folder = site.home / "logs" / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}"
        wait_until(lambda folder=folder: [one.name for one in folder.iterdir()] == ["attempt=1.log"], 10)


def test_a_queue_of_both(site: Site) -> None:
    for run in ("r1", "r2"):
        go_on(site, run)
        site.trigger("on_both", run)
    for run in ("r1", "r2"):
        assert site.wait_run("on_both", run) == "success"
        assert {one["hostname"] for one in site.tasks("on_both", run).values()} <= {"theirs", "ours"}


def applied(site: Site) -> tuple[int, list[str]]:
    """What our worker has in force, as the database knows it."""
    with (
        using(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]) as engine,
        engine.connect() as connection,
    ):
        query = sa.select(worker.c.applied_concurrency, worker.c.applied_queues)
        concurrency, queues = connection.execute(query.where(worker.c.worker_name == "ours")).one()
    return int(concurrency), sorted(queues or [])


def test_edge3s_verbs_and_routes_reach_our_worker_by_push(site: Site) -> None:
    """edge3's own worker would learn of them with its next heartbeat; this one has none until 15 s later."""
    path = "worker/ours"
    assert applied(site) == (8, ["both", "ours"])
    ui(site, "PATCH", f"{path}/concurrency", {"concurrency": 3})
    assert seconds_until(lambda: applied(site) == (3, ["both", "ours"]), 5) < 3
    ui(site, "PUT", f"{path}/queues/more")
    assert seconds_until(lambda: applied(site) == (3, ["both", "more", "ours"]), 5) < 3
    ui(site, "DELETE", f"{path}/queues/more")
    assert seconds_until(lambda: applied(site) == (3, ["both", "ours"]), 5) < 3
    site.airflow("edge", "set-worker-concurrency", "-H", "ours", "-c", "8")
    assert seconds_until(lambda: applied(site) == (8, ["both", "ours"]), 5) < 3
    shown = {one["worker_name"]: one for one in ui(site, "GET", "worker")["workers"]}
    assert shown["ours"]["state"] in {"idle", "running"}
    listed = json.loads(site.airflow("edge", "list-workers", "-o", "json").stdout.splitlines()[-1])
    assert {one["worker_name"] for one in listed} >= {"theirs", "ours"}


def state(site: Site) -> tuple[str, str | None]:
    with (
        using(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]) as engine,
        engine.connect() as connection,
    ):
        query = sa.select(edge_worker.c.state, edge_worker.c.maintenance_comment)
        row = connection.execute(query.where(edge_worker.c.worker_name == "ours")).one()
    return row.state, row.maintenance_comment


def test_maintenance_by_edge3s_page(site: Site) -> None:
    path = "worker/ours/maintenance"
    ui(site, "POST", path, {"maintenance_comment": "a new press"})
    assert seconds_until(lambda: state(site)[0] == "maintenance mode", 5) < 3
    assert "a new press" in (state(site)[1] or "")
    go_on(site, "later")
    site.trigger("on_ours", "later")
    ui(site, "PATCH", path, {"maintenance_comment": "until noon"})
    assert "until noon" in (state(site)[1] or "")
    wait_until(
        lambda: {one["state"] for one in site.tasks("on_ours", "later").values()} == {"queued"},
        30,
        every_s=0.3,
    )
    ui(site, "DELETE", path)
    assert site.wait_run("on_ours", "later") == "success"
    assert state(site)[1] is None
