"""Several gateways on one database: an api-server of two processes, without affinity, one of which is killed."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest
import sqlalchemy as sa

from edge_ws.store.tables import gateway, worker
from tests.support.databases import Databases, using
from tests.support.site import READY_S, Site, running_site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system

WORKER = "factory-7"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Site]:
    """An Airflow without an api-server yet."""
    dags = Path(__file__).parents[1] / "system" / "dags"
    with (
        databases.new("postgresql-18", migrated=False) as url,
        running_site(tmp_path_factory.mktemp("site"), dags, url, triggerer=False, api_server=False) as site,
    ):
        yield site


@pytest.fixture(scope="module", params=["uvicorn", "gunicorn"])
def site(request: pytest.FixtureRequest, airflow: Site) -> Iterator[Site]:
    """The Airflow with an api-server of two processes, one kind after the other, and a worker."""
    airflow.environment["AIRFLOW__API__SERVER_TYPE"] = request.param
    try:
        airflow.serve("--workers", "2")
        with using(url_of(airflow)) as engine:
            # Both serve before the worker chooses.
            wait_until(lambda: len(living(engine)) == 2, READY_S)
        airflow.worker(WORKER, "-c", "8", "-q", "default")
        yield airflow
    finally:
        for name in (f"worker-{WORKER}", "api-server"):
            if name in airflow.processes:
                airflow.processes[name].stop(within_s=READY_S)


@pytest.fixture
def engine(site: Site) -> Iterator[sa.Engine]:
    with using(url_of(site)) as engine:
        yield engine


def url_of(site: Site) -> str:
    return site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]


def living(engine: sa.Engine) -> dict[str, int]:
    """Return the gateways that live, with their processes: the row of a killed one stays for a while."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(gateway.c.id, gateway.c.pid)).all()
    return {row.id: row.pid for row in rows if is_running(row.pid)}


def is_running(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def serving(engine: sa.Engine) -> str | None:
    """Return the living gateway that the worker is connected to."""
    query = sa.select(worker.c.gateway).where(worker.c.worker_name == WORKER)
    with engine.connect() as connection:
        found: str | None = connection.scalar(query)
    return found if found in living(engine) else None


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
    assert len(living(engine)) == 2
    site.trigger("success", run := f"r-{uuid.uuid4()}")
    assert site.wait_run("success", run) == "success"
    site.wait_log("hello from the far side", "success", run, "one")


def test_a_gateway_is_killed_in_the_middle(site: Site, engine: sa.Engine) -> None:
    site.trigger("fifty", run := f"r-{uuid.uuid4()}")
    notes = site.notes / f"fifty-{run}"
    wait_until(lambda: notes.is_dir() and len(list(notes.iterdir())) >= 10, READY_S)
    victim = wait_until(lambda: serving(engine))
    os.kill(living(engine)[victim], signal.SIGKILL)
    state = wait_until(lambda: ended(site, "fifty", run), 150, every_s=0.3)
    assert state == "success", site.processes["scheduler"].tail(60)
    assert runs_of_fifty(site, run) == {str(number): 1 for number in range(50)}
    assert {one["try_number"] for one in site.tasks("fifty", run).values()} == {1}
    # The server starts another one in its place, and the worker is with one that lives.
    wait_until(lambda: len(living(engine)) == 2, READY_S)
    assert wait_until(lambda: serving(engine), READY_S) != victim
