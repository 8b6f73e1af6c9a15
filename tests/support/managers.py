"""Runs Airflow's database managers, edge3's real one and ours, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edge_ws

_RUN_S = 120
OURS = "edge_ws.provider.db_manager.EdgeWsDBManager"
_STEPS = """
import sys
from airflow import settings
from airflow._shared.module_loading import import_string

MANAGERS = {"edge3": "airflow.providers.edge3.models.db.EdgeDBManager", "ours": sys.argv[1]}
for step in sys.argv[2:]:
    who, verb, *rest = step.split(" ")
    if who == "core":
        from airflow.utils import db

        getattr(db, verb)(*[int(word) for word in rest])
        continue
    manager = import_string(MANAGERS[who])(settings.Session())
    if verb == "create_all":
        manager.metadata.create_all(settings.engine)
    elif verb == "files":
        manager.initdb(use_migration_files=True)
    elif verb in ("upgrade", "downgrade"):
        from alembic import command

        getattr(command, verb)(manager.get_alembic_config(), *rest)
    elif verb == "must_be_done":
        assert manager.check_migration(), step
    elif verb == "must_not_be_done":
        assert not manager.check_migration(), step
    elif verb == "must_declare":
        assert sorted(manager.metadata.tables) == rest
    else:
        getattr(manager, verb)()
    manager.session.commit()
    settings.Session.remove()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Airflow:
    """An Airflow of its own: a home, a database and what is installed."""

    home: Path
    url: str
    edge3: Path | None = None
    """Folder on PYTHONPATH with the real edge3; None: not installed."""

    def steps(self, *steps: str) -> None:
        """Run the steps in one process, in that order.

        "core VERB" is a function of `airflow.utils.db`; "edge3 VERB" and "ours VERB" one of the manager's.
        """
        done = self._run(["-c", _STEPS, OURS, *steps])
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `airflow WORDS`."""
        return self._run(["-m", "airflow", *words])

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        paths = [Path(edge_ws.__file__).parents[1], *([self.edge3] if self.edge3 else [])]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "AIRFLOW_HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url,
            "AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS": OURS,
        }
        return subprocess.run(
            [sys.executable, *words],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
        )
