"""Airflow's configuration read without Airflow: as Airflow reads it, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_ws.provider.plain_config import NotPlainError, PlainConfig

URL = "postgresql+psycopg2://me:p%40ss@db/airflow"
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "variable": ("", {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////tmp/x.db"}),
    "file": ("[database]\nsql_alchemy_conn = sqlite:////tmp/y.db\n", {}),
    "variable beats file": (
        "[database]\nsql_alchemy_conn = sqlite:////tmp/y.db\n",
        {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////tmp/x.db"},
    ),
    "expanded": (
        "[database]\nsql_alchemy_conn = sqlite:///$DB_FOLDER/y.db\n",
        {"DB_FOLDER": "/tmp/${USER_X}", "USER_X": "z"},
    ),
    "escaped": (f"[database]\nsql_alchemy_conn = {URL.replace('%', '%%')}\n", {}),
    "percent in a variable": ("", {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": URL}),
    "interpolated": ("[database]\nwho = me\nsql_alchemy_conn = postgresql://%(who)s@db/x\n", {}),
    "command": ("[database]\nsql_alchemy_conn_cmd = echo sqlite:////tmp/c.db\n", {}),
    "command beside": (
        "[database]\nsql_alchemy_conn = sqlite:////tmp/y.db\nsql_alchemy_conn_cmd = echo sqlite:////tmp/c.db\n",
        {},
    ),
    "command variable": (
        "[database]\nsql_alchemy_conn = sqlite:////tmp/y.db\n",
        {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD": "echo sqlite:////tmp/c.db"},
    ),
    "old section": ("[core]\nsql_alchemy_conn = sqlite:////tmp/old.db\n", {}),
    "default": ("", {}),
    "another file": ("", {"AIRFLOW_CONFIG": "OTHER"}),
    "connect args": (
        "[database]\nsql_alchemy_conn = sqlite:////tmp/y.db\nsql_alchemy_connect_args = os.environ\n",
        {},
    ),
}
PLAIN = {"variable", "file", "variable beats file", "expanded", "percent in a variable", "another file"}
_ASK = """
import json, os
os.environ["_AIRFLOW__AS_LIBRARY"] = "1"
from airflow.configuration import conf
print(json.dumps([conf.get("database", "sql_alchemy_conn"), conf.get("logging", "base_log_folder")]))
"""


def _environ(home: Path, case: str) -> dict[str, str]:
    text, variables = CASES[case]
    other = home / "other.cfg"
    other.write_text("[database]\nsql_alchemy_conn = sqlite:////tmp/other.db\n")
    if text:
        (home / "airflow.cfg").write_text(text)
    mine = {name: value.replace("OTHER", str(other)) for name, value in variables.items()}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return {**clean, "AIRFLOW_HOME": str(home), **mine}


def _read(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str] | None:
    """Return the database's URL and the log folder, None where only Airflow can tell."""
    for name, value in environ.items():
        # What is expanded comes from the process's own environment, as in Airflow.
        monkeypatch.setenv(name, value)
    try:
        config = PlainConfig(environ)
        return config.database_url(), str(config.log_folder())
    except NotPlainError:
        return None


@pytest.mark.parametrize("case", CASES)
def test_it_is_read_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    assert (_read(_environ(tmp_path, case), monkeypatch) is not None) is (case in PLAIN)


@pytest.mark.parametrize("case", sorted(PLAIN))
def test_what_is_read_is_what_airflow_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    environ = _environ(tmp_path, case)
    mine = _read(environ, monkeypatch)
    done = subprocess.run(
        [sys.executable, "-c", _ASK], env=environ, capture_output=True, text=True, check=True, timeout=120
    )
    assert mine is not None
    assert list(mine) == json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("folder", ["config", "plugins", "dags"])
def test_local_settings_may_make_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    environ = _environ(tmp_path, "file")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "airflow_local_settings.py").touch()
    assert _read(environ, monkeypatch) is None


@pytest.mark.parametrize(
    "variable",
    [
        "AIRFLOW__CORE__SQL_ALCHEMY_CONN",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS",
        "AIRFLOW__DATABASE__SQL_ENGINE_COLLATION_FOR_IDS",
        "AIRFLOW__CORE__UNIT_TEST_MODE",
    ],
)
def test_a_setting_that_may_matter_is_left_to_airflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    environ = _environ(tmp_path, "file")
    assert _read({**environ, variable: "x"}, monkeypatch) is None


@pytest.mark.parametrize("text", ["no section\n", "[database]\nx = 1\n[database]\nx = 2\n", "[a]\n\xff"])
def test_a_file_that_is_none_is_left_to_airflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    environ = _environ(tmp_path, "variable")
    (tmp_path / "airflow.cfg").write_bytes(text.encode("latin-1"))
    assert _read(environ, monkeypatch) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", 30.0),
        ("[edge]\nheartbeat_interval = 90\n", 90.0),
        ("[edge]\nbeat = 60\nheartbeat_interval = %(beat)s\n", 60.0),
    ],
)
def test_edge3s_heartbeat_is_read_by_verbs_too(tmp_path: Path, text: str, told: float) -> None:
    (tmp_path / "airflow.cfg").write_text(text)
    script = "from edge_ws.provider.airflow_setup import edge3_heartbeat_s; print(edge3_heartbeat_s())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout.splitlines()[-1]) == told
