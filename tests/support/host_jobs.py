"""One job of a host, seen from a test."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import psutil

from tests.support.execution_api import ExecutionApi
from tests.support.jobs import Site, TaskWorkload
from tests.support.raw_host import Line, RawHost


def prepare(line: Line, api: ExecutionApi, workload: TaskWorkload, claim: str | None = None) -> str:
    claim = claim or str(uuid.uuid4())
    line.say("prepare", claim=claim, payload=workload.payload, server=api.url)
    line.hear("prepared", claim)
    return claim


def go(line: Line, api: ExecutionApi, workload: TaskWorkload) -> str:
    claim = prepare(line, api, workload)
    line.say("go", claim=claim, token="secret-token")
    return claim


def events_in(path: Path) -> list[str]:
    return [json.loads(text)["event"] for text in path.read_text().splitlines()]


def job_of(host: RawHost, claim: str) -> dict[str, Any]:
    job: dict[str, Any]
    (job,) = [job for job in host.journal["jobs"] if job["claim"] == claim]
    return job


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def note_of(site: Site, name: str) -> str:
    path = site.notes / name
    return path.read_text() if path.exists() else ""
