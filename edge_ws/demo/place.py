"""Where the demo lies and what its processes are told: one temporary folder, a port, two environments.

Starts nothing. The environments hold nothing that could lead to an Airflow of the user's.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_ws.errors import EdgeWsError
from edge_ws.resources import examples_dir

DAG = "factory"
QUEUE = "factory"
WORKER = "factory-demo"
_FOREIGN = ("AIRFLOW", "_AIRFLOW", "EDGE_WS_", "PYTHONPATH", "PYTHONHOME")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The demo's folder: `centre` and `worker` stand for two machines, `logs` is for people."""

    root: Path
    port: int

    @property
    def url(self) -> str:
        """Airflow's base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def centre(self) -> Path:
        """Airflow's home in the data centre."""
        return self.root / "centre"

    @property
    def worker(self) -> Path:
        """The worker's folder: its own Airflow home, DAGs, logs and state."""
        return self.root / "worker"

    @property
    def database(self) -> Path:
        """Airflow's SQLite file."""
        return self.centre / "airflow.db"

    @property
    def token(self) -> Path:
        """The worker's token file."""
        return self.worker / "token"

    @property
    def state(self) -> Path:
        """The worker's state directory."""
        return self.worker / "state"

    @property
    def hosts(self) -> Path:
        """Where the worker's job hosts keep their files."""
        return self.state / "hosts"

    @property
    def logs(self) -> Path:
        """The processes' own output."""
        return self.root / "logs"


def make_place() -> Place:
    """Make the folder and put the example's DAG into both homes, as a deployment would.

    Raises:
        EdgeWsError: no folder can be made, or the package's examples are missing.
    """
    dags = examples_dir() / DAG / "dags"
    try:
        root = Path(tempfile.mkdtemp(prefix="edge-ws-demo-")).resolve()
        place = Place(root=root, port=_free_port())
        place.logs.mkdir()
        for home in (place.centre, place.worker):
            shutil.copytree(dags, home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise EdgeWsError(
            f"the demo cannot write to {tempfile.gettempdir()}: {error.strerror or error}; "
            "free some space there, or set TMPDIR to another folder"
        ) from error
    return place


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings of Airflow, edge-ws, Python's path and proxies."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
    }


def centre_environment(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what Airflow's processes are started with."""
    return {
        **_common(place.centre, environ),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{place.database}",
        "AIRFLOW__CORE__EXECUTOR": "edge_ws.provider.executor.EdgeWsExecutor",
        "AIRFLOW__EDGE_WS__API_ENABLED": "True",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        # Nobody has to log in; the server listens on loopback only.
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(place.port),
        "AIRFLOW__API__BASE_URL": place.url,
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(48),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
        # Airflow's default is a second, which is for a scheduler with more to do.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    }


def worker_environment(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the worker is started with: its DAGs, no database and no secret of the centre."""
    return _common(place.worker, environ)


def _common(home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        **scrubbed(environ),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONUNBUFFERED": "1",
    }
