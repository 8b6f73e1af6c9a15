"""The DAG bundles of this host, as its Airflow has them: what a task needs, and what is removed.

`runner` asks for a task, the job host has old versions removed, `edge-ws doctor` asks for a list. The host
never waits for a removal, which takes long for a large tree: a forked child does it.
"""
# ruff: noqa: PLC0415 - Airflow is imported only when called

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection
from typing import Any

from edge_ws.host import runner
from edge_ws.host.sentences import one_line
from edge_ws.processes import thread_count

# Airflow's classes cannot be named without importing it.
_Workload = Any

_BUNDLES_SETTING = "[dag_processor] dag_bundle_config_list"
_EXAMPLES, _EXAMPLES_OF_A_PROVIDER = "example_dags", "-example-dags"
"""Airflow's name of the bundle of its own examples, and the end of the names of its providers' ones."""


def fault_of(workload: _Workload, worker: str) -> str | None:
    """Return why the task's DAG cannot be had here, None if nothing is known to be against it."""
    if workload.type != "ExecuteTask":
        return None  # A callback may be in an installed package; Airflow itself only warns.
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    try:
        known = set(DagBundlesManager().get_all_bundle_names())
    except Exception as error:  # noqa: BLE001 - a bundle's class may raise anything at its import
        return (
            f"The DAG bundles of worker {worker} cannot be loaded: {one_line(error)};"
            f" correct {_BUNDLES_SETTING} there"
        )
    name = workload.bundle_info.name
    if name in known:
        return None
    return (
        f"DAG bundle '{name}' is not configured on worker {worker} (it has:"
        f" {', '.join(sorted(known)) or 'none'}); {_bundle_advice(name, known)} and restart the worker"
    )


def _bundle_advice(name: str, known: Collection[str]) -> str:
    """Return how the bundle comes to a worker that has those; Airflow's examples are no entry of the list."""
    package = name.removesuffix(_EXAMPLES_OF_A_PROVIDER)
    if package != name and _EXAMPLES in known:
        return f"install {package} there"
    if package != name:
        return f"set [core] load_examples = True there, have {package} installed"
    if name == _EXAMPLES:
        return "set [core] load_examples = True there"
    return f"add it to {_BUNDLES_SETTING} there"


def found() -> list[dict[str, str | None]]:
    """Return the DAG bundles that this Airflow knows: name, path of a local one, why one cannot be made."""
    from airflow.dag_processing.bundles.local import LocalDagBundle
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    manager, told = DagBundlesManager(), []
    for name in manager.get_all_bundle_names():
        path = fault = None
        try:
            bundle = manager.get_bundle(name)
            path = str(bundle.path) if isinstance(bundle, LocalDagBundle) else None
        except Exception as error:  # noqa: BLE001 - a bundle's class may raise anything
            fault = one_line(error)
        told.append({"name": name, "path": path, "fault": fault})
    return told


def sweep_s() -> float:
    """Return how often old versions of bundles are to be removed; 0: never."""
    from airflow.configuration import conf

    return max(0.0, conf.getfloat("dag_processor", "stale_bundle_cleanup_interval", fallback=0.0))


def remove_stale_versions() -> None:
    """Remove versions of bundles that no task uses and that are older than Airflow's settings keep."""
    from airflow.dag_processing.bundles.base import BundleUsageTrackingManager

    BundleUsageTrackingManager().remove_stale_bundle_versions()


LONGEST_S = 600
"""A child that takes longer is ended; what it has not removed waits for the next one."""


class Sweeper:
    """Forks a child every now and then."""

    def __init__(self, every_s: float, now: float) -> None:
        """`every_s`: Airflow's `[dag_processor] stale_bundle_cleanup_interval`; 0: never."""
        self._every_s = every_s
        self._due_at = now + every_s if every_s > 0 else None
        self.pid: int | None = None
        """The last child; it may have ended."""

    @property
    def due_at(self) -> float | None:
        """When `tick` must be called next, None for never."""
        return self._due_at

    def tick(self, now: float, close_inherited: Callable[[], None]) -> None:
        """Fork a child if one is due; `close_inherited` closes in it what only the host may hold open."""
        if self._due_at is None or now < self._due_at:
            return
        self._due_at = now + self._every_s
        # A fork copies only the thread that forks: a lock that another one holds would stay locked for ever.
        if thread_count() > 1:
            return
        try:
            self.pid = os.fork()
        except OSError:
            return
        if self.pid == 0:
            _sweep(close_inherited)


def _sweep(close_inherited: Callable[[], None]) -> None:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(LONGEST_S)
        os.nice(10)
        close_inherited()
        runner.set_title("edge-ws host: removing old bundle versions")
        remove_stale_versions()
    except BaseException as error:  # noqa: BLE001 - a child must not run the host's code
        sys.stderr.write(f"edge-ws host: old bundle versions are not all removed: {one_line(error)}\n")
    finally:
        os._exit(0)
