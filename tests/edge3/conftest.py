"""The real edge3 beside edge-ws: in this process on one database, and as a whole Airflow with processes."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.centre import Centre, configured, migrate_airflow
from tests.support.databases import Databases
from tests.support.edge3 import EXECUTOR, OURS, SETTINGS, edge3_worker
from tests.support.site import Site, running_site

# Airflow looks at its home when it is imported: it must not find the developer's own.
_HOME = Path(tempfile.mkdtemp(prefix="edge-ws-airflow-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.setdefault("AIRFLOW_HOME", str(_HOME))


@pytest.fixture
def _edge3(edge3_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real edge3 for this process; its plugin and its provider info are left out of it."""
    import airflow

    monkeypatch.setattr(airflow, "__path__", [*airflow.__path__, str(edge3_path / "airflow")])
    for option, value in {"HEARTBEAT_INTERVAL": 30, "JOB_SUCCESS_PURGE": 5, "JOB_FAIL_PURGE": 60}.items():
        monkeypatch.setenv(f"AIRFLOW__EDGE__{option}", str(value))
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_hex(32))
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path / "logs"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import airflow.providers.edge3.executors.edge_executor
        import airflow.providers.edge3.worker_api.routes.jobs


@pytest.fixture(scope="session", params=["sqlite", "postgresql-18"])
def migrated(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """URL of a database with Airflow's tables and ours, which are edge3's as well."""
    with databases.new(request.param, migrated=False) as url:
        migrate_airflow(url, _HOME)
        yield url


@pytest.fixture
def centre(_edge3: None, migrated: str) -> Iterator[Centre]:
    """An Airflow without processes; what a test leaves there, the next one finds."""
    with configured(migrated) as engine:
        for table in ("edge_job", "edge_logs", "edge_worker", "edge_ws_claim", "edge_ws_worker"):
            with engine.begin() as connection:
                connection.exec_driver_sql(f"DELETE FROM {table}")
        yield Centre(engine)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, databases: Databases, edge3_path: Path) -> Iterator[Site]:
    """Airflow with both executors and both plugins, an unchanged worker of edge3's and one of ours."""
    folder = tmp_path_factory.mktemp("site-edge3")
    dags = Path(__file__).parent / "dags" / "beside"
    with (
        databases.new("postgresql-18", migrated=False) as url,
        running_site(
            folder,
            dags,
            url,
            triggerer=False,
            edge3=edge3_path,
            CORE__EXECUTOR=f"{EXECUTOR},edge_ws:{OURS}",
            **SETTINGS,
        ) as site,
    ):
        edge3_worker(site, "theirs", "-q", "theirs,both")
        names = site.environment["AIRFLOW__CORE__EXECUTOR"]
        site.worker("ours", "-q", "ours,both", AIRFLOW__CORE__EXECUTOR=names)
        yield site


@pytest.fixture
def _spare_the_site(site: Site, session_pids: set[int]) -> Iterator[None]:
    """The site's processes, job hosts among them, live until the session's end."""
    yield
    for one in psutil.process_iter(["environ", "cwd"]):
        places = (one.info["environ"] or {}).get("HOME", ""), one.info["cwd"] or ""
        if any(place.startswith(str(site.home.parent)) for place in places):
            session_pids.add(one.pid)
