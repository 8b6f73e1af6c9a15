"""What to paste into another shell to operate a demo that is kept: at the centre, on the host, by HTTP.

Runs nothing. The lines are plain POSIX shell, without comments, which not every interactive shell takes.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from edge_ws.cli.operator_verbs import TOKEN_VARIABLE
from edge_ws.demo.place import WORKER, Place, scrubbed

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
