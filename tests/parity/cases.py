"""What is run on both executors: Airflow's example DAGs, ours, and operators' acts at seeded moments."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Not imported: that has effects.
(_AIRFLOW,) = importlib.util.find_spec("airflow").submodule_search_locations
EXAMPLES = (Path(_AIRFLOW, "example_dags"), Path(_AIRFLOW, "providers", "standard", "example_dags"))
HEARTBEAT_S = 5.0
"""Between two looks of Airflow's supervisor at its task's state."""

# Files of examples that cannot be run alike, or not at all, without what lies outside of this machine.
LEFT_OUT = {
    "example_asset_allow_teams": "needs teams",
    "example_asset_partition": "its runs are made by partitions of assets, not by hand",
    "example_asset_state_store": "both runs would share the asset's state",
    "example_asset_with_watchers": "is started by a trigger's events, not by hand",
    "example_branch_operator": "installs packages from the Internet",
    "example_branch_operator_decorator": "installs packages from the Internet",
    "example_custom_weight": "needs a plugin of the examples",
    "example_dag_decorator": "asks a server on the Internet",
    "example_external_task_child_deferrable": "is a part of the next one",
    "example_external_task_parent_deferrable": "waits for runs of another DAG at the same logical date",
    "example_external_task_marker_dag": "waits for runs of another DAG at the same logical date",
    "example_hitl_operator": "waits for a human",
    "example_kubernetes_executor": "needs Kubernetes",
    "example_local_kubernetes_executor": "needs Kubernetes",
    "example_python_decorator": "installs packages from the Internet",
    "example_python_operator": "installs packages from the Internet",
    "example_retry_policy": "asks a server on the Internet",
    "example_sensors": "may remove the very file that it waits for, if a task of its own begins late",
    "example_workday_timetable": "needs a plugin of the examples",
    "tutorial_objectstorage": "asks a server on the Internet",
    "tutorial_taskflow_api_virtualenv": "installs packages from the Internet",
}
# Single DAGs of the files that are run.
LEFT_OUT_DAGS = dict.fromkeys(
    (
        "asset_alias_example_alias_consumer",
        "asset_alias_example_alias_consumer_with_no_taskflow",
        "read_asset_event",
        "read_asset_event_from_classic",
    ),
    "reads the events that other runs, of both executors, make meanwhile",
)

TASK_ACTS = ("clear", "failed", "success", "skipped")
RUN_ACTS = ("run_cleared", "run_failed", "run_success", "run_deleted")
ACTED_ON = 4
"""Tasks in the DAG `acts`."""


@dataclass(frozen=True)
class Act:
    """What an operator does, and how long after the last task has begun."""

    what: str
    after_s: float


@dataclass(frozen=True)
class Case:
    """One DAG that is run on both executors."""

    dag: str
    act: Act | None = None
    conf: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return f"{self.dag}-{self.act.what}-{self.act.after_s:.2f}" if self.act else self.dag


def acts(count: int, seed: int = 1) -> list[Case]:
    """Return as many runs that are acted upon, spread evenly over the heartbeat's phase, each act in turn."""
    draw = random.Random(seed)
    # Each act meets phases from the whole heartbeat: the acts go round, the phases are shuffled.
    phases = [(index + draw.random()) * HEARTBEAT_S / count for index in range(count)]
    draw.shuffle(phases)
    kinds = TASK_ACTS + RUN_ACTS
    return [Case("acts", Act(kinds[index % len(kinds)], phase)) for index, phase in enumerate(phases)]


OURS = ["ends", "slow_callbacks", "listened", "values", "logs", "shapes", "links"]
SHORT_EXAMPLES = ["example_bash_operator", "example_setup_teardown_taskflow", "example_xcom"]
CONFIGURED: dict[str, dict[str, Any]] = {
    "example_trigger_target_dag": {"message": "Hello World"},
    "example_params_ui_tutorial": {"required_field": "long enough"},
}


def short() -> list[Case]:
    """Return what is run in CI: slow ones first."""
    some = [
        Case("acts", Act("clear", 1.3)),
        Case("acts", Act("failed", 3.9)),
        Case("acts", Act("run_failed", 2.6)),
    ]
    return [*map(Case, OURS), *some, *map(Case, SHORT_EXAMPLES)]


def long(examples: list[str]) -> list[Case]:
    """Return everything, with the example DAGs of those names."""
    of_airflow = [Case(name, conf=CONFIGURED.get(name, {})) for name in examples if name not in LEFT_OUT_DAGS]
    return [Case("retried"), *acts(60 // ACTED_ON), *of_airflow, *map(Case, OURS)]


def example_files(*, every: bool) -> list[Path]:
    """Return the example files to run: all, or those of the short form."""
    found = [
        one for folder in EXAMPLES for one in sorted(folder.glob("[a-z]*.py")) if one.stem not in LEFT_OUT
    ]
    return [one for one in found if every or one.stem in SHORT_EXAMPLES]
