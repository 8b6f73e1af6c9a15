"""The demo's folder, and environments that lead to no Airflow of the user's."""

from __future__ import annotations

import tempfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from edge_ws.demo.sandbox import Place, centre_environment, make_place, scrubbed, worker_environment
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


def test_nothing_of_the_users_is_passed_on() -> None:
    centre, worker = centre_environment(PLACE, EXPORTED), worker_environment(PLACE, EXPORTED)
    assert not set(EXPORTED.values()) & {*centre.values(), *worker.values()}
    assert centre["AIRFLOW_HOME"] == "/demo/centre"
    assert worker["AIRFLOW_HOME"] == "/demo/worker"


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


def test_the_centres_settings_are_all_in_its_home(temporary: Path) -> None:
    (temporary / "100% new").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary / "100% new"))
        place = make_place()
    file = place.centre / "airflow.cfg"
    assert file.stat().st_mode & 0o777 == 0o600
    # As Airflow reads it.
    told = ConfigParser()
    told.read(file)
    assert told["database"]["sql_alchemy_conn"] == f"sqlite:///{place.centre}/airflow.db"
    assert told["api"]["base_url"] == place.url
    assert len(told["api_auth"]["jwt_secret"]) >= 32


def test_the_worker_has_no_secret_of_the_centre(temporary: Path) -> None:
    temporary.mkdir()
    place = make_place()
    told = worker_environment(place, EXPORTED)
    assert [name for name in told if "DATABASE" in name or "SECRET" in name or "API" in name] == []
    assert list(place.worker.rglob("*.cfg")) == []


def test_a_folder_that_cannot_be_made_is_named(temporary: Path) -> None:
    temporary.write_text("a file")
    with pytest.raises(EdgeWsError, match=f"cannot write to {temporary}: Not a directory.*TMPDIR"):
        make_place()
