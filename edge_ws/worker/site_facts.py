"""The site's own facts: what a function of the site says, asked for in a process beside the daemon.

A function that raises, hangs or crashes costs its facts and one line of the log, no more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress

import anyio
import orjson

from edge_ws.protocol.ids import SITE_FACTS
from edge_ws.texts import WORDS, words
from edge_ws.worker.faults import Faults
from edge_ws.worker.site_facts_process import TEXT_LENGTH, plain

ASK_EVERY_S = 30.0
WITHIN_S = 10.0
"""The function's time; then its process is killed."""
AGAIN_S = 60.0
"""After it failed."""
_LONGEST_ANSWER = 64 * 1024
_SEVERITIES = frozenset({10, 20, 30, 40, 50})
STATUS = "status"
"""The one fact of the worker's own that the function may set, as with edge3: a logging level."""


class SiteFacts:
    """What the function last said."""

    def __init__(
        self,
        path: str | None,
        environment: Mapping[str, str],
        faults: Faults,
        *,
        within_s: float = WITHIN_S,
        again_s: float = AGAIN_S,
    ) -> None:
        """`path`: the function's, dotted; None: there is none. `again_s`: the pause after a failure."""
        self._path = path
        self._environment = dict(environment)
        self._faults = faults
        self._within_s = within_s
        self._again_s = again_s
        self.known: dict[str, str | int | float] = {}

    async def run(self) -> None:
        """Ask for ever; return if there is nothing to ask."""
        while self._path is not None:
            error = await self._ask_until_it_fails(self._path)
            # What it said before is old by now.
            self.known = {}
            advice = f"the worker runs on without these facts and asks again every {self._again_s:.0f} s"
            self._faults.odd("the site's own facts", self._path, error, advice)
            await anyio.sleep(self._again_s)

    async def _ask_until_it_fails(self, path: str) -> str:
        """Return why it failed."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "edge_ws.worker.site_facts_process",
                path,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
                limit=_LONGEST_ANSWER,
                start_new_session=True,
            )
        except OSError as error:
            return f"{sys.executable} cannot be started: {error.strerror}"
        try:
            return await self._ask(process)
        finally:
            if process.returncode is None:
                # With whatever it has started: it has a session of its own.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.wait()

    async def _ask(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        while True:
            try:
                process.stdin.write(b"\n")
                async with asyncio.timeout(self._within_s):
                    line = await process.stdout.readline()
            except TimeoutError:
                return f"it has not answered within {self._within_s:g} s"
            except (OSError, ValueError) as error:  # ValueError: a line without an end
                return f"its process does not answer as it should: {error}"
            if not line:
                return "its process has ended"
            if wrong := self._take(line):
                return wrong
            await anyio.sleep(ASK_EVERY_S)

    def _take(self, line: bytes) -> str:
        """Take an answer; return what is wrong with it, empty if nothing is."""
        try:
            answer = orjson.loads(line)
            if "error" in answer:
                return words(str(answer["error"]), TEXT_LENGTH)
            self.known = plain(answer["facts"])
        except (ValueError, LookupError, TypeError) as error:
            return f"its process does not answer as it should: {error}"
        return ""

    def beside(self, own: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
        """Return the site's facts and their names, to go beside the worker's own: they cannot hide those."""
        found = {name: self.known[name] for name in self.shown(own)}
        if not found:
            return self._status()
        return {**found, SITE_FACTS: _joined(found), **self._status()}

    def shown(self, own: Iterable[str]) -> list[str]:
        """Return the names of the facts that are told beside the worker's own."""
        taken = {*own, SITE_FACTS}
        return [name for name in self.known if name not in taken]

    def _status(self) -> dict[str, str | int | float]:
        status = self.known.get(STATUS)
        return {STATUS: status} if status in _SEVERITIES else {}


def _joined(names: Iterable[str]) -> str:
    """Return as many of the names as one fact holds."""
    told = ""
    for name in names:
        longer = f"{told}, {name}" if told else name
        if len(longer) > WORDS:
            break
        told = longer
    return told
