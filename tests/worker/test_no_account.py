"""A worker under a user id that has neither an account nor a home, as in some containers; needs root to be it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

UID = 123456
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def as_nobody_known(tmp_path: Path) -> Run:
    if os.geteuid() != 0:
        pytest.skip("only root may take another user's id")
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    become = [setpriv, "--reuid", str(UID), "--regid", "0", "--clear-groups"]
    probe = [*become, sys.executable, "-P", "-c", "import edge_ws.cli"]
    if subprocess.run(probe, capture_output=True, check=False, cwd=tmp_path).returncode != 0:
        # This clone is in a folder of root's alone: then it may be read, and there is no account all the same.
        become += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*become, sys.executable, *words],
            env={"PATH": os.environ["PATH"], **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_it_runs_where_it_is_given_a_state_directory(as_nobody_known: Run, tmp_path: Path) -> None:
    words = ["-m", "edge_ws.cli", "worker", "--url", "http://127.0.0.1:9", "-H", "w", "--show-config"]
    done = as_nobody_known(*words, "--state-dir", str(tmp_path / "state"), EDGE_WS_TOKEN="t")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path / "state") in done.stdout


def test_it_says_what_is_missing_where_it_is_not(as_nobody_known: Run) -> None:
    words = ["-m", "edge_ws.cli", "worker", "--url", "http://127.0.0.1:9", "-H", "w"]
    done = as_nobody_known(*words, EDGE_WS_TOKEN="t")
    assert done.returncode == 2
    assert "there is no place for the worker's memory" in done.stderr
    assert "give --state-dir" in done.stderr
    assert "Traceback" not in done.stderr


PROGRAM = """
import getpass, json, os, pathlib
from edge_ws.worker.sysinfo import with_identity
os.environ.update(with_identity(os.environ, pathlib.Path("/the/state")))
print(json.dumps([getpass.getuser(), os.path.expanduser("~/airflow")]))
"""


def test_its_tasks_have_a_user_name_and_a_home(as_nobody_known: Run) -> None:
    assert json.loads(as_nobody_known("-c", PROGRAM).stdout) == [f"uid-{UID}", "/the/state/airflow"]
    told = as_nobody_known("-c", PROGRAM, HOME="/home/w", USER="w").stdout
    assert json.loads(told) == ["w", "/home/w/airflow"]
