"""The demo's folder, and environments that lead to no Airflow of the user's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from edge_ws.demo.place import Place, centre_environment, make_place, scrubbed, worker_environment
from edge_ws.errors import EdgeWsError

EXPORTED = {
    "AIRFLOW_HOME": "/srv/airflow",
    "AIRFLOW_CONFIG": "/srv/airflow/airflow.cfg",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://production/",
    "_AIRFLOW__AS_LIBRARY": "yes",
    "EDGE_WS_TOKEN": "secret",
    "PYTHONPATH": "/srv/lib",
    "PYTHONHOME": "/usr",
    "HTTPS_PROXY": "http://proxy",
    "http_proxy": "http://proxy",
    "no_proxy": "localhost",
}
PLACE = Place(root=Path("/demo"), port=1234)


def test_scrubbed_keeps_the_rest() -> None:
    assert scrubbed({**EXPORTED, "PATH": "/bin", "LANG": "C"}) == {"PATH": "/bin", "LANG": "C"}


def test_the_centre_has_a_database_of_its_own() -> None:
    told = centre_environment(PLACE, EXPORTED)
    assert not set(EXPORTED.values()) & set(told.values())
    assert told["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "sqlite:////demo/centre/airflow.db"
    assert told["AIRFLOW_HOME"] == "/demo/centre"


def test_the_worker_is_told_no_secret_of_the_centre() -> None:
    centre, worker = centre_environment(PLACE, EXPORTED), worker_environment(PLACE, EXPORTED)
    assert not set(EXPORTED.values()) & set(worker.values())
    assert [name for name in worker if "DATABASE" in name or "SECRET" in name or "API" in name] == []
    assert centre["AIRFLOW_HOME"] != worker["AIRFLOW_HOME"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_both_homes_get_the_example(temporary: Path) -> None:
    temporary.mkdir()
    place = make_place()
    assert place.root.parent == temporary
    assert place.root.stat().st_mode & 0o777 == 0o700
    for home in (place.centre, place.worker):
        assert {path.name for path in (home / "dags").iterdir()} == {"factory.py", "data"}
        assert len(list((home / "dags" / "data").glob("*.csv"))) == 8


def test_a_folder_that_cannot_be_made_is_named(temporary: Path) -> None:
    temporary.write_text("a file")
    with pytest.raises(EdgeWsError, match=f"cannot write to {temporary}: Not a directory.*TMPDIR"):
        make_place()
