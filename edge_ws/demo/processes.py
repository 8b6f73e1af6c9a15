"""The demo's processes: starts each in a session of its own, notices when one fails, stops them in order.

Knows no Airflow: a part is a name and a command line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from edge_ws.demo.guard import Guard
from edge_ws.errors import EdgeWsError

LOOK_EVERY_S = 0.05
FINISH_WITHIN_S = 15.0
"""For the worker to finish what runs there, report it and leave."""
LEAVE_WITHIN_S = 3.0
"""For the others to end by themselves; an api-server spends seconds on freeing its memory."""
TAIL_LINES = 15
_LONGEST_LINE = 300
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns signals into a flag: an exception out of the blue could lose a process that was just started."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._old = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: object) -> None:
        self._numbers.append(number)

    @property
    def count(self) -> int:
        """How many signals have come."""
        return len(self._numbers)

    def check(self) -> None:
        """Raise what the first signal asks for."""
        if self._numbers:
            first = self._numbers[0]
            raise KeyboardInterrupt if first == signal.SIGINT else SystemExit(128 + first)


@dataclass(frozen=True, slots=True)
class Part:
    """One process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    lasting: bool
    """It is not to end before it is told to."""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None


class Parts:
    """All processes of one demo; at the end of the block none is left."""

    def __init__(self, *, cwd: Path, logs: Path, hosts: Path, environment: Mapping[str, str]) -> None:
        """Make it.

        Args:
            cwd: the parts' working directory.
            logs: folder for their output, one file a part.
            hosts: where the worker's job hosts keep their files.
            environment: for the guard.
        """
        self._cwd = cwd
        self._logs = logs
        self._parts: list[Part] = []
        self._stack = ExitStack()
        self.interrupts = self._stack.enter_context(Interrupts())
        self._guard = self._stack.enter_context(Guard(hosts, environment))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._stop()
        for part in self._parts:
            part.process.wait()

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        lasting: bool = True,
        output: Path | None = None,
    ) -> Part:
        """Start a part; `output` takes its standard output, else the log does."""
        log = self._logs / f"{name}.log"
        with ExitStack() as files:
            err = files.enter_context(log.open("ab"))
            out = err
            if output is not None:
                descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                out = files.enter_context(os.fdopen(descriptor, "wb"))
            process = subprocess.Popen(
                list(command),
                env=dict(environment),
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                # A Ctrl-C at the terminal is for the demo alone: it stops the parts, in their order.
                start_new_session=True,
            )
        part = Part(name, process, log, lasting)
        self._parts.append(part)
        self._guard.watch(process.pid)
        return part

    # Waiting

    def check(self) -> None:
        """Look whether all is well.

        Raises:
            EdgeWsError: a part has failed.
            KeyboardInterrupt, SystemExit: a signal has come.
        """
        self.interrupts.check()
        for part in self._parts:
            code = part.process.poll()
            if code is not None and (part.lasting or code != 0):
                ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                self.fail(part.name, ended, part.log)

    def wait(
        self,
        part: Part,
        done: str,
        is_true: Callable[[], bool],
        within_s: float,
        *,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        """Wait until the part has done something (a participle, for the error); raises as `check`."""
        end = time.monotonic() + within_s
        while not is_true():
            self.check()
            if time.monotonic() > end:
                self.fail(part.name, f"had not {done} after {within_s:g} s", part.log)
            time.sleep(every_s)

    def finish(self, part: Part, within_s: float) -> None:
        """Wait for a part that ends by itself; raises as `check`."""
        self.wait(part, "ended", lambda: part.ended, within_s)
        self.check()

    def fail(self, name: str, reason: str, log: Path) -> NoReturn:
        """Show the end of the log and say what failed.

        Raises:
            EdgeWsError: always.
        """
        lines = tail(log)
        if lines:
            print(f"\nThe end of {log}:", *(f"  | {line}" for line in lines), sep="\n", file=sys.stderr)
        raise EdgeWsError(f"the demo's {name} failed: it {reason}; all logs are in {self._logs}")

    # The end

    def _stop(self) -> None:
        """Stop the worker first: it still has something to tell the others."""
        before = self.interrupts.count
        lasting = [part for part in self._parts if part.lasting]
        worker = [part for part in lasting if part.name == "worker"]
        for group, within_s in ((worker, FINISH_WITHIN_S), (lasting, LEAVE_WITHIN_S)):
            running = [part for part in group if not part.ended]
            for part in running:
                part.process.terminate()
            end = time.monotonic() + within_s
            while any(not part.ended for part in running) and time.monotonic() < end:
                if self.interrupts.count > before:
                    return  # The guard kills the rest.
                time.sleep(LOOK_EVERY_S)


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log that say something."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # An api-server notes each request, ours for its health among them.
    told = [line for line in text.rstrip().splitlines() if "[http.access]" not in line]
    return [_readable(line)[:_LONGEST_LINE] for line in told[-lines:]]


def _readable(line: str) -> str:
    """Return a line of a task's log, which is JSON, in words; any other line as it is."""
    try:
        told = json.loads(line)
        raised = [f"{one['exc_type']}: {one['exc_value']}" for one in told.get("error_detail", ())]
        return " ".join((told["timestamp"], told["level"], told["event"], *raised))
    except (ValueError, LookupError, TypeError, AttributeError):
        return line
