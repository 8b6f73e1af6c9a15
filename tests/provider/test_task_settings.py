from __future__ import annotations

import pytest

from edge_ws.provider import compat
from edge_ws.provider.mount import make_gateway
from edge_ws.provider.task_settings import TASK_SETTINGS, task_settings
from tests.support.centre import Centre


def test_what_is_not_set_is_not_told() -> None:
    assert task_settings(compat.conf) == {}


def test_what_is_set_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for section, option in TASK_SETTINGS:
        monkeypatch.setenv(f"AIRFLOW__{section.upper()}__{option.upper()}", "7")
    assert task_settings(compat.conf) == {f"{section}.{option}": "7" for section, option in TASK_SETTINGS}


def test_the_default_need_not_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_TEMPLATED_FIELD_LENGTH", "4096")
    assert task_settings(compat.conf) == {}


def test_none_of_them_is_a_secret() -> None:
    assert not {*TASK_SETTINGS} & compat.conf.sensitive_config_values
    assert len(TASK_SETTINGS) == len({*TASK_SETTINGS})


@pytest.mark.usefixtures("centre")
def test_a_gateway_tells_its_workers(monkeypatch: pytest.MonkeyPatch, centre: Centre) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/af")
    gateway = make_gateway()
    assert gateway._settings.task_settings == {"api.base_url": "https://airflow.example/af"}
