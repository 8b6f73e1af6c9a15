"""A child process that is asked by lines of JSON, and the side that asks. Standard library only.

Answers travel by a pipe of their own: anything a child imports may write to standard output. The benchmark's programs run in two virtual environments; this module is imported in both.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPOSITORY = Path(__file__).parents[2]
_ANSWERS = "BENCH_ANSWERS_FD"
"""Names the child's end of that pipe."""


def raise_file_limit() -> None:
    """Allow this process as many open files as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def until(predicate: Callable[[], bool], within_s: float) -> bool:
    """Wait for the condition; return whether it came in time."""
    end = time.monotonic() + within_s
    while not predicate():
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(0.01)
    return True


async def obey(verbs: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
    """Answer the lines of standard input, each `{"verb": ..., arguments}`, until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    descriptor = int(os.environ[_ANSWERS])
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "w") as answers:
        while line := await reader.readline():
            asked = json.loads(line)
            try:
                answer = {"answer": await verbs[asked.pop("verb")](**asked)}
            except Exception as error:  # noqa: BLE001 - told to the side that asked
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class Program:
    """A child that obeys."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        ours, theirs = os.pipe()
        self._answers = os.fdopen(ours)
        with log.open("ab") as output, os.fdopen(theirs, "wb"):
            self._process = subprocess.Popen(
                command,
                env={**environment, _ANSWERS: str(theirs)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(theirs,),
                text=True,
            )
        self._log = log
        self.pid = self._process.pid

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Have the child do something and return its answer."""
        assert self._process.stdin is not None
        # One that has ended has no answer either, and its log says more.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"the program ended: {self._log.read_text(errors='replace')[-2000:]}")
        said = json.loads(line)
        if "error" in said:
            raise RuntimeError(f"{verb}: {said['error']}")
        return said["answer"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
