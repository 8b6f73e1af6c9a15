"""The demo's course: set up, run the DAG, change the concurrency meanwhile, sum up. Joins the demo's modules.

The processes are the real ones, started by their own command lines.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edge_ws.demo import sandbox
from edge_ws.demo import sandbox as places
from edge_ws.demo.processes import Part, Parts
from edge_ws.demo.sandbox import DAG, QUEUE, WORKER, Place
from edge_ws.demo.screen import DONE, Screen
from edge_ws.demo.watch import CommitWatch, OfferLog, RunWatch, Task

SLOTS = 8
MORE_SLOTS = 12
PACE_S = 2.0
"""What each machine's file takes at least: the change of concurrency is to fall into the run."""
READY_WITHIN_S = 90.0
RUN_WITHIN_S = 120.0
DRAW_EVERY_S = 0.1
ASK_EVERY_S = 0.2
"""Between requests: the api-server has its start to do."""
_AIRFLOW = (sys.executable, "-P", "-m", "airflow")
_EDGE_WS = (sys.executable, "-P", "-m", "edge_ws.cli")
_EXPLAINED = """
Milliseconds from the commit of a task's row in edge_job to the arrival of its
offer at the worker (OFFER) and to its start_date in Airflow (START):
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What `-o json` prints; times in milliseconds."""

    tasks: int
    succeeded: int
    transport: str
    push_ms_p50: float
    push_ms_max: float
    start_ms_p50: float
    concurrency_applied_ms: float


def show(*, as_json: bool, keep: bool) -> int:
    """Run the demo; return the exit code.

    Raises:
        EdgeWsError: a part failed.
        KeyboardInterrupt, SystemExit: told to stop.
    """
    screen = Screen(sys.stderr if as_json else sys.stdout)
    place = places.make_place()
    screen.say(f"edge-ws demo: a real Airflow and a worker, in {place.root}")
    guarded = places.scrubbed(os.environ)
    with Parts(cwd=place.root, logs=place.logs, hosts=place.hosts, environment=guarded) as parts:
        try:
            summary = Demo(place, parts, screen).run()
            screen.say(_told(summary, place))
            if as_json:
                print(json.dumps(asdict(summary)), flush=True)
            if keep:
                screen.say(_kept(place))
                _stay(parts)
        except (KeyboardInterrupt, SystemExit):
            with suppress(OSError):  # A closed terminal is one way to be told.
                screen.say(f"\nstopping; logs: {place.logs}")
            raise
    screen.step(f"all processes have ended; left to read: {place.root}")
    return 0


def _stay(parts: Parts) -> None:
    """Wait for a signal; raises if a part fails meanwhile."""
    try:
        while True:
            parts.check()
            time.sleep(DRAW_EVERY_S)
    except (KeyboardInterrupt, SystemExit):
        # The demo itself has come to its end.
        return


class Demo:
    """One demo in its folder."""

    def __init__(self, place: Place, parts: Parts, screen: Screen) -> None:
        self._place = place
        self._parts = parts
        self._screen = screen
        self._centre = places.centre_environment(place, os.environ)

    def run(self) -> Summary:
        """Set up, run the DAG once, and return the figures; raises as `show`."""
        self._screen.step("migrating the database (airflow db migrate)")
        self._parts.finish(self._once("migrate", [*_AIRFLOW, "db", "migrate"]), READY_WITHIN_S)
        self._screen.step("starting api-server, scheduler, dag-processor; creating a token")
        server, processor = self._start_centre()
        self._parts.wait(
            server, "opened the gateway", self._gateway_serves, READY_WITHIN_S, every_s=ASK_EVERY_S
        )
        self._screen.step(f"gateway: {self._place.url}/edge-ws/; starting the worker")
        worker = self._start_worker()
        self._parts.wait(processor, f"read the DAG {DAG}", self._has_dag, READY_WITHIN_S, every_s=ASK_EVERY_S)
        self._parts.wait(worker, "connected", partial(_says, worker.log, "connected: "), READY_WITHIN_S)
        self._parts.wait(worker, "loaded Airflow", partial(_says, worker.log, "taking jobs"), READY_WITHIN_S)
        self._screen.step(_line_with("connected: ", worker.log))
        with CommitWatch(self._place.database, DAG) as commits:
            return self._run_dag(commits, OfferLog(worker.log))

    # The parts

    def _once(self, name: str, command: Sequence[str], output: Path | None = None) -> Part:
        return self._parts.start(name, command, self._centre, lasting=False, output=output)

    def _start_centre(self) -> tuple[Part, Part]:
        started = {
            name: self._parts.start(name, [*_AIRFLOW, name], self._centre)
            for name in ("api-server", "scheduler", "dag-processor")
        }
        self._token = self._once(
            "token",
            [*_EDGE_WS, "token", "create", WORKER, "--queues", QUEUE, "--expires", "1d"],
            output=self._place.token,
        )
        return started["api-server"], started["dag-processor"]

    def _start_worker(self) -> Part:
        self._parts.finish(self._token, READY_WITHIN_S)
        words = ["--url", self._place.url, "--edge-hostname", WORKER, "--queues", QUEUE]
        words += ["--concurrency", str(SLOTS), "--token-file", str(self._place.token)]
        words += ["--state-dir", str(self._place.state), "--log-level", "debug"]
        environment = places.worker_environment(self._place, os.environ)
        return self._parts.start("worker", [*_EDGE_WS, "worker", *words], environment)

    def _start_change(self) -> tuple[Part, Path]:
        told = self._place.root / "concurrency.json"
        words = ["set-worker-concurrency", "-H", WORKER, "-c", str(MORE_SLOTS), "-w", "-o", "json"]
        return self._once("concurrency", [*_AIRFLOW, "edge-ws", *words], output=told), told

    # Airflow's API

    def _gateway_serves(self) -> bool:
        return _ask(f"{self._place.url}/edge-ws/health").get("edge_ws") == "gateway"

    def _has_dag(self) -> bool:
        return _ask(f"{self._place.url}/api/v2/dags/{DAG}").get("dag_id") == DAG

    def _trigger(self) -> str:
        asked = {"logical_date": None, "conf": {"pace_s": PACE_S}}
        run = _ask(f"{self._place.url}/api/v2/dags/{DAG}/dagRuns", asked).get("dag_run_id")
        if not run:
            self._parts.fail(
                "api-server", f"did not start a run of {DAG}", self._place.logs / "api-server.log"
            )
        return str(run)

    # The run

    def _run_dag(self, commits: CommitWatch, offers: OfferLog) -> Summary:
        run = self._trigger()
        change, told = self._start_change()
        self._screen.step(f"triggered a run of the DAG {DAG}")
        self._screen.say(_EXPLAINED)
        applied_ms: float | None = None
        notes: list[str] = []
        end = time.monotonic() + RUN_WITHIN_S
        with closing(RunWatch(self._place.database, DAG, run, commits, offers)) as watch:
            while True:
                self._parts.check()
                state, tasks = watch.state(), watch.tasks()
                if applied_ms is None and change.ended:
                    applied_ms = self._applied(told)
                    notes += [f"concurrency {SLOTS} -> {MORE_SLOTS}: applied in {applied_ms:.0f} ms"]
                self._screen.tasks(tasks, notes)
                if applied_ms is not None and state in DONE:
                    break
                if time.monotonic() > end:
                    self._fail_run(f"was still {state} after {RUN_WITHIN_S:g} s", tasks)
                time.sleep(DRAW_EVERY_S)
            tasks = watch.tasks()
            self._screen.tasks(tasks, notes)
            if state != "success":
                self._fail_run("ended without success", tasks)
            return _summary(tasks, watch.transport(WORKER), applied_ms)

    def _applied(self, told: Path) -> float:
        self._parts.check()
        return float(json.loads(told.read_bytes())["applied_ms"])

    def _fail_run(self, reason: str, tasks: Sequence[Task]) -> None:
        failed = [task.name for task in tasks if task.state == "failed"]
        reason += f" (failed: {', '.join(failed)})" if failed else ""
        logs = sorted(
            (self._place.centre / "logs").rglob("attempt=*.log"), key=lambda log: log.stat().st_mtime
        )
        ended_badly = [log for log in logs if '"error"' in _text(log)]
        self._parts.fail("run", reason, (ended_badly or logs or [self._place.logs / "worker.log"])[-1])


def _summary(tasks: Sequence[Task], transport: str, applied_ms: float) -> Summary:
    push = [task.push_ms for task in tasks if task.push_ms is not None]
    start = [task.start_ms for task in tasks if task.start_ms is not None]
    return Summary(
        tasks=len(tasks),
        succeeded=sum(task.state == "success" for task in tasks),
        transport=transport,
        push_ms_p50=round(statistics.median(push), 1),
        push_ms_max=round(max(push), 1),
        start_ms_p50=round(statistics.median(start), 1),
        concurrency_applied_ms=applied_ms,
    )


def _told(summary: Summary, place: Place) -> str:
    return (
        f"\n{summary.succeeded} of {summary.tasks} tasks succeeded, pushed by {summary.transport}\n"
        f"row -> offer:  median {summary.push_ms_p50:.0f} ms, longest {summary.push_ms_max:.0f} ms\n"
        f"row -> start:  median {summary.start_ms_p50:.0f} ms\n"
        f"concurrency:   applied {summary.concurrency_applied_ms:.0f} ms after the command wrote it\n"
        f"logs:          {place.logs} (processes)\n"
        f"               {place.centre / 'logs'} (tasks)"
    )


def _kept(place: Place) -> str:
    return "\n".join(
        (
            f"\nAirflow: {place.url} (nobody has to log in). In another shell:\n",
            *sandbox.lines(place, os.environ, sys.argv[0], sys.executable),
            "\nCtrl-C ends all processes; what they have written stays.",
        )
    )


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _says(log: Path, words: str) -> bool:
    return words in _text(log)


def _line_with(words: str, log: Path) -> str:
    found = next(line for line in _text(log).splitlines() if words in line)
    return found[found.index(words) :]


def _ask(url: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return the answer's JSON object, an empty one if there is none (yet)."""
    request = urllib.request.Request(  # noqa: S310 - our own URL
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    # The user's proxies have no way to our loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10.0) as answer:
            found = json.load(answer)
    except (OSError, ValueError):  # urllib's errors are OSErrors
        return {}
    return found if isinstance(found, dict) else {}
