"""The lines that a kept demo offers; `test_demo` runs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from edge_ws.demo.sandbox import Place, lines

PLACE = Place(root=Path("/tmp/edge-ws-demo-abcdefgh"), port=65535)
PROGRAM = "/home/somebody/edge-ws/.venv/bin/edge-ws"
PYTHON = "/usr/bin/python3"


def test_they_fit_on_a_usual_terminal(tmp_path: Path) -> None:
    (tmp_path / "curl").touch(mode=0o755)
    told = lines(PLACE, {"PATH": str(tmp_path)}, PROGRAM, PYTHON)
    assert len(told) == 7
    assert max(map(len, told)) <= 80
    assert told[0] == "PATH=/home/somebody/edge-ws/.venv/bin:$PATH"


def test_what_could_lead_elsewhere_is_unset() -> None:
    exported = {"PATH": "/bin", "AIRFLOW_HOME": "/srv", "AIRFLOW_CONFIG": "/srv/cfg", "https_proxy": "x"}
    first, *others = lines(PLACE, exported, PROGRAM, PYTHON)
    assert first == "unset AIRFLOW_CONFIG https_proxy"
    assert others == lines(PLACE, {"PATH": "/bin"}, PROGRAM, PYTHON)


def test_a_module_gets_the_programs_name() -> None:
    first, *others = lines(PLACE, {}, "/usr/lib/edge_ws/cli/__main__.py", PYTHON)
    assert first == "alias edge-ws='/usr/bin/python3 -m edge_ws.cli'"
    assert others == lines(PLACE, {}, PROGRAM, PYTHON)[1:]


def test_a_folder_with_a_space() -> None:
    told = lines(Place(root=Path("/my files"), port=80), {}, "/my files/bin/edge-ws", PYTHON)
    assert told[0] == "PATH='/my files/bin':$PATH"
    assert "AIRFLOW_HOME='/my files/centre' " in told[1]
    assert told[4].endswith("--state-dir '/my files/worker/state'")


class _Airflow(BaseHTTPRequestHandler):
    """Answers as Airflow does where nobody has to log in."""

    def do_GET(self) -> None:
        self.send_response(201 if self.path == "/auth/token" else 404)
        self.end_headers()
        self.wfile.write(b'{"access_token":"eyJ.a-b_c.d"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Airflow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("has_curl", [True, False])
def test_the_token_is_fetched_with_what_is_there(port: int, tmp_path: Path, has_curl: bool) -> None:
    curl = shutil.which("curl")
    if has_curl and curl is None:
        pytest.skip("this machine has no curl")
    path = str(Path(curl or "").parent) if has_curl else str(tmp_path)
    told = lines(Place(root=tmp_path, port=port), {"PATH": path}, PROGRAM, sys.executable)
    (fetch,) = (line for line in told if line.startswith("export EDGE_WS_ADMIN_TOKEN="))
    assert ("curl" in fetch) is has_curl
    done = subprocess.run(
        ["/bin/sh", "-ec", f'URL=http://127.0.0.1:{port}\n{fetch}\necho "$EDGE_WS_ADMIN_TOKEN"'],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("eyJ.a-b_c.d\n", "")
