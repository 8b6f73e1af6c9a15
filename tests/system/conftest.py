"""One real Airflow with one real worker for all system tests of a run, on each kind of database in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.databases import Databases
from tests.support.site import Site, running_site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the tests that are marked so to the first kind of database."""
    items[:] = [one for one in items if not one.get_closest_marker("one_database") or "[sqlite]" in one.name]


@pytest.fixture(scope="session", params=["sqlite", "postgresql-18"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, databases: Databases
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(f"site-{request.param}")
    dags = Path(__file__).parent / "dags"
    # Airflow 3.4 lets a task that is to end go on for a minute, 3.3 for 5 s.
    settings = {"CORE__KILLED_TASK_CLEANUP_TIME": "5"}
    with (
        databases.new(request.param, migrated=False) as url,
        running_site(folder, dags, url, **settings) as site,
    ):
        site.worker("factory-7", "-c", "8", "-q", "default")
        yield site


@pytest.fixture(autouse=True)
def _spare_the_site(site: Site, session_pids: set[int]) -> Iterator[None]:
    """The site's processes, job hosts among them, live until the session's end."""
    yield
    for one in psutil.process_iter(["environ"]):
        if (one.info["environ"] or {}).get("HOME", "").startswith(str(site.home.parent)):
            session_pids.add(one.pid)
