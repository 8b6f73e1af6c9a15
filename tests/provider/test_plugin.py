from __future__ import annotations

import json
import subprocess
import sys

import pytest
from airflow.plugins_manager import is_valid_plugin
from fastapi import FastAPI

from edge_ws.provider.plugin import EdgeWsPlugin
from tests.support.centre import Centre


def test_airflow_takes_it() -> None:
    assert is_valid_plugin(EdgeWsPlugin)
    assert EdgeWsPlugin.name == "edge_ws"


def test_it_opens_no_endpoint_by_default(centre: Centre) -> None:
    assert EdgeWsPlugin().fastapi_apps == []


def test_it_opens_one_when_told_to(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_WS__API_ENABLED", "True")
    plugin = EdgeWsPlugin()
    (mount,) = plugin.fastapi_apps
    assert (mount["url_prefix"], mount["name"]) == ("/edge-ws", "edge-ws")
    assert isinstance(mount["app"], FastAPI)  # Airflow gives a lifespan to no other kind
    assert plugin.fastapi_apps[0] is mount


def test_a_wrong_option_opens_none(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_WS__API_ENABLED", "perhaps")
    assert EdgeWsPlugin().fastapi_apps == []


@pytest.mark.parametrize("context", ["airflow.plugins_manager", "airflow.sdk.plugins_manager"])
def test_importing_it_adds_next_to_nothing(centre: Centre, context: str) -> None:
    script = (
        f"import sys, json, airflow, airflow.plugins_manager, {context}; before = set(sys.modules);"
        "import edge_ws.provider.plugin; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    added = set(json.loads(done.stdout.splitlines()[-1]))
    # Airflow has read the provider info by now, where the package is installed.
    assert added - {"edge_ws", "edge_ws.provider"} == {"edge_ws.errors", "edge_ws.provider.plugin"}
