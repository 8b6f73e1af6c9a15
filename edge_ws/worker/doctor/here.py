"""The checks of this machine: what is installed, the DAGs' bundles, the disk."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from edge_ws import airflow_versions
from edge_ws.errors import UnsupportedAirflowError
from edge_ws.ownership import why_unsafe
from edge_ws.worker import network, sysinfo
from edge_ws.worker.doctor.context import Context, Found, failed, ok, warning

LITTLE_DISK = 1 << 30
TOO_LITTLE_DISK = 64 << 20
BUNDLES_WITHIN_S = 120.0
_OF_THE_DAEMON = "EDGE_WS_"
# In a process of its own, as the job host is: Airflow takes seconds and 100 MB to load.
_BUNDLES = "import json; from edge_ws.host.bundles import found; print(json.dumps(found()))"


async def versions(context: Context) -> Found:
    """Compare what runs here with what runs at the centre."""
    here, there = sysinfo.versions(), context.health.get("versions", {})
    if "airflow" not in here:
        return failed("Airflow is not installed here", "run: pip install 'edge-ws[worker]'")
    try:
        airflow_versions.require()
    except UnsupportedAirflowError as error:
        return failed(str(error), "")
    detail = f"here {_told(here)}; centre {_told(there) if there else 'unknown'}"
    ours, theirs = _minor(here["airflow"]), _minor(str(there.get("airflow", here["airflow"])))
    if ours > theirs:
        return warning(
            detail, "install the centre's Airflow here: the Execution API takes older clients only"
        )
    if _minor(here["python"]) != _minor(str(there.get("python", here["python"]))):
        return warning(detail, "DAG files are read by another Python here; keep to what both can do")
    return ok(detail)


def _told(versions: Mapping[str, str]) -> str:
    names = (("airflow", "Airflow"), ("python", "Python"), ("edge_ws", "edge-ws"))
    return ", ".join(f"{shown} {versions[name]}" for name, shown in names if name in versions)


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


async def dag_bundles(context: Context) -> Found:
    """Have Airflow say which bundles it knows here, and look into the local ones."""
    if airflow_versions.installed() is None:
        return failed("Airflow is not installed here", "run: pip install 'edge-ws[worker]'")
    environ = {**network.task_environment(context.config), **context.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-c",
        _BUNDLES,
        env={name: value for name, value in environ.items() if not name.startswith(_OF_THE_DAEMON)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(BUNDLES_WITHIN_S):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return failed(f"Airflow did not load within {BUNDLES_WITHIN_S:.0f} s", "is the machine overloaded?")
    if process.returncode != 0:
        why = (errors.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        return failed(f"Airflow does not load: {why[:300]}", "correct that here; tasks need it")
    return await asyncio.to_thread(_judge, json.loads(output.splitlines()[-1]))


def _judge(bundles: list[dict[str, str | None]]) -> Found:
    setting = "[dag_processor] dag_bundle_config_list, or [core] dags_folder,"
    told = []
    for bundle in bundles:
        name, path, fault = bundle["name"], bundle["path"], bundle["fault"]
        if fault is not None:
            return failed(f"bundle {name} cannot be made: {fault}", f"correct {setting} here")
        if path is None:
            told.append(f"{name} (fetched when a task needs it)")
            continue
        if not Path(path).is_dir() or not os.access(path, os.R_OK | os.X_OK):
            return failed(
                f"bundle {name}: {path} is no folder that can be read",
                f"put the DAG files there, or correct {setting} here",
            )
        if next((one for one in Path(path).rglob("*") if one.suffix in {".py", ".zip"}), None) is None:
            return warning(f"bundle {name}: {path} holds no DAG file", "put the centre's DAG files there")
        told.append(f"{name} in {path}")
    if not told:
        return failed("Airflow knows no DAG bundle here", f"set {setting} here as at the centre")
    return ok(", ".join(told))


async def disk(context: Context) -> Found:
    """Look at the disk that holds the state directory, whether it can be written to, and by whom else."""
    folder = context.config.state_dir.absolute()
    try:
        unsafe = why_unsafe(folder)
    except OSError as error:
        return failed(f"{folder} cannot be looked at: {error.strerror}", "give another --state-dir")
    if unsafe:
        return failed(f"{folder} is not safe from other users: {unsafe}", "")
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return failed(f"{there} cannot be written to", "give another --state-dir, or its rights to this user")
    free = shutil.disk_usage(there).free
    detail = f"{free / 2**30:.1f} GiB free for {folder}"
    if free < TOO_LITTLE_DISK:
        return failed(detail, "make room: reports and logs of tasks wait there")
    if free < LITTLE_DISK:
        return warning(detail, "make room: reports and logs of tasks wait there")
    return ok(detail)
