"""A site moves from edge3 as the README says, step by step, while its DAG runs; and goes back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ws.store.store import Store
from tests.support.databases import Databases, using
from tests.support.edge3 import EXECUTOR, OURS, SETTINGS, edge3_worker, ui
from tests.support.site import READY_S, Site, running_site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system

HOST = "factory-7"
ALIAS = f"EdgeExecutor:{OURS}"


@pytest.fixture
def site(tmp_path: Path, databases: Databases, edge3_path: Path) -> Iterator[Site]:
    """A site with edge3 alone; edge-ws is installed, and does nothing."""
    database = databases.new("postgresql-18", migrated=False)
    with (
        database as url,
        running_site(
            tmp_path,
            Path(__file__).parent / "dags" / "moving",
            url,
            triggerer=False,
            edge3=edge3_path,
            **SETTINGS,
            CORE__EXECUTOR=EXECUTOR,
            EDGE_WS__API_ENABLED="False",
        ) as site,
    ):
        yield site


def restart(site: Site, *parts: str, **settings: str) -> None:
    """Change the centre's configuration and restart those of its parts."""
    site.environment.update({f"AIRFLOW__{name}": value for name, value in settings.items()})
    for part in parts:
        site.processes[part].stop(within_s=READY_S)
        if part == "api-server":
            site.serve()
        else:
            site.spawn(part, "airflow", part)


def run(site: Site, name: str) -> None:
    """Run the DAG; both its tasks succeed at the host, and their logs are there, once."""
    site.trigger("moving", name)
    ends_well(site, name)


def ends_well(site: Site, name: str) -> None:
    assert site.wait_run("moving", name) == "success"
    assert {one["hostname"] for one in site.tasks("moving", name).values()} == {HOST}
    for task, text in (("first", "by the default executor"), ("second", "by the one that it names")):
        assert site.wait_log(text, "moving", name, task).count(text) == 1


def kinds(site: Site) -> dict[str, tuple[str, str]]:
    """Return the workers by name: kind and state."""
    with using(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]) as engine:
        return {
            one.name: ("edge-ws" if one.is_ours else "edge3", one.state)
            for one in Store(engine).views.workers()
        }


def start_theirs(site: Site) -> None:
    edge3_worker(site, HOST, "-q", "factory")


def start_ours(site: Site) -> None:
    names = site.environment["AIRFLOW__CORE__EXECUTOR"]
    site.worker(HOST, "-q", "factory", AIRFLOW__CORE__EXECUTOR=names)


@pytest.mark.timeout(600)
def test_a_site_moves_and_goes_back(site: Site) -> None:
    start_theirs(site)

    # 1. The gateway.
    restart(site, "api-server", EDGE_WS__API_ENABLED="True")
    run(site, "with-a-gateway")
    assert kinds(site)[HOST][0] == "edge3"

    # 2. The host, under its name: edge3's worker drains and leaves, ours comes.
    assert site.processes[f"worker-{HOST}"].stop(signal.SIGINT) == 0
    start_ours(site)
    run(site, "with-our-worker")
    assert kinds(site)[HOST][0] == "edge-ws"

    # 3. The executor, while a task runs.
    site.notes.joinpath("hold-meanwhile").touch()
    site.trigger("moving", "meanwhile")
    wait_until((site.notes / "begun-meanwhile").exists, 60, every_s=0.1)
    restart(site, "scheduler", "api-server", CORE__EXECUTOR=ALIAS)
    site.wait_log(f"Running on edge-ws worker {HOST}", "moving", "meanwhile", "first")
    site.notes.joinpath("hold-meanwhile").unlink()
    ends_well(site, "meanwhile")

    # And back: the executor, the host, the gateway.
    restart(site, "scheduler", CORE__EXECUTOR=EXECUTOR)
    run(site, "with-their-executor")
    # By edge3's page; ours obeys as edge3's own does.
    ui(site, "POST", f"worker/{HOST}/shutdown")
    assert site.processes[f"worker-{HOST}"].popen.wait(30) == 0
    assert kinds(site) == {HOST: ("edge-ws", "offline")}
    ui(site, "DELETE", f"worker/{HOST}")
    assert kinds(site) == {}
    restart(site, "api-server", EDGE_WS__API_ENABLED="False")
    start_theirs(site)
    run(site, "back")
    assert kinds(site)[HOST][0] == "edge3"
