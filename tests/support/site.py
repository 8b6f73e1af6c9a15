"""A real Airflow and real workers for a test: every process as a user would start it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from edge_ws.store.store import Store
from tests.support.databases import using
from tests.support.gateway import make_token
from tests.support.programs import clean_environment
from tests.support.waiting import free_port, wait_until

READY_S = 150.0
PASSWORD = "open sesame"


@dataclass
class Process:
    """One process with its log."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_for(self, text: str, deadline_s: float = 30.0) -> None:
        def there() -> bool:
            if self.popen.poll() is not None and text not in self.log.read_text():
                raise AssertionError(f"{self.name} ended ({self.popen.returncode}):\n{self.tail()}")
            return text in self.log.read_text()

        wait_until(there, deadline_s, every_s=0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM, within_s: float = 30.0) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(how)
        return self.popen.wait(within_s)


@dataclass
class Site:
    """A running Airflow."""

    home: Path
    dags: Path
    notes: Path
    environment: dict[str, str]
    port: int
    processes: dict[str, Process] = field(default_factory=dict)
    token: str = ""
    users: dict[str, str] = field(default_factory=dict)
    """Name -> role of those who sign in, with `PASSWORD`; empty: everybody is an administrator."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def airflow(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    def spawn(self, name: str, *words: str, environment: dict[str, str] | None = None) -> Process:
        log = self.home / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", *words],
                env=environment or self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.home,
            )
        process = self.processes[name] = Process(name, popen, log)
        return process

    def serve(self, *words: str) -> Process:
        """Start the api-server with these further flags."""
        process = self.spawn("api-server", "airflow", "api-server", *words)
        process.wait_for("Application startup complete", READY_S)
        user = next(iter(self.users), None)

        def token() -> str:
            # It says so before it listens.
            with suppress(httpx2.TransportError):
                return self.token_of(user)
            return ""

        self.token = wait_until(token, READY_S, every_s=0.1)
        return process

    def token_of(self, user: str | None) -> str:
        """Return a token of Airflow's for the user; None: the one that everybody is without users."""
        with httpx2.Client(timeout=30) as client:
            if user is None:
                answer = client.get(f"{self.url}/auth/token")
            else:
                signing_in = {"username": user, "password": PASSWORD}
                answer = client.post(f"{self.url}/auth/token", json=signing_in)
        return str(answer.json()["access_token"])

    def worker(self, name: str, *words: str, **settings: str) -> Process:
        """Start a worker as on a remote host: no setting of the centre's but the URL and the token."""
        folder = self.home / f"remote-{name}"
        folder.mkdir(exist_ok=True)
        token = folder / "token"
        if not token.exists():
            token.touch(mode=0o600)
            # As `airflow edge-ws token create` does, which starts a whole Airflow for it.
            with using(self.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]) as engine:
                token.write_text(make_token(Store(engine), name))
        environment = clean_environment(
            folder,
            AIRFLOW__CORE__DAGS_FOLDER=str(self.dags),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            SITE_NOTES=str(self.notes),
            **settings,
        )
        environment.pop("PYTHONPATH", None)
        flags = [
            "--url",
            self.url,
            "-H",
            name,
            "--token-file",
            str(token),
            "--state-dir",
            str(folder / "state"),
        ]
        process = self.spawn(
            f"worker-{name}", "edge_ws.cli", "worker", *flags, *words, environment=environment
        )
        process.wait_for("connected: ")
        return process

    # Airflow's REST API

    def api(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {self.token}", "accept": "application/json"}
        with httpx2.Client(timeout=30) as client:
            answer = client.request(method, f"{self.url}/api/v2/{path}", json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def told(self, verb: str, **of: str) -> Any:
        """Return what an operator's verb that only reads says, asked of this Airflow's gateway."""
        headers = {"authorization": f"Bearer {self.token}"}
        with httpx2.Client(timeout=30) as client:
            answer = client.get(f"{self.url}/edge-ws/v1/admin/{verb}", params=of, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def trigger(self, dag: str, run: str) -> None:
        def known() -> bool:
            found = self.api("GET", f"dags?dag_id_pattern={dag[:20]}")["dags"]
            return any(one["dag_id"] == dag for one in found)

        wait_until(known, READY_S, every_s=0.5)
        self.api("PATCH", f"dags/{dag}", {"is_paused": False})
        self.api("POST", f"dags/{dag}/dagRuns", {"logical_date": None, "dag_run_id": run})

    def tasks(self, dag: str, run: str) -> dict[tuple[str, int], dict[str, Any]]:
        found = self.api("GET", f"dags/{dag}/dagRuns/{run}/taskInstances?limit=100")["task_instances"]
        return {(one["task_id"], one["map_index"]): one for one in found}

    def wait_run(self, dag: str, run: str, deadline_s: float = 90.0) -> str:
        """Wait for the run's end and return its state."""

        def ended() -> str | None:
            state = str(self.api("GET", f"dags/{dag}/dagRuns/{run}")["state"])
            return state if state in {"success", "failed"} else None

        try:
            return wait_until(ended, deadline_s, every_s=0.3) or ""
        except AssertionError:
            tails = "\n".join(f"== {one.name}\n{one.tail(40)}" for one in self.processes.values())
            raise AssertionError(f"{dag} did not end: {self.tasks(dag, run)}\n{tails}") from None

    def log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        content = self.api("GET", f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}")["content"]
        return content if isinstance(content, str) else json.dumps(content)

    def wait_log(self, text: str, dag: str, run: str, task: str, attempt: int = 1) -> str:
        def with_text() -> str:
            found = self.log(dag, run, task, attempt)
            return found if text in found else ""

        return wait_until(with_text, 15.0, every_s=0.2)


def _kill(site: Site) -> None:
    """Stop everything: workers first, so that they can say goodbye, then Airflow; then whatever is left."""
    for workers in (True, False):
        some = [one for one in site.processes.values() if one.name.startswith("worker") is workers]
        for process in some:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in some:
            try:
                process.popen.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.popen.pid, signal.SIGKILL)
                process.popen.wait()
    # One that gives itself a title has no readable environment.
    for one in psutil.process_iter(["environ", "cwd"]):
        places = (one.info["environ"] or {}).get("HOME", ""), one.info["cwd"] or ""
        if any(place.startswith(str(site.home.parent)) for place in places):
            with suppress(psutil.NoSuchProcess):
                one.kill()


@contextmanager
def running_site(
    folder: Path,
    dags: Path,
    database_url: str | None = None,
    *,
    triggerer: bool = True,
    api_server: bool = True,
    edge3: Path | None = None,
    hash_seed: str | None = None,
    users: dict[str, str] | None = None,
    **settings: str,
) -> Iterator[Site]:
    """Run Airflow with our executor and plugin; `settings` are AIRFLOW__ variables without that prefix.

    `users`, name -> role, have to sign in, and the first one's token is the site's.

    Without `api_server` the test starts it: see `Site.serve`. With `edge3`, the folder of the real one, it is
    installed, too. With one `hash_seed`, Python's, sets have the same order in all processes of the site.
    """
    home, notes = folder / "airflow", folder / "notes"
    home.mkdir()
    notes.mkdir()
    port = free_port()
    values = {
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "edge_ws.provider.executor.EdgeWsExecutor",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__PARALLELISM": "64",
        "API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        # No test changes a file of DAGs: each is parsed once, not every 30 s.
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        "EDGE_WS__API_ENABLED": "True",
        **settings,
    }
    if users:
        passwords = folder / "passwords.json"
        passwords.write_text(json.dumps(dict.fromkeys(users, PASSWORD)))
        values["CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] = "False"
        values["CORE__SIMPLE_AUTH_MANAGER_USERS"] = ",".join(f"{name}:{role}" for name, role in users.items())
        values["CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"] = str(passwords)
    if database_url is not None:
        values["DATABASE__SQL_ALCHEMY_CONN"] = database_url
    environment = clean_environment(folder, **{f"AIRFLOW__{name}": value for name, value in values.items()})
    environment.pop("PYTHONPATH", None)
    if edge3 is not None:
        environment["PYTHONPATH"] = str(edge3)
    if hash_seed is not None:
        environment["PYTHONHASHSEED"] = hash_seed
    environment["SITE_NOTES"] = str(notes)
    site = Site(home, dags, notes, environment, port, users=dict(users or {}))
    try:
        site.airflow("db", "migrate")
        for part in ("scheduler", "dag-processor", *(["triggerer"] if triggerer else [])):
            site.spawn(part, "airflow", part)
        if api_server:
            site.serve()
        yield site
    finally:
        _kill(site)


def seconds_until(predicate: Any, deadline_s: float) -> float:
    """Wait for the condition; return how long that took."""
    begun = time.monotonic()
    wait_until(predicate, deadline_s)
    return time.monotonic() - begun
