"""Lists on a real terminal: as many columns as it is wide, with a summary below."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios

import pytest

ROWS = [
    {"name": "factory-7", "state": "running", "queues": ["factory", "night"], "comment": "a" * 30},
    {"name": "factory-8", "state": "idle", "queues": None, "comment": None},
]
_CODE = """
import json, sys
from argparse import Namespace
from edge_ws.cli.operate import _show
columns = sys.argv[2] or None
arguments = Namespace(output="table", columns=columns)
_show(json.loads(sys.argv[1]), arguments, {"queues": "all"}, "nothing", "2 workers")
"""


def shown(width: int, columns: str = "") -> list[str]:
    """Return what stands on a terminal of so many columns."""
    ours, its = os.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        command = [sys.executable, "-c", _CODE, json.dumps(ROWS), columns]
        subprocess.run(command, stdout=its, env=environ, check=True, timeout=60)
        return os.read(ours, 10_000).decode().replace("\r\n", "\n").splitlines()
    finally:
        os.close(ours)
        os.close(its)


@pytest.mark.parametrize(
    ("width", "names", "left_out"),
    [
        (35, ["name", "state", "queues"], "1 more column"),
        (34, ["name", "state"], "2 more columns"),
        (200, ["name", "state", "queues", "comment"], ""),
    ],
)
def test_a_table_is_as_wide_as_the_terminal(width: int, names: list[str], left_out: str) -> None:
    head, frame, *rest = shown(width)
    assert [name.strip() for name in head.split("|")] == names
    assert len(frame) <= width
    assert (f"2 workers ({left_out} in a wider terminal" in rest[-1]) is bool(left_out)
    assert rest[-1].startswith("2 workers")


def test_columns_that_are_asked_for_are_all_shown() -> None:
    """However narrow the terminal is."""
    head, *_, last = shown(20, "name,state,queues,comment")
    assert "comment" in head
    assert last == "2 workers"
