"""`airflow edge-ws ...`: our verbs in Airflow's own command line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from edge_ws.cli.verb import Side, leaves
from edge_ws.cli.verbs import VERBS
from tests.support.databases import Databases
from tests.support.programs import clean_environment, run_python
from tests.support.services import missing

# Airflow's parser over our commands: as its `main` builds it, without the need for an installed provider.
_PARSE_AND_RUN = """
import sys
from airflow.cli.cli_config import DefaultHelpParser
from airflow.cli.cli_parser import _add_command
from edge_ws.cli.airflow import get_commands
parser = DefaultHelpParser(prog="airflow")
commands = parser.add_subparsers(dest="subcommand")
for command in get_commands():
    _add_command(commands, command)
arguments = parser.parse_args()
arguments.func(arguments)
"""


@pytest.fixture
def environment(databases: Databases, tmp_path: Path) -> Iterator[dict[str, str]]:
    with databases.new("sqlite", migrated=True) as url:
        yield clean_environment(tmp_path, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url)


def _airflow(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", _PARSE_AND_RUN, "edge-ws", *words, environment=environment)


def test_nested_groups_are_parsed_and_run(environment: dict[str, str]) -> None:
    made = _airflow(environment, "token", "create", "press-2", "--expires", "90d", "-q", "a,b")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.removesuffix("\n")
    assert secret
    assert not set(secret) & set(" \n")
    listed = _airflow(environment, "token", "list", "-o", "json")
    (row,) = json.loads(listed.stdout)
    assert (row["name"], row["queues"], row["state"]) == ("press-2", ["a", "b"], "valid")


def test_an_error_is_one_sentence_and_a_code(environment: dict[str, str]) -> None:
    done = _airflow(environment, "set-worker-concurrency", "-H", "nobody", "-c", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("airflow edge-ws: no worker named nobody")
    assert "Traceback" not in done.stderr


def test_only_the_centres_verbs_are_offered(environment: dict[str, str]) -> None:
    helped = _airflow(environment, "--help")
    assert helped.returncode == 0
    offered = {line.split()[0] for line in helped.stdout.splitlines() if re.match(r" {4}[a-z]", line)}
    assert offered == {
        words.split()[0] for words, verb in leaves(VERBS) if verb.side is Side.CENTRE or verb.is_passed_on
    }


@pytest.mark.parametrize("words", ["token", "token create", "db migrate", "set-worker-concurrency"])
def test_airflow_can_show_help(words: str, environment: dict[str, str]) -> None:
    helped = _airflow(environment, *words.split(), "--help")
    assert helped.returncode == 0, helped.stderr
    assert helped.stdout.lower().startswith(f"usage: airflow edge-ws {words}")


def test_the_installed_provider_brings_the_verbs(environment: dict[str, str]) -> None:
    try:
        metadata.distribution("edge-ws")
    except metadata.PackageNotFoundError:
        missing("an installed edge-ws (make test installs it)")
    made = run_python("-m", "airflow", "edge-ws", "token", "create", "press-2", environment=environment)
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.split()) == 1
