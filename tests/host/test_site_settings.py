"""Settings of the centre in a job, and the site's own, which stay."""

from __future__ import annotations

import json
import uuid
from configparser import RawConfigParser
from pathlib import Path
from typing import ClassVar

import pytest

from edge_ws.host import site_settings
from edge_ws.provider.task_settings import TASK_SETTINGS
from tests.support.execution_api import ExecutionApi
from tests.support.jobs import Site, make_site, task_workload
from tests.support.raw_host import Line, raw_host

SHOWN = [f"{section}.{option}" for section, option in TASK_SETTINGS]


def run_with(line: Line, api: ExecutionApi, site: Site, settings: dict[str, str] | None) -> dict[str, str]:
    """Run a task with these settings of the centre; return what it has read."""
    claim, workload = str(uuid.uuid4()), task_workload("settings")
    told = {} if settings is None else {"settings": settings}
    line.say("prepare", claim=claim, payload=workload.payload, server=api.url, **told)
    line.say("go", claim=claim, token="t")
    assert line.hear("ended", claim)["exit_code"] == 0
    read: dict[str, str] = json.loads((site.notes / "settings").read_text())
    return read


def test_a_host_that_runs_takes_each_jobs_own(line: Line, api: ExecutionApi, site: Site) -> None:
    plain = run_with(line, api, site, None)
    assert plain["log_url"].startswith("http://localhost:8080/")
    texts = {"api.base_url": "https://airflow.example/af/", "sensors.default_timeout": "61"}
    told = {name: texts.get(name, "True" if plain[name] in {"True", "False"} else "17") for name in SHOWN}
    read = run_with(line, api, site, told)
    assert read["log_url"].startswith("https://airflow.example/af/dags/jobs/runs/r1/tasks/settings")
    assert {name: read[name] for name in SHOWN} == told
    assert read["timeout"] == "61.0"
    again = run_with(line, api, site, {"api.base_url": "https://elsewhere.example"})
    assert again["log_url"].startswith("https://elsewhere.example/dags/jobs/")
    assert again["sensors.default_timeout"] == plain["sensors.default_timeout"]
    assert run_with(line, api, site, {}) == plain


def test_the_sites_own_stay(api: ExecutionApi, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    text = "[email]\nfrom_email = site@example\n[webserver]\nbase_url = https://old.example\n"
    (site.folder / "airflow" / "airflow.cfg").write_text(text)
    environment = site.environment(AIRFLOW__SENSORS__DEFAULT_TIMEOUT="99")
    with raw_host(site.folder / "hosts", environment) as host:
        line = host.connect()
        line.hello()
        told = dict.fromkeys(SHOWN, "1") | {"no such thing": "1", "api.": "1"}
        read = run_with(line, api, site, told)
    assert read["email.from_email"] == "site@example"
    assert read["log_url"].startswith("https://old.example/dags/")
    assert read["timeout"] == "99.0"
    assert read["core.max_templated_field_length"] == "1"


class _Conf(RawConfigParser):
    """Of Airflow's configuration what is looked at."""

    deprecated_options: ClassVar = {("api", "base_url"): ("webserver", "base_url", "3.0")}

    def get_default_value(self, section: str, key: str, *, raw: bool) -> str | None:
        if (section, key) != ("workers", "max_failed_heartbeats"):
            return None
        return "3%%" if raw else "3%"


def test_a_default_that_airflow_has_written_into_its_file_was_set_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conf = _Conf()
    for written in ("3%", "3%%"):
        conf.read_dict({"workers": {"max_failed_heartbeats": written}})
        assert not site_settings.is_set_here(conf, "workers", "max_failed_heartbeats")
    conf.read_dict({"workers": {"max_failed_heartbeats": "4"}})
    assert site_settings.is_set_here(conf, "workers", "max_failed_heartbeats")
    conf = _Conf()
    monkeypatch.setenv("AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS", "3%")
    assert site_settings.is_set_here(conf, "workers", "max_failed_heartbeats")


@pytest.mark.parametrize("form", ["", "_CMD", "_SECRET"])
@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("section", ["API", "WEBSERVER"])
def test_every_form_of_a_setting_counts(
    monkeypatch: pytest.MonkeyPatch, form: str, place: str, section: str
) -> None:
    conf = _Conf()
    assert not site_settings.is_set_here(conf, "api", "base_url")
    if place == "file":
        conf.read_dict({section.lower(): {f"base_url{form.lower()}": "x"}})
    else:
        monkeypatch.setenv(f"AIRFLOW__{section}__BASE_URL{form}", "x")
    assert site_settings.is_set_here(conf, "api", "base_url")
    assert not site_settings.is_set_here(conf, "api", "port")


def test_the_variable_of_a_section_with_a_dot() -> None:
    assert site_settings.variable("common.io", "path") == "AIRFLOW__COMMON_IO__PATH"
