"""Runs one case on both executors of one real Airflow and collects what each made of it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
import psutil

from tests.parity.cases import Act, Case
from tests.parity.compare import (
    Difference,
    Facts,
    Normaliser,
    audit_facts,
    differences,
    judge,
    log_facts,
    name_of,
    task_facts,
)
from tests.parity.known import KNOWN
from tests.support.site import Site

SIDES = ("local", "edge")
RUN_WITHIN_S = 600.0
"""A run of the long form shares two cores with many others."""
SETTLED_WITHIN_S = 120.0
"""The log of a job that has ended is moved, and the dag-processor has called what the scheduler has it call,
within this."""
_ENDED = {"success", "failed"}


@dataclass(frozen=True)
class Outcome:
    """How one case ended."""

    case: Case
    known: Counter[str]
    unknown: list[Difference]
    places: int
    """So many sequences were compared."""

    def __str__(self) -> str:
        lines = [f"{self.case.name}: {len(self.unknown)} unknown differences (- LocalExecutor, + edge-ws)"]
        return "\n  ".join([*lines, *map(str, self.unknown[:60])])


class Api:
    """Airflow's REST API; one client for all threads."""

    def __init__(self, site: Site, client: httpx2.Client) -> None:
        self._url = f"{site.url}/api/v2"
        self._client = client

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> httpx2.Response:
        return self._client.request(method, f"{self._url}/{path}", json=body, params=query or None)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.ask("GET", path, **query)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:1000]}"
        return answer.json()

    def pages(self, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(path, limit=500, offset=len(found), **query)
            found += page[name]
            if not page[name] or len(found) >= page["total_entries"]:
                return found

    def do(self, method: str, path: str, body: Any) -> None:
        answer = self.ask(method, path, body)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text[:1000]}"


@contextmanager
def api_of(site: Site) -> Iterator[Api]:
    headers = {"authorization": f"Bearer {site.token}", "accept": "application/json"}
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request
    # Its certificates would be loaded for nothing.
    with httpx2.Client(timeout=120, headers=headers, verify=False) as client:
        yield Api(site, client)


class StoppedError(Exception):
    """Nobody wants to know any more."""


class Run:
    """One run of a case on one executor."""

    def __init__(
        self, site: Site, api: Api, case: Case, side: str, *, hosts: Mapping[str, str], stop: threading.Event
    ) -> None:
        self._api = api
        self._stop = stop
        self._site = site
        self._dag = case.dag
        self._case = case
        self.id = f"{side}__{case.name}"
        names = {self.id: "RUN", str(site.home.parent): "FOLDER", str(site.home): "HOME", **hosts}
        self._normalise = Normaliser(names)
        self._path = f"dags/{quote(case.dag, safe='')}/dagRuns/{quote(self.id, safe='')}"
        self._pids: set[int] = set()

    def play(self) -> None:
        """Run it to its end, with what the operator does, until no process of it is left."""
        body = {"logical_date": None, "dag_run_id": self.id, "conf": self._case.conf}
        self._api.do("POST", f"dags/{self._dag}/dagRuns", body)
        if self._case.act is not None:
            self._act(self._case.act)
        self._wait(self._has_ended, every_s=1.0)
        self._wait(lambda: not any(map(_lives, self._pids)), every_s=0.3)

    def _wait(self, predicate: Callable[[], bool], every_s: float) -> None:
        end = time.monotonic() + RUN_WITHIN_S
        while not predicate():
            if self._stop.wait(every_s):
                raise StoppedError
            # Airflow's API answers on without a scheduler, and nothing would ever change.
            dead = [one for one in self._site.processes.values() if one.popen.poll() is not None]
            assert not dead, f"{dead[0].name} has ended:\n{dead[0].tail()}"
            assert time.monotonic() < end, f"{self.id} is not done: {self._tasks()}"

    # Operators' acts

    def _act(self, act: Act) -> None:
        self._wait(self._all_have_begun, every_s=0.1)
        moment = time.monotonic() + act.after_s
        tasks = self._tasks()
        self._pids |= {one["pid"] for one in tasks if one["pid"]}
        time.sleep(max(0.0, moment - time.monotonic()))
        names = [one["task_id"] for one in tasks]
        if act.what == "clear":
            body = {"dry_run": False, "dag_run_id": self.id, "only_failed": False, "task_ids": names}
            self._api.do("POST", f"dags/{self._dag}/clearTaskInstances", body)
        elif act.what == "run_cleared":
            self._api.do("POST", f"{self._path}/clear", {"dry_run": False, "only_failed": False})
        elif act.what == "run_deleted":
            # One that runs cannot be deleted.
            self._api.do("PATCH", self._path, {"state": "failed"})
            self._api.do("DELETE", self._path, None)
        elif act.what.startswith("run_"):
            self._api.do("PATCH", self._path, {"state": act.what.removeprefix("run_")})
        else:
            for name in names:
                self._api.do("PATCH", f"{self._path}/taskInstances/{name}", {"new_state": act.what})

    def _all_have_begun(self) -> bool:
        tasks = self._tasks()
        return bool(tasks) and all(
            "begun\n" in self._noted().get((one["task_id"], -1, 1), "") for one in tasks
        )

    # What is seen

    def _tasks(self) -> list[dict[str, Any]]:
        return self._api.pages(f"{self._path}/taskInstances", "task_instances")

    def _has_ended(self) -> bool:
        answer = self._api.ask("GET", self._path)
        if answer.status_code == 404 and self._case.act is not None:
            return True
        assert answer.status_code == 200, answer.text[:1000]
        if answer.json()["state"] not in _ENDED:
            return False
        tasks = self._tasks()
        self._pids |= {one["pid"] for one in tasks if one["pid"]}
        return all(one["state"] not in {"running", "restarting", "queued", "scheduled"} for one in tasks)

    def _noted(self) -> dict[tuple[str, int, int], str]:
        found = {}
        for file in self._site.notes.glob(f"{self._dag}~{self.id}~*"):
            _, _, task, index, number = file.name.split("~")
            found[task, int(index), int(number)] = file.read_text()
        return found

    def facts(self) -> Facts:
        """Return what Airflow shows of the run, and what callbacks noted."""
        facts: dict[str, list[str]] = {}
        for (task, index, number), text in self._noted().items():
            facts[f"{name_of({'task_id': task, 'map_index': index})} try {number} noted"] = text.splitlines()
        answer = self._api.ask("GET", self._path)
        if answer.status_code == 404:
            return facts | {"run": ["gone"]}
        facts["run"] = [answer.json()["state"]]
        for one in self._tasks():
            facts |= self._task_facts(one)
        for entry in self._api.pages(f"{self._path}/taskInstances/~/xcomEntries", "xcom_entries"):
            place, value = self._xcom(entry)
            facts[place] = [value]
        events = self._api.pages("eventLogs", "event_logs", dag_id=self._dag, run_id=self.id, order_by="id")
        return facts | audit_facts(events)

    def _task_facts(self, task: dict[str, Any]) -> dict[str, list[str]]:
        name, index = name_of(task), task["map_index"]
        path = f"{self._path}/taskInstances/{quote(task['task_id'], safe='')}"
        where = path if index < 0 else f"{path}/{index}"
        tries = self._api.get(f"{where}/tries")["task_instances"]
        facts = {f"{name} tries": [f"ended {task['state']}", *task_facts(tries)]}
        for what, link in self._api.get(f"{path}/links", map_index=index)["extra_links"].items():
            facts[f"{name} link {what}"] = [self._normalise(str(link).replace(self._site.url, "SITE"))]
        for one in tries:
            if number := one["try_number"]:
                log = self._api.get(f"{path}/logs/{number}", map_index=index, full_content="true")["content"]
                content = [line if isinstance(line, dict) else {"event": line} for line in log]
                for by, lines in log_facts(content, self._normalise).items():
                    facts[f"{name} try {number} {by}"] = lines
        return facts

    def _xcom(self, entry: dict[str, Any]) -> tuple[str, str]:
        key = quote(entry["key"], safe="")
        path = f"{self._path}/taskInstances/{quote(entry['task_id'], safe='')}/xcomEntries/{key}"
        value = self._api.get(path, map_index=entry["map_index"], deserialize="false")["value"]
        text = self._normalise(json.dumps(value, sort_keys=True, ensure_ascii=False))
        return f"{name_of(entry)} xcom {entry['key']}", text


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def play(site: Site, api: Api, case: Case, worker: str, stop: threading.Event) -> Outcome:
    """Run the case on both executors and compare; what differs is written into the site's folder, too."""
    home = str(site.home / f"remote-{worker}" / "airflow")
    hosts = {worker: "HOST", home: "HOME", socket.getfqdn(): "HOST", socket.gethostname(): "HOST"}
    runs = [Run(site, api, case, side, hosts=hosts, stop=stop) for side in SIDES]
    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(Run.play, runs))
    outcome = _settled(case, runs)
    if outcome.unknown:
        (site.home / f"{case.name}.differences").write_text("\n".join(map(str, outcome.unknown)))
    return outcome


def _settled(case: Case, runs: list[Run]) -> Outcome:
    """Compare until nothing unknown differs, or for as long as a log may take to be moved."""
    end = time.monotonic() + SETTLED_WITHIN_S
    while True:
        reference, seen = (run.facts() for run in runs)
        verdict = judge(differences(reference, seen), KNOWN)
        if not verdict.unknown or time.monotonic() > end:
            return Outcome(case, verdict.known, verdict.unknown, len({*reference, *seen}))
        time.sleep(2)
