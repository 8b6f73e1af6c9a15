"""A real Airflow in this process: its migrated metadata database with ours, a DAG, task instances."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.centre import Centre, configured, migrate_airflow
from tests.support.databases import POSTGRES_KINDS, Databases

# Airflow looks at its home when it is imported, which the modules of these tests do: it must not find the
# developer's own.
_HOME = Path(tempfile.mkdtemp(prefix="edge-ws-airflow-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["AIRFLOW_HOME"] = str(_HOME)


@pytest.fixture(scope="session")
def airflow_file() -> Path:
    """The file of a migrated database: Airflow's tables, ours, and one DAG."""
    file = _HOME / "template.db"
    migrate_airflow(f"sqlite:///{file}", _HOME)
    # Whole without its -wal: the last engine to use it has closed it.
    return file


@pytest.fixture
def _airflow_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_hex(32))
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path / "logs"))


@pytest.fixture
def centre(_airflow_settings: None, airflow_file: Path, tmp_path: Path) -> Iterator[Centre]:
    """A new Airflow database with our tables and one DAG, and this process configured for it."""
    file = tmp_path / "airflow.db"
    shutil.copyfile(airflow_file, file)
    with configured(f"sqlite:///{file}") as engine:
        yield Centre(engine)


@pytest.fixture(scope="session", params=POSTGRES_KINDS)
def airflow_postgres(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """URL of a migrated database as `airflow_file` is one; shared by all tests of the session."""
    with databases.new(request.param, migrated=False) as url:
        migrate_airflow(url, _HOME)
        yield url


@pytest.fixture
def postgres_centre(_airflow_settings: None, airflow_postgres: str) -> Iterator[Centre]:
    """Airflow on PostgreSQL; what a test leaves there, the next one finds."""
    with configured(airflow_postgres) as engine:
        yield Centre(engine)
