"""Calls the site's own function of facts, in a process of its own: each line that comes in asks once.

It imports whatever the site's function imports, and may hang or crash: the daemon does not. Ends with its
standard input.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime

FACTS = 50
NAME_LENGTH = 64
TEXT_LENGTH = 200


def plain(told: object) -> dict[str, str | int | float]:
    """Return what the function has given as flat facts; what cannot be one is left out.

    Raises:
        TypeError: it is no mapping.
    """
    if not isinstance(told, Mapping):
        raise TypeError(f"it must return a dict, and has returned a {type(told).__name__}")
    found: dict[str, str | int | float] = {}
    for name, value in told.items():
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= NAME_LENGTH:
            continue
        fact = _fact(value)
        if fact is not None and len(found) < FACTS:
            found[name] = fact
    return found


def _fact(value: object) -> str | int | float | None:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if abs(value) < 2**53 else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return value[:TEXT_LENGTH] if isinstance(value, str) else None


def load(path: str) -> Callable[[], object]:
    """Return the function at a dotted path.

    Raises:
        Exception: whatever its import raises.
    """
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError("it is no function")
    made: Callable[[], object] = found
    return made


def call(function: Callable[[], object]) -> object:
    """Return what the function gives, be it a coroutine's."""
    told = function()
    if not inspect.isawaitable(told):
        return told

    import asyncio  # noqa: PLC0415 - a plain function does not pay for it

    async def wait() -> object:
        return await told

    return asyncio.run(wait())


def main(path: str) -> None:
    """Answer each line of standard input with one line of JSON: `facts`, or the `error`."""
    # What the function prints is not to be taken for an answer: it goes to the daemon's log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    function: Callable[[], object] | None = None
    for _ in sys.stdin:
        answer: dict[str, object]
        try:
            function = function or load(path)
            answer = {"facts": plain(call(function))}
        except Exception as error:  # noqa: BLE001 - the site's own code may raise anything
            answer = {"error": f"{type(error).__name__}: {error}"[:TEXT_LENGTH]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
