"""Old versions of bundles go, beside a host that serves on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.host.test_server import go
from tests.support.execution_api import ExecutionApi
from tests.support.jobs import make_site, task_workload
from tests.support.raw_host import raw_host
from tests.support.waiting import wait_until

MODULE = """
from airflow.dag_processing.bundles.local import LocalDagBundle

class Versioned(LocalDagBundle):
    supports_versioning = True
"""


def test_old_versions_of_bundles_are_removed(tmp_path: Path, api: ExecutionApi) -> None:
    site = make_site(tmp_path / "site")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "versioned_bundle.py").write_text(MODULE)
    storage = tmp_path / "storage"
    tracked = storage / "_tracking" / "dags-folder"
    tracked.mkdir(parents=True)
    for number in range(1, 7):
        (storage / "dags-folder" / "versions" / f"v{number}").mkdir(parents=True)
        (tracked / f"v{number}").write_text(f"2026-01-0{number}T00:00:00+00:00")
    bundle = {
        "name": "dags-folder",
        "classpath": "versioned_bundle.Versioned",
        "kwargs": {"path": str(site.folder / "dags")},
    }
    environment = site.environment(
        AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps([bundle]),
        AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH=str(storage),
        AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_INTERVAL="1",
        AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_AGE_THRESHOLD="5",
        AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_MIN_VERSIONS="1",
    )
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path / "lib")
    with raw_host(site.folder / "hosts", environment) as host:
        line = host.connect()
        assert line.hello()["versions"]["job_start"] == "fork"
        versions = storage / "dags-folder" / "versions"
        wait_until(lambda: [one.name for one in versions.iterdir()] == ["v6"], 60)
        assert line.hear("ended", go(line, api, task_workload("hello")))["exit_code"] == 0
        assert host.process.poll() is None
