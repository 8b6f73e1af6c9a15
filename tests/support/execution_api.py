"""A small Execution API on loopback: enough for real supervisors to run real tasks, and a record of what they said."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_NOW = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request."""

    method: str
    path: str
    token: str
    body: Any


@dataclass(kw_only=True)
class ExecutionApi:
    """The running server."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    refuse_run: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """Task instance id -> status and detail that its start gets."""
    hold_run: dict[str, threading.Event] = field(default_factory=dict)
    """Task instance id -> what its start waits for."""
    away: str = ""
    """How all requests fail: `reset` (cut off), or a status with a page that is not Airflow's; "": they do not."""
    away_for: str = ""
    """Only those with this in their path fail so."""
    turned_away: list[str] = field(default_factory=list)
    """The paths of those that failed so."""
    refuse_state: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """Task instance id -> status and detail that its reports of a state get."""
    may_retry: set[str] = field(default_factory=set)
    """Task instances that are told at their start that they may retry."""
    hold_state: dict[str, threading.Event] = field(default_factory=dict)
    """Task instance id -> what the answer to its reports of a state waits for."""
    refuse_heartbeat: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """Task instance id -> status and detail that its heartbeats get."""

    def calls_of(self, task_instance: uuid.UUID | str) -> list[Call]:
        """Return the requests about a task instance, heartbeats left out."""
        mine = [call for call in self.calls if str(task_instance) in call.path]
        return [call for call in mine if not call.path.endswith("/heartbeat")]

    def heartbeats_of(self, task_instance: uuid.UUID | str) -> int:
        """Return how often the task's supervisor has asked whether it is to go on."""
        return sum(call.path.endswith(f"{task_instance}/heartbeat") for call in self.calls)

    def states_of(self, task_instance: uuid.UUID | str) -> list[str]:
        """Return the states that the task's supervisor reported."""
        return [call.body["state"] for call in self.calls_of(task_instance) if call.path.endswith("/state")]

    def answer(self, call: Call) -> tuple[int, Any]:
        """Return the status and body for a request."""
        self.calls.append(call)
        parts = call.path.strip("/").split("/")
        if parts[-1] == "state" and parts[-2] in self.hold_state:
            self.hold_state[parts[-2]].wait(60)
        if parts[-1] == "state" and parts[-2] in self.refuse_state:
            status, detail = self.refuse_state[parts[-2]]
            return status, {"detail": detail}
        if parts[-1] == "heartbeat" and parts[-2] in self.refuse_heartbeat:
            status, detail = self.refuse_heartbeat[parts[-2]]
            return status, {"detail": detail}
        if parts[-1] != "run":
            return (404, {"detail": {"reason": "not_found"}}) if call.method == "GET" else (204, None)
        task_instance = parts[-2]
        if task_instance in self.hold_run:
            self.hold_run[task_instance].wait(60)
        if task_instance in self.refuse_run:
            status, detail = self.refuse_run[task_instance]
            return status, {"detail": detail}
        run = dict.fromkeys(
            (
                "data_interval_start",
                "data_interval_end",
                "start_date",
                "end_date",
                "partition_key",
                "partition_date",
            )
        )
        known = {"logical_date": _NOW, "run_after": _NOW, "run_type": "manual", "state": "running"}
        ids = {"dag_id": "jobs", "run_id": "r1", "consumed_asset_events": []}
        return 200, {
            "dag_run": {**run, **known, **ids},
            "max_tries": 0,
            "should_retry": task_instance in self.may_retry,
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: supervisors are killed in the middle of a request here."""


@contextmanager
def execution_api(given: ExecutionApi | None = None) -> Iterator[ExecutionApi]:
    """Run one for the length of the block; `api`: one that knows more than this one."""
    api = given or ExecutionApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if api.away and api.away_for in self.path:
                api.turned_away.append(self.path)
                self._fail(api.away)
                return
            call = Call(
                method=self.command,
                path=self.path.removeprefix("/execution"),
                token=(self.headers.get("authorization") or "").removeprefix("Bearer "),
                body=json.loads(body) if body else None,
            )
            status, answer = api.answer(call)
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _fail(self, how: str) -> None:
            self.close_connection = True
            if how != "reset":
                page = b"<html>this is the proxy</html>"
                self.send_response(int(how))
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

        do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = _serve  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}/execution/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
