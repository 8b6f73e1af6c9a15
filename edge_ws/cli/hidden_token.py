"""The token out of sight: of the variable that holds it nothing is left that others can read of the daemon.

What a process was started with stays in `/proc/PID/environ` for its life, whatever becomes of its variables;
only another program has another environment. So the daemon executes itself again, and gets the token by a
file without a name. Must be called before any thread is there.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import NoReturn

from edge_ws.cli.operator_verbs import TOKEN_VARIABLE as OPERATORS_TOKEN
from edge_ws.errors import EdgeWsError
from edge_ws.worker.settings import TOKEN_VARIABLE

_DESCRIPTOR = "EDGE_WS_SECRET_DESCRIPTOR"
"""The variable that names the file to the program that is executed."""
_PR_SET_DUMPABLE = 4


def take(environ: MutableMapping[str, str]) -> str | None:
    """Return the token that this program was handed by `execute_again`, None if it was not."""
    number = environ.pop(_DESCRIPTOR, None)
    if number is None:
        return None
    with suppress(OSError, ValueError), os.fdopen(int(number), "rb") as file:
        return os.fsdecode(file.read()) or None
    return None


def is_in(environ: MutableMapping[str, str]) -> bool:
    """Tell whether a secret of ours is there to be seen."""
    return bool(environ.keys() & {TOKEN_VARIABLE, OPERATORS_TOKEN})


def execute_again(environ: MutableMapping[str, str]) -> NoReturn:
    """Become this very program again, as the same process, without the secrets; `take` returns it there.

    Raises:
        EdgeWsError: there is no such program any more.
    """
    secret = environ.get(TOKEN_VARIABLE, "")
    seen = {name: value for name, value in environ.items() if name not in {TOKEN_VARIABLE, OPERATORS_TOKEN}}
    try:
        file = os.memfd_create("edge-ws", 0)
        os.write(file, os.fsencode(secret))
        os.lseek(file, 0, os.SEEK_SET)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, sys.orig_argv, {**seen, _DESCRIPTOR: str(file)})  # noqa: S606 - ourselves
    except OSError as error:
        raise EdgeWsError(
            f"{sys.executable} cannot be executed again without {TOKEN_VARIABLE}: {error.strerror}; give the "
            "token by --token-file"
        ) from error


def close_memory() -> None:
    """Let no other process of this user read this one's memory, nor that of its forks: the token is in it."""
    with suppress(OSError, AttributeError):  # Another kernel.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
