"""What process 1 of a container owes to all others: their end is noticed, and signals reach the program.

The program itself runs in a child: whoever reaps all that ends would take the exit codes of its own children
from it. Must be called before any thread is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

_TOLD = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
        signal.SIGCONT,
    }
)


def stand_aside() -> None:
    """Return in a child if this is process 1, which then lives as long as that and ends with its code."""
    if os.getpid() != 1:
        return
    watched = {*_TOLD, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    child = os.fork()
    if child:
        _attend(child, watched)
    # In a group of its own it gets a terminal's Ctrl-C once: from process 1.
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _attend(child: int, watched: set[signal.Signals]) -> NoReturn:
    while True:
        number = signal.sigwait(watched)
        if number != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    os._exit(code if code >= 0 else 128 - code)
