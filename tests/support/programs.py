"""Running the real command lines, `edge-ws` and `airflow`, in an environment of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import edge_ws

PACKAGE = Path(edge_ws.__file__).parent
_OURS = ("AIRFLOW", "_AIRFLOW", "EDGE_WS_", "XDG_", "PYTHON")


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    """Return this process's environment without settings of ours or Airflow's, and with homes in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    homes = {"HOME": str(folder), "AIRFLOW_HOME": str(folder / "airflow")}
    return {**kept, **homes, "PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "100", "NO_COLOR": "1", **more}


def run_python(
    *words: str, environment: dict[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with those arguments to its end."""
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def start_python(
    *words: str, environment: dict[str, str], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Start this interpreter with those arguments, with pipes to read what it says."""
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_edge_ws(*words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `edge-ws` with those arguments to its end."""
    return run_python("-m", "edge_ws.cli", *words, environment=environment)
