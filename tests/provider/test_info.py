from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from edge_ws.provider.config import (
    executor_settings,
    gateway_settings,
    identity_settings,
    jwt_verifier,
    listen_url,
    metrics_listen,
    shows_page,
)
from edge_ws.provider.info import OPTIONS, SECTION, get_provider_info


def test_it_fits_airflows_schema() -> None:
    from airflow.providers_manager import _create_provider_info_schema_validator

    _create_provider_info_schema_validator().validate(get_provider_info())


def test_airflow_finds_every_option_with_its_default() -> None:
    options = get_provider_info()["config"][SECTION]["options"]
    assert {name: option["default"] for name, option in options.items()} == {
        "api_enabled": "False",
        "page_enabled": "False",
        "metrics_listen": "",
        "queued_timeout": "airflow",
        "execution_api_url": "",
        "heartbeat_interval": "15",
        "offer_lease": "10",
        "cancel_grace_sec": "airflow",
        "keep_ended_sec": "300",
        "offline_worker_retention_days": "30",
        "job_log_limit_mib": "256",
        "worker_log_limit_mib": "1024",
        "log_table_limit_mib": "8192",
        "listen_sql_alchemy_conn": "",
        "trusted_jwks_url": "",
        "jwt_issuer": "",
        "jwt_audience": "",
        "jwt_algorithm": "RS256",
        "jwt_leeway": "30",
        "jwt_verifier": "",
        "jwt_worker_claim": "sub",
        "jwt_worker_pattern": "<worker>",
        "jwt_queues_claim": "",
        "jwt_team_claim": "",
    }
    assert [name for name, option in options.items() if option.get("sensitive")] == [
        "listen_sql_alchemy_conn"
    ]
    assert all(option["description"] for option in options.values())


def test_every_option_is_read() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.asked: set[str] = set()

        def get(self, section: str, key: str, *, fallback: str | None) -> str | None:
            if section == SECTION:
                self.asked.add(key)
            # Without these the others are not looked at.
            return {"trusted_jwks_url": "https://a.example/keys", "jwt_issuer": "a"}.get(key, fallback)

    recorder = Recorder()
    executor_settings(recorder)
    gateway_settings(recorder, versions={})
    metrics_listen(recorder)
    shows_page(recorder)
    listen_url(recorder)
    identity_settings(recorder)
    jwt_verifier(recorder)
    assert recorder.asked == set(OPTIONS)


@pytest.mark.parametrize("name", ["executors", "cli", "db-managers"])
def test_what_it_points_to_exists(name: str) -> None:
    for path in get_provider_info()[name]:
        module, _, attribute = path.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_it_imports_nothing_heavy() -> None:
    script = (
        "import sys, edge_ws.provider.info as info; info.get_provider_info();"
        "print([m for m in ('airflow', 'sqlalchemy', 'starlette', 'fastapi', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
