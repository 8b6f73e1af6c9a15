"""Files and standard streams that lose rather than fail, on a real full disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ws.streams import LossyFile
from tests.support.small_disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "1m") as mounted:
        yield mounted


def test_what_is_lost_is_counted_and_told_when_there_is_room_again(disk: SmallDisk) -> None:
    path = disk.path / "log"
    with LossyFile(str(path)) as file:
        file.write(b"before\n")
        disk.fill()
        lost = 0
        while not file.missing:
            lost = file.write(b"x" * 1023 + b"\n")
        assert lost == 1024
        file.write(b"lost\n")
        disk.free()
        file.write(b"after\n")
        assert not file.missing
    *_, note, last = path.read_text().splitlines()
    assert last == "after"
    assert note.startswith("edge-ws: ")
    assert note.endswith(" could not be written: No space left on device")


def test_a_torn_line_does_not_run_into_what_follows(disk: SmallDisk) -> None:
    path = disk.path / "log"
    with LossyFile(str(path)) as file:
        disk.fill(leave=4096)
        file.write(b"x" * 8191 + b"\n")
        assert "4096 bytes" in file.missing
        disk.free()
        file.write(b"after\n")
    torn, note, after = path.read_text().splitlines()
    assert (set(torn), after) == ({"x"}, "after")
    assert "4096 bytes of output are missing" in note


PROGRAM = """
import logging, sys
from edge_ws.streams import protect_standard_streams
protect_standard_streams()
logging.basicConfig(stream=sys.stderr)
for number in range(3000):
    print("x" * 1000)
    print("y" * 1000, file=sys.stderr)
    logging.warning("z" * 1000)
sys.stdin.readline()
print("done")
"""


def test_a_program_whose_output_fills_the_disk_ends_as_it_wants(disk: SmallDisk) -> None:
    path = disk.path / "output"
    with path.open("ab") as output:
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    assert program.stdin is not None
    with program.stdin:
        disk.fill()
    assert program.wait(60) == 0


def test_a_closed_stream_stays_closed() -> None:
    words = [sys.executable, "-c", "from edge_ws.streams import *; protect_standard_streams(); print(1)"]
    assert subprocess.run(words, preexec_fn=_close_output, check=False).returncode == 0


def _close_output() -> None:
    import os

    os.close(1)
