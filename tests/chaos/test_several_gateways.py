"""Several gateways on one database: an api-server of two processes, without affinity, one of which is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.store.tables import gateway, worker
from tests.support.databases import Databases, using
from tests.support.site import Site, running_site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system

WORKER = "factory-7"


@pytest.fixture(scope="module", params=["uvicorn", "gunicorn"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, databases: Databases
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(f"site-{request.param}")
    dags = Path(__file__).parents[1] / "system" / "dags"
    settings = {"API__SERVER_TYPE": request.param}
    flags = ("--workers", "2")
    with (
        databases.new("postgresql-18", migrated=False) as url,
        running_site(folder, dags, url, triggerer=False, api_server=flags, **settings) as site,
    ):
        # Both serve before the worker chooses.
        with using(url) as engine:
            wait_until(lambda: len(gateways(engine)) == 2, 60)
        site.worker(WORKER, "-c", "8", "-q", "default")
        yield site


@pytest.fixture
def engine(site: Site) -> Iterator[sa.Engine]:
    with using(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]) as engine:
        yield engine


def gateways(engine: sa.Engine) -> dict[str, int]:
    """Return the gateways' ids and processes."""
    with engine.connect() as connection:
        return {row.id: row.pid for row in connection.execute(sa.select(gateway.c.id, gateway.c.pid))}


def serving(engine: sa.Engine) -> str | None:
    """Return the gateway that the worker is connected to."""
    query = sa.select(worker.c.gateway).where(worker.c.worker_name == WORKER)
    with engine.connect() as connection:
        found: str | None = connection.scalar(query)
        return found


def ended(site: Site, dag: str, run: str) -> str | None:
    """Return the run's state once it has ended; an api-server's process may die with the question."""
    try:
        state = str(site.api("GET", f"dags/{dag}/dagRuns/{run}")["state"])
    except httpx2.TransportError:
        return None
    return state if state in {"success", "failed"} else None


def runs_of_fifty(site: Site, run: str) -> dict[str, int]:
    """Return for each task how often it ran."""
    return {path.name: len(path.read_text().split()) // 2 for path in (site.notes / f"fifty-{run}").iterdir()}


def test_dags_run_through_either_gateway(site: Site, engine: sa.Engine) -> None:
    assert len(gateways(engine)) == 2
    site.trigger("success", "r1")
    assert site.wait_run("success", "r1") == "success"
    site.wait_log("hello from the far side", "success", "r1", "one")
    site.trigger("fifty", "r1")
    assert site.wait_run("fifty", "r1", 150) == "success"
    assert runs_of_fifty(site, "r1") == {str(number): 1 for number in range(50)}


def test_a_gateway_is_killed_in_the_middle(site: Site, engine: sa.Engine) -> None:
    site.trigger("fifty", "r2")
    notes = site.notes / "fifty-r2"
    wait_until(lambda: notes.is_dir() and len(list(notes.iterdir())) >= 10, 60)
    victim = serving(engine)
    assert victim is not None
    os.kill(gateways(engine)[victim], signal.SIGKILL)
    state = wait_until(lambda: ended(site, "fifty", "r2"), 150, every_s=0.3)
    assert state == "success", site.processes["scheduler"].tail(60)
    assert runs_of_fifty(site, "r2") == {str(number): 1 for number in range(50)}
    assert {one["try_number"] for one in site.tasks("fifty", "r2").values()} == {1}
    # The server starts another one in its place, and the worker is with one that lives.
    wait_until(lambda: len([one for one in gateways(engine) if one != victim]) == 2, 60)
    assert serving(engine) not in {victim, None}
