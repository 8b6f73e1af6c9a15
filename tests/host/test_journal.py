"""A host's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_ws.host.journal import Journal
from edge_ws.processes import boot_id, start_time


def test_a_journal_tells_who_the_host_is(tmp_path: Path) -> None:
    Journal(tmp_path, "h", "f").save(ready=True, closed=False, jobs=[{"claim": "c"}])
    assert json.loads((tmp_path / "h.json").read_text()) == {
        "host": "h",
        "fingerprint": "f",
        "pid": os.getpid(),
        "start_time": start_time(os.getpid()),
        "boot": boot_id(),
        "ready": True,
        "closed": False,
        "failure": None,
        "jobs": [{"claim": "c"}],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["h.json"]


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "h", "f")
    journal.save(ready=False, closed=False, jobs=[])
    (tmp_path / "h.json").unlink()
    journal.save(ready=False, closed=False, jobs=[])
    assert not (tmp_path / "h.json").exists()
    journal.save(ready=True, closed=False, jobs=[])
    assert (tmp_path / "h.json").exists()


def test_a_disk_that_takes_nothing_does_not_end_the_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gone"
    journal = Journal(folder, "h", "f")
    journal.save(ready=True, closed=False, jobs=[])
    assert (
        capsys.readouterr().err
        == f"edge-ws host: {folder}/h.json cannot be written: No such file or directory; running tasks go on\n"
    )
    folder.mkdir()
    journal.save(ready=True, closed=False, jobs=[])
    assert (folder / "h.json").exists()


FORKS = """
import fcntl, os, sys
from pathlib import Path
from edge_ws.host.journal import Journal

folder = Path(sys.argv[1])
journal = Journal(folder, "h", "f")
journal.lock()
if (pid := os.fork()) == 0:
    journal.close()
    journal.close()
    try:
        with (folder / "h.lock").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(7)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_child_that_closes_the_lock_does_not_unlock_it(tmp_path: Path) -> None:
    # In a process of one thread, as the host is: whoever runs the tests may have more.
    done = subprocess.run([sys.executable, "-c", FORKS, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == 7
