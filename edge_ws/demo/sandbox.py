"""Where the demo lives: one temporary folder, a port, Airflow's settings; and commands to try in it.

Starts nothing. The environments hold nothing that could lead to an Airflow of the user's. The commands are
plain POSIX shell, without comments, which not every interactive shell takes.
"""

from __future__ import annotations

import base64
import secrets
import shlex
import shutil
import socket
import tempfile
from collections.abc import Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from edge_ws.cli.operator_verbs import TOKEN_VARIABLE
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
    """Make the folder; put the example's DAG into both homes and the centre's settings into its own.

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
        _write_settings(place)
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


def _write_settings(place: Place) -> None:
    """Write the centre's airflow.cfg: who sets AIRFLOW_HOME, in whatever shell, has what the parts have."""
    settings = {
        "database": {"sql_alchemy_conn": f"sqlite:///{place.database}"},
        "core": {
            "executor": "edge_ws.provider.executor.EdgeWsExecutor",
            "dags_folder": str(place.centre / "dags"),
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            # Nobody has to log in; the server listens on loopback only.
            "simple_auth_manager_all_admins": "True",
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        },
        "edge_ws": {"api_enabled": "True"},
        "api": {
            "host": "127.0.0.1",
            "port": str(place.port),
            "base_url": place.url,
            "secret_key": secrets.token_urlsafe(48),
        },
        "api_auth": {"jwt_secret": secrets.token_urlsafe(48)},
        # Airflow's default is a second, which is for a scheduler with more to do.
        "scheduler": {"scheduler_idle_sleep_time": "0.2"},
    }
    parser = ConfigParser(interpolation=None)
    for section, options in settings.items():
        # Airflow reads it with interpolation: a folder's name may have a percent sign.
        parser[section] = {name: value.replace("%", "%%") for name, value in options.items()}
    file = place.centre / "airflow.cfg"
    file.touch(mode=0o600)
    with file.open("w", encoding="utf-8") as stream:
        parser.write(stream)


def centre_environment(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what Airflow's processes are started with; all else is in the centre's airflow.cfg."""
    return _common(place.centre, environ)


def worker_environment(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the worker is started with: its DAGs, no database and no secret of the centre."""
    return {
        **_common(place.worker, environ),
        "AIRFLOW__CORE__DAGS_FOLDER": str(place.worker / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }


def _common(home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    return {**scrubbed(environ), "AIRFLOW_HOME": str(home), "PYTHONUNBUFFERED": "1"}


PROGRAM = "edge-ws"
FEWER_SLOTS = 4
"""What the pasted command changes the worker's concurrency to."""


def lines(place: Place, environ: Mapping[str, str], argv0: str, python: str) -> list[str]:
    """Return the lines, in their order.

    Args:
        place: the demo's.
        environ: what the other shell is taken to have as well; what of it could lead elsewhere is unset.
        argv0: what the demo was started as.
        python: the interpreter that it runs in.
    """
    foreign = sorted(environ.keys() - scrubbed(environ).keys() - {"AIRFLOW_HOME"})
    return [
        *([f"unset {shlex.join(foreign)}"] if foreign else []),
        _find_program(Path(argv0), python),
        f"export AIRFLOW_HOME={shlex.quote(str(place.centre))} URL={place.url}",
        f"{PROGRAM} list-workers",
        f"{PROGRAM} set-worker-concurrency -H {WORKER} -c {FEWER_SLOTS} -w",
        f"{PROGRAM} status --state-dir {shlex.quote(str(place.state))}",
        f"export {TOKEN_VARIABLE}=$({_fetch_token(environ, python)})",
        f"{PROGRAM} list-workers --url $URL",
    ]


def _find_program(started_as: Path, python: str) -> str:
    """Return the line that makes `edge-ws` this one."""
    if started_as.name == PROGRAM:
        return f"PATH={shlex.quote(str(started_as.absolute().parent))}:$PATH"
    return f"alias {PROGRAM}={shlex.quote(shlex.join([python, '-m', 'edge_ws.cli']))}"


def _fetch_token(environ: Mapping[str, str], python: str) -> str:
    """Return the command that prints a token; where nobody has to log in, Airflow gives it for a mere GET."""
    if shutil.which("curl", path=environ.get("PATH", "")):
        # The answer is nothing but {"access_token":"..."}.
        return "curl -s $URL/auth/token | cut -d'\"' -f4"
    get = "json.load(urllib.request.urlopen('$URL/auth/token'))['access_token']"
    return f'{shlex.quote(python)} -c "import json, urllib.request; print({get})"'
