"""What the state directory remembers."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_ws.errors import EdgeWsError, UsageError
from edge_ws.protocol.frames import Asked
from edge_ws.worker.state import StateDirectory, daemon_of
from edge_ws.worker.wishes import Request
from tests.support.programs import clean_environment

REQUEST = Request(Asked(number=3, maintenance=True, comment="new disk, 'äöü'"))

_HOLD = """
import sys
from pathlib import Path
from edge_ws.worker.state import StateDirectory
held = StateDirectory(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_what_was_asked_for_is_kept(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.request() is None
    for request in (REQUEST, replace(REQUEST, settled=True)):
        state.keep_request(request)
        assert state.request() == request


def test_what_an_older_release_kept_is_not_settled(tmp_path: Path) -> None:
    (tmp_path / "asked").write_text('{"number": 3, "maintenance": true, "comment": "x"}')
    assert StateDirectory(tmp_path).request() == Request(Asked(number=3, maintenance=True, comment="x"))


@pytest.mark.parametrize(
    "torn", [b"", b"{", b"[]", b'{"number": "x", "maintenance": 1, "comment": 0}', b"\xff"]
)
def test_a_torn_file_is_put_aside(tmp_path: Path, torn: bytes) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "asked").write_bytes(torn)
    assert state.request() is None
    assert (tmp_path / "asked.bad").read_bytes() == torn
    state.keep_request(REQUEST)
    assert state.request() == REQUEST


def test_a_disk_that_does_not_take_it_is_said(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.keep_request(REQUEST)
    (tmp_path / "asked.tmp").mkdir()
    with pytest.raises(EdgeWsError, match="nothing has changed"):
        state.keep_request(Request(Asked(number=4, maintenance=False)))
    assert state.request() == REQUEST


def test_who_holds_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        daemon_of(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        env=clean_environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"held\n"
        assert daemon_of(tmp_path) == other.pid
        assert daemon_of(tmp_path) != os.getpid()
        with pytest.raises(UsageError, match="another worker runs with the state directory"):
            StateDirectory(tmp_path)
        other.stdin.close()
        assert other.wait(10) == 0
    assert daemon_of(tmp_path) is None
