"""What the processes of `edge_ws.server.uvicorn_server` do in tests: `python -m tests.support.children NAME`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from edge_ws.server.uvicorn_server import Processes

HERE = Path()


def _note(name: str) -> None:
    (HERE / f"{name}-{os.getpid()}").touch()


def obedient() -> None:
    """Live until SIGTERM."""

    def end(number: int, frame: FrameType | None) -> None:
        _note("ended")
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    _note("lives")
    while True:
        signal.pause()


def stubborn() -> None:
    """Live whatever is said."""
    signal.signal(signal.SIGTERM, lambda *_: _note("told"))
    _note("lives")
    while True:
        time.sleep(60)


def misconfigured() -> None:
    """End with an expected fault."""
    sys.exit(5)


if __name__ == "__main__":
    what = {one.__name__: one for one in (obedient, stubborn, misconfigured)}[sys.argv[1]]
    sys.exit(Processes(2, what, (), end_within_s=float(sys.argv[2])).run())
