"""What a worker says of its machine: under edge3's keys, so that edge3's page and metrics show it.

Must not import Airflow.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import pwd
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import psutil

from edge_ws import __version__, airflow_versions

_USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where Python's `getpass` looks, in its order."""


_OF_ONE_START = (
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)
"""Variables that systemd sets anew at each start."""


def versions() -> dict[str, str]:
    """Return what runs here: `edge_ws`, `python` and, where they are installed, `airflow` and `task_sdk`."""
    found = {"edge_ws": __version__, "python": platform.python_version()}
    others = {"airflow": airflow_versions.installed(), "task_sdk": airflow_versions.installed_sdk()}
    return {**found, **{name: version for name, version in others.items() if version is not None}}


def versions_told(versions: Mapping[str, str]) -> str:
    """Return versions as words, `unknown` if there are none."""
    names = {"edge_ws": "edge-ws", "airflow": "Airflow", "python": "Python"}
    known = [f"{name} {versions[key]}" for key, name in names.items() if key in versions]
    return ", ".join(known) or "unknown"


def with_identity(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the environment with a home and a user name where a user id has none, as in some containers.

    Airflow looks for its folder below the home, and reports the user's name with each start of a task.

    Args:
        environment: of the daemon.
        home: the folder that stands in.
    """
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:
        account = None
    found = dict(environment)
    if account is None and not found.get("HOME"):
        found["HOME"] = str(home)
    if account is None and not any(found.get(name) for name in _USER_NAMES):
        found["LOGNAME"] = f"uid-{os.getuid()}"
    return found


def fingerprint(environment: dict[str, str], versions: dict[str, str]) -> str:
    """Return what a job host depends on, as a hash: a host of another one is not given new jobs."""
    told = {name: value for name, value in environment.items() if not name.startswith("EDGE_WS_")}
    # What differs between two logins and means nothing to a task.
    for name in ("SHLVL", "PWD", "OLDPWD", "_", *_OF_ONE_START):
        told.pop(name, None)
    return hashlib.sha256(json.dumps([told, versions], sort_keys=True).encode()).hexdigest()[:16]


def worker(
    *,
    versions: Mapping[str, str],
    started_at: datetime,
    concurrency: int,
    free_concurrency: int,
    status: int = logging.INFO,
) -> dict[str, str | int | float]:
    """Return what the worker is.

    `versions` as the function of that name gives them (reading them takes longer than all the rest),
    `started_at` the daemon's start, `status` a logging level, as edge3 has it: INFO healthy, WARNING, ERROR.
    """
    told: dict[str, str | int | float] = {
        "status": status,
        "edge_ws_version": versions["edge_ws"],
        "edge_provider_version": f"edge-ws {versions['edge_ws']}",
        "python_version": versions["python"],
        "worker_start_time": started_at.isoformat(timespec="seconds"),
        "concurrency": concurrency,
        "free_concurrency": free_concurrency,
        "platform": sys.platform,
        # By which people tell two machines apart that share a name by mistake.
        "hostname": platform.node(),
        "pid": os.getpid(),
    }
    for name in ("airflow", "task_sdk"):
        if name in versions:
            told[f"{name}_version"] = versions[name]
    return told


def machine(disk: Path) -> dict[str, str | int | float]:
    """Return the load and the room of the machine, well under a millisecond; what cannot be read is left out.

    `disk` is a folder on the disk to report. Usages are percent, GB are 2^30 bytes, MB 2^20.
    """
    told: dict[str, str | int | float] = {}
    try:
        memory = psutil.virtual_memory()
        told |= {
            "cpu_count": psutil.cpu_count() or 1,
            # Since the last call; 0.0 at the first.
            "cpu_usage": psutil.cpu_percent(None),
            "sys_load": round(os.getloadavg()[0], 2),
            "memory_usage": memory.percent,
            "memory_free_gb": round(memory.available / 2**30, 2),
            "memory_total_gb": round(memory.total / 2**30, 2),
            "daemon_rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
        }
        space = psutil.disk_usage(str(disk))
        told |= {
            "disk_free_gb": round(space.free / 2**30, 2),
            "disk_total_gb": round(space.total / 2**30, 2),
            "disk_usage": space.percent,
        }
    except (OSError, psutil.Error):
        # A container without /proc, or a folder that is gone: the rest still counts.
        return told
    return told
