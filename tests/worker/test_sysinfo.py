"""What a worker says of its machine."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from edge_ws import __version__
from edge_ws.protocol.codec import decode_from_worker, encode
from edge_ws.protocol.frames import Inventory, Status
from edge_ws.protocol.ids import SiteId
from edge_ws.worker.sysinfo import machine, versions, worker
from tests.support.programs import clean_environment, run_python

_STARTED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def _gathered(disk: Path, known: dict[str, str]) -> dict[str, str | int | float]:
    told = worker(versions=known, started_at=_STARTED, concurrency=8, free_concurrency=3)
    return {**told, **machine(disk)}


def test_has_edge3s_keys(tmp_path: Path) -> None:
    told = _gathered(tmp_path, {"edge_ws": "1.2", "python": "3.11.9", "airflow": "3.3.2"})
    assert told["status"] == logging.INFO
    assert (told["concurrency"], told["free_concurrency"]) == (8, 3)
    assert told["airflow_version"] == "3.3.2"
    assert told["edge_provider_version"] == "edge-ws 1.2"
    assert told["edge_ws_version"] == "1.2"
    assert told["python_version"] == "3.11.9"
    assert told["worker_start_time"] == "2026-03-04T05:06:07+00:00"
    assert isinstance(told["disk_free_gb"], float)
    assert isinstance(told["cpu_usage"], float)
    assert isinstance(told["memory_usage"], float)


def test_travels_in_a_frame(tmp_path: Path) -> None:
    told = _gathered(tmp_path, versions())
    inventory = Inventory(
        site=SiteId("s"),
        hosts=(),
        dead_hosts=(),
        claims=(),
        revision=0,
        concurrency=8,
        queues=None,
        stale_slots=0,
        draining=False,
    )
    frame = Status(inventory=inventory, sysinfo=told)
    assert decode_from_worker(encode(frame)) == frame


def test_without_airflow_there_is_no_airflow_version(tmp_path: Path) -> None:
    assert "airflow_version" not in _gathered(tmp_path, {"edge_ws": "1", "python": "3"})


def test_a_missing_disk_is_left_out(tmp_path: Path) -> None:
    told = _gathered(tmp_path / "gone", {"edge_ws": "1", "python": "3"})
    assert "disk_free_gb" not in told
    assert told["concurrency"] == 8


def test_versions_come_from_metadata(tmp_path: Path) -> None:
    for name, version in (("apache_airflow", "9.9.1"), ("apache_airflow_core", "9.9.2")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    environment = clean_environment(tmp_path)
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = run_python(
        "-c",
        "import sys; from edge_ws.worker.sysinfo import versions; print(versions()['airflow'], 'airflow' in sys.modules)",
        environment=environment,
    )
    assert done.stdout == "9.9.2 False\n", done.stderr


def test_our_own_version_is_told() -> None:
    assert versions()["edge_ws"] == __version__
