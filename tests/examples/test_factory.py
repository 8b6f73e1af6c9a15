"""The demo's DAG, as Airflow reads it; `tests/demo` runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_ws.resources import examples_dir
from tests.support.programs import clean_environment, run_python

_PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
dag = bag.dags["factory"]
told = {
    "errors": bag.import_errors,
    "dags": sorted(bag.dags),
    "tasks": {task.task_id: [task.queue, sorted(task.downstream_task_ids)] for task in dag.tasks},
    "mapped": [task.task_id for task in dag.tasks if task.is_mapped],
}
print("TOLD", json.dumps(told))
"""


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    shutil.copytree(examples_dir() / "factory" / "dags", tmp_path / "dags")
    return tmp_path / "dags"


def test_the_dag_parses(dags: Path, tmp_path: Path) -> None:
    environment = clean_environment(tmp_path, AIRFLOW__CORE__DAGS_FOLDER=str(dags))
    done = run_python("-c", _PARSE, str(dags), environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("TOLD "))[5:])
    assert told == {
        "errors": {},
        "dags": ["factory"],
        "tasks": {
            "extract": ["factory", ["transform"]],
            "transform": ["factory", ["aggregate"]],
            "aggregate": ["factory", []],
        },
        "mapped": ["transform"],
    }
