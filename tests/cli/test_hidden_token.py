"""A token in the environment: gone from all that other processes of the worker's user can read of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from edge_ws.worker.control import ask
from tests.support.programs import clean_environment
from tests.support.services import missing
from tests.support.waiting import free_port, wait_until

SECRET = "edgews_a-secret-that-stands-nowhere-else"
_READ = """
import sys
for pid in sys.argv[1:]:
    for name in ("environ", "mem"):
        try:
            open(f"/proc/{pid}/{name}", "rb").close()
            print(name + "+")
        except PermissionError:
            print(name + "-")
"""


def who_shows(secret: str) -> list[str]:
    """Return the processes of this machine whose environment or command line holds it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            try:
                if secret.encode() in (process / name).read_bytes():
                    found.append(f"{name} of {process.name}")
            except OSError:  # It has ended.
                continue
    return found


def test_no_process_shows_it_and_none_of_the_same_user_reads_the_daemons_memory(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        missing("the rights to give root's rights away (and setpriv)")
    # A user like any other, who may look into each process of their own that is not closed.
    user = [setpriv, "--bounding-set=-all", "--inh-caps=-all", sys.executable]
    state, told = tmp_path / "state", tmp_path / "told"
    secrets = {"EDGE_WS_TOKEN": SECRET, "EDGE_WS_ADMIN_TOKEN": SECRET}
    environment = clean_environment(tmp_path, EDGE_WS_STATE_DIR=str(state), **secrets)
    words = ["-m", "edge_ws.cli", "worker", "--url", f"http://127.0.0.1:{free_port()}", "-H", "w"]
    with (
        told.open("wb") as log,
        subprocess.Popen([*user, *words], env=environment, stdin=subprocess.DEVNULL, stderr=log) as daemon,
        subprocess.Popen([*user, "-c", "input()"], stdin=subprocess.PIPE) as any_other,
    ):
        try:
            wait_until(lambda: b"next try in" in told.read_bytes(), 60)
            wait_until(lambda: list(state.glob("hosts/*.sock")), 60)
            # It has become another program, and is the same process.
            assert ask(state, "status")["pid"] == daemon.pid
            assert who_shows(SECRET) == []
            pids = str(any_other.pid), str(daemon.pid)
            done = subprocess.run([*user, "-c", _READ, *pids], capture_output=True, text=True, check=True)
            assert done.stdout.split() == ["environ+", "mem+", "environ-", "mem-"]
        finally:
            any_other.communicate(b"\n")
            daemon.terminate()
            assert daemon.wait(60) == 0, told.read_text()
