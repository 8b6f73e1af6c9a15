from __future__ import annotations

import json
import subprocess
import sys

import pytest
from airflow.api_fastapi.core_api.datamodels.plugins import ReactAppResponse
from airflow.plugins_manager import is_valid_plugin
from fastapi import FastAPI

from edge_ws.provider.plugin import EdgeWsPlugin
from edge_ws.server import page_files
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


def test_the_page_is_where_the_gateway_is_or_where_one_says_so(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert EdgeWsPlugin().react_apps == []
    monkeypatch.setenv("AIRFLOW__EDGE_WS__PAGE_ENABLED", "True")
    plugin = EdgeWsPlugin()
    assert plugin.fastapi_apps == []
    fleet, job = (ReactAppResponse(**one) for one in plugin.react_apps)
    assert (fleet.destination, job.destination) == ("nav", "task_instance")
    for one in (fleet, job):
        # Relative, else it would not lie below Airflow's base path; and the file is there.
        path = one.bundle_url.removeprefix("edge-ws/page/")
        assert f'globalThis["{one.name}"] = ' in (page_files._FOLDER / path).read_text()
        assert (page_files._FOLDER / str(one.icon).rpartition("/")[2]).exists()
    monkeypatch.setenv("AIRFLOW__EDGE_WS__PAGE_ENABLED", "perhaps")
    assert EdgeWsPlugin().react_apps == []
    monkeypatch.delenv("AIRFLOW__EDGE_WS__PAGE_ENABLED")
    monkeypatch.setenv("AIRFLOW__EDGE_WS__API_ENABLED", "True")
    assert len(EdgeWsPlugin().react_apps) == 2


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
