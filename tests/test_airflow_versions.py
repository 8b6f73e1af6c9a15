"""The releases of Airflow: what is claimed is what is tested, and each side refuses another one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from edge_ws import airflow_versions
from edge_ws.airflow_versions import SUPPORTED, is_supported
from tests.support.programs import PACKAGE, clean_environment, run_edge_ws, run_python
from tests.support.raw_host import raw_host

ROOT = PACKAGE.parent
SENTENCE = (
    "Airflow 3.5.0 is installed here, and edge-ws 0.1.0 works with Airflow 3.3 and 3.4 only: install one of"
    " these, or another release of edge-ws"
)


@pytest.mark.parametrize("version", ["3.3.0", "3.3.2", "3.4.0b2", "3.4.0", "3.4.11", "3.4"])
def test_these_are_supported(version: str) -> None:
    assert is_supported(version)


@pytest.mark.parametrize(
    "version", ["2.11.0", "3.2.9", "3.5.0", "3.5.0b1", "3.30.1", "33.4.0", "4.0.0", "", "main"]
)
def test_these_are_not(version: str) -> None:
    assert not is_supported(version)


def test_the_package_claims_the_same() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    claimed = {
        one.name: one.specifier
        for text in (*extras["worker"], *extras["server"])
        for one in [Requirement(text)]
    }
    # The task SDK 1.n is of Airflow 3.n.
    for name, major in (("apache-airflow", 3), ("apache-airflow-task-sdk", 1)):
        for minor in range(20):
            allowed = claimed[name].contains(Version(f"{major}.{minor}.1"))
            assert allowed == ((3, minor) in SUPPORTED), (name, minor)
        assert not claimed[name].contains(f"{major + 1}.0.0")


def test_each_has_an_environment_for_its_tests() -> None:
    pinned = {}
    for file in ROOT.glob("constraints*.txt"):
        (found,) = re.findall(r"^apache-airflow==(\d+)\.(\d+)\.", file.read_text(), re.MULTILINE)
        pinned[file.name] = tuple(int(part) for part in found)
    first, *others = SUPPORTED
    names = {"constraints.txt": first, **{f"constraints-{a}.{b}.txt": (a, b) for a, b in others}}
    assert pinned == names


def test_the_one_here_is_read_without_importing_it() -> None:
    done = run_python(
        "-c",
        "import sys; from edge_ws import airflow_versions as v; print(v.installed(), 'airflow' in sys.modules)",
        environment=clean_environment(Path("/nowhere")),
    )
    assert done.stdout == f"{airflow_versions.installed()} False\n", done.stderr
    assert is_supported(str(airflow_versions.installed()))


# Another release: the installed one, under another number


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which Airflow is said to be 3.5.0."""
    metadata = tmp_path / "packages" / "apache_airflow_core-3.5.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: apache-airflow-core\nVersion: 3.5.0\n")
    environment = clean_environment(tmp_path)
    return {**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}:{metadata.parent.parent}"}


@pytest.mark.parametrize("words", [("demo",), ("check",), ("server",), ("db", "migrate"), ("list-workers",)])
def test_a_verb_of_the_centre_is_refused(elsewhere: dict[str, str], words: tuple[str, ...]) -> None:
    done = run_edge_ws(*words, environment=elsewhere)
    assert (done.returncode, done.stdout, done.stderr) == (6, "", f"edge-ws: {SENTENCE}\n")


def test_the_executor_is_refused_before_anything_of_airflows_can_fail(elsewhere: dict[str, str]) -> None:
    load = "from airflow.executors.executor_loader import ExecutorLoader, ExecutorName;"
    done = run_python(
        "-c",
        f"{load} ExecutorLoader.import_executor_cls(ExecutorName('edge_ws.provider.executor.EdgeWsExecutor'))",
        environment=elsewhere,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"edge_ws.errors.UnsupportedAirflowError: {SENTENCE}"


def test_the_api_server_starts_without_a_gateway_and_says_why(elsewhere: dict[str, str]) -> None:
    done = run_python(
        "-c",
        "import logging, sys; from edge_ws.provider.plugin import EdgeWsPlugin;"
        "logging.getLogger().addHandler(logging.StreamHandler(sys.stdout));"
        "print(EdgeWsPlugin().fastapi_apps)",
        environment={**elsewhere, "AIRFLOW__EDGE_WS__API_ENABLED": "True"},
    )
    told = done.stdout.splitlines()
    assert f"edge-ws serves no gateway: {SENTENCE}" in told, done.stderr
    assert told[-1] == "[]"


def test_the_job_host_says_why_it_takes_no_jobs(elsewhere: dict[str, str], tmp_path: Path) -> None:
    with raw_host(tmp_path / "host", elsewhere) as host:
        assert host.wait() == 6
        assert host.journal["failure"] == SENTENCE
        assert host.log == f"edge-ws host: {SENTENCE}\n"


def test_doctor_says_so(elsewhere: dict[str, str]) -> None:
    done = run_edge_ws(
        "doctor", "--url", "http://127.0.0.1:1", environment={**elsewhere, "EDGE_WS_TOKEN": "x"}
    )
    (line,) = [one for one in done.stdout.splitlines() if one.split()[1:2] == ["versions"]]
    assert line.startswith("FAIL")
    assert SENTENCE in line
