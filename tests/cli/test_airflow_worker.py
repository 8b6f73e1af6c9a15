"""`airflow edge-ws worker` and its like: from Airflow's command line into the light process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.programs import clean_environment, run_python
from tests.support.waiting import free_port

# Airflow's parser over our commands: as its `main` builds it, without the need for an installed provider.
_PARSE_AND_RUN = """
from airflow.cli.cli_config import DefaultHelpParser
from airflow.cli.cli_parser import _add_command
from edge_ws.cli.airflow import get_commands
parser = DefaultHelpParser(prog="airflow")
commands = parser.add_subparsers(dest="subcommand")
for command in get_commands():
    _add_command(commands, command)
arguments = parser.parse_args()
arguments.func(arguments)
raise AssertionError("it came back")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return clean_environment(tmp_path, EDGE_WS_TOKEN="edgews_token")


def _airflow(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", _PARSE_AND_RUN, "edge-ws", *words, environment=environment)


def test_the_flags_arrive(environment: dict[str, str]) -> None:
    shown = _airflow(
        environment, "worker", "--url", "https://x/", "-H", "press-2", "-q", "a,b", "--show-config"
    )
    assert shown.returncode == 0, shown.stderr
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in shown.stdout.splitlines()}
    assert lines["url"] == ["https://x", "--url"]
    assert lines["edge_hostname"] == ["press-2", "--edge-hostname"]
    assert lines["queues"] == ["a,b", "--queues"]
    assert lines["allow_insecure"] == ["false", "default"]


def test_the_exit_code_arrives(environment: dict[str, str]) -> None:
    wrong = _airflow(environment, "worker", "--url", "https://x", "-c", "many")
    assert (wrong.returncode, wrong.stderr) == (2, "edge-ws: --concurrency: 'many' is not an integer\n")
    absent = _airflow(
        environment, "stop", "--now", "-w", "--wait-timeout", "3", "--state-dir", "/nonexistent"
    )
    assert absent.returncode == 4
    assert "no worker runs with the state directory /nonexistent" in absent.stderr
    reason = ["-c", "a reason, it's = two", "--state-dir", "/nonexistent"]
    assert _airflow(environment, "maintenance", "on", *reason).returncode == 4


def test_the_process_is_light_and_the_same(environment: dict[str, str]) -> None:
    words = ["edge-ws", "worker", "--url", f"http://127.0.0.1:{free_port()}", "-H", "press-2"]
    with subprocess.Popen(
        [sys.executable, "-c", _PARSE_AND_RUN, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert any("next try in" in line for line in process.stderr)
        running = psutil.Process(process.pid)
        assert running.cmdline()[1:5] == ["-P", "-m", "edge_ws.cli", "worker"]
        assert running.memory_info().rss <= 40 * 2**20
        process.terminate()
        process.stderr.read()
        assert process.wait(30) == 0
