"""Runs Airflow's database managers, edge3's real one and ours, outside of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import edge_ws

_RUN_S = 120
OURS = "edge_ws.provider.db_manager.EdgeWsDBManager"


class Managers:
    """Processes in which Airflow is started once, with edge3 and without, for all that use a manager's code.

    Adds their process ids to `pids`.
    """

    def __init__(self, pids: set[int]) -> None:
        self._pids = pids
        self._processes: dict[Path | None, subprocess.Popen[str]] = {}
        self._until_closed = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
        self._until_closed.close()

    def carry_out(self, airflow: Airflow, steps: Sequence[str]) -> tuple[int, str]:
        """Carry the steps out in that Airflow; return the exit code and what was said."""
        if airflow.edge3 not in self._processes:
            self._processes[airflow.edge3] = self._started(airflow.edge3)
        process = self._processes[airflow.edge3]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"environment": airflow.environment, "steps": steps}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        return answer["code"], answer["said"]

    def _started(self, edge3: Path | None) -> subprocess.Popen[str]:
        home = Path(self._until_closed.enter_context(tempfile.TemporaryDirectory(prefix="edge-ws-managers-")))
        airflow = Airflow(home=home, url=f"sqlite:///{home}/none.db", edge3=edge3, managers=self)
        command = [sys.executable, "-m", "tests.support.manager_process"]
        process = self._until_closed.enter_context(
            subprocess.Popen(
                command, env=airflow.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        self._pids.add(process.pid)
        return process


@dataclass(frozen=True, slots=True, kw_only=True)
class Airflow:
    """An Airflow of its own: a home, a database and what is installed."""

    home: Path
    url: str
    managers: Managers
    edge3: Path | None = None
    """Folder on PYTHONPATH with the real edge3; None: not installed."""

    @property
    def environment(self) -> dict[str, str]:
        """Of all its processes."""
        paths = [Path(edge_ws.__file__).parents[1], *([self.edge3] if self.edge3 else [])]
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "AIRFLOW_HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url,
            "AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS": OURS,
        }

    def steps(self, *steps: str) -> None:
        """Carry the steps out, in that order, as one process would.

        "core VERB" is a function of `airflow.utils.db`; "edge3 VERB" and "ours VERB" one of the manager's.
        """
        code, said = self.managers.carry_out(self, steps)
        assert code == 0, said[-8000:]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `airflow WORDS`."""
        return subprocess.run(
            [sys.executable, "-m", "airflow", *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
        )
