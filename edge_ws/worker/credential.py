"""The worker's token as it is now, and when there is another one: from a file, the environment or a command.

Knows no connections. A token never appears in a log or in an error's sentence.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import shlex
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from edge_ws.errors import EdgeWsError, RefusedError
from edge_ws.protocol.frames import Refusal, Renewed
from edge_ws.worker.config import MAX_TOKEN_BYTES, WorkerConfig, checked_token, read_token
from edge_ws.worker.settings import TOKEN_VARIABLE

log = logging.getLogger("edge_ws.worker")

COMMAND_WITHIN_S = 30.0
LOOK_S = 1.0
"""Between two looks at the token's file."""
RENEW_AT = (0.5, 0.67)
"""The part of a token's life after which a command is asked for the next one, at random in between: workers
that were started together shall not ask together."""
AGAIN_S = 1.0
LONGEST_AGAIN_S = 60.0
"""After a command that failed, or gave the same token again; doubling."""


class Credential:
    """The token to show, by whoever reads it.

    A command is run only when there is a need: the token that it gave is kept while it is good.
    """

    def __init__(self, read: Callable[[], str], command: Callable[[], Awaitable[str]] | None = None) -> None:
        """Make it; with a `command`, which gives a token, `read` does not count."""
        self._read = read
        self._command = command
        self._kept = ""
        self._due = -math.inf
        """When the command is run again, on the event loop's clock."""
        self._turn = anyio.Lock()
        self._told = ""
        """The fault that was last logged."""

    async def current(self) -> str:
        """Return the token for a new connection.

        Raises:
            RefusedError: (code `token`) it cannot be had now.
            UsageError: no token is configured at all.
        """
        async with self._turn:
            if self._command is None:
                return self._read()
            if not self._kept or anyio.current_time() >= self._due:
                self._kept, self._due = await self._command(), math.inf
            return self._kept

    def good_for(self, expires_in_s: float | None) -> None:
        """Hear from a gateway when the token expires that it was shown; None: never."""
        if expires_in_s is None:
            self._due = math.inf
        else:
            # Jitter needs no secret randomness.
            self._due = anyio.current_time() + expires_in_s * random.uniform(*RENEW_AT)  # noqa: S311

    def refused(self) -> None:
        """Hear that a gateway does not take the token: the command may give a better one."""
        self._kept, self._due = "", -math.inf

    def answered(self, answer: Renewed) -> None:
        """Hear what became of another token that a gateway was shown over the open connection."""
        if answer.refusal is None:
            self.good_for(answer.expires_in_s)
            self._told = ""
            log.info("the new token is in force")
        else:
            self._due = anyio.current_time() + LONGEST_AGAIN_S
            self._tell(f"the gateway refuses it ({answer.refusal})")

    async def another(self, than: str) -> str:
        """Wait until there is another token than that one; return it."""
        again_s = AGAIN_S
        while True:
            await self._wait()
            try:
                token = await self.current()
            except EdgeWsError as error:
                self._tell(str(error))
            else:
                if token != than:
                    return token
            if self._command is not None:
                self._due = max(
                    self._due if math.isfinite(self._due) else 0.0, anyio.current_time() + again_s
                )
                again_s = min(2.0 * again_s, LONGEST_AGAIN_S)

    async def _wait(self) -> None:
        """Wait until a look is worth it."""
        await anyio.sleep(LOOK_S)
        while self._command is not None and anyio.current_time() < self._due:  # noqa: ASYNC110 - it moves
            await anyio.sleep(LOOK_S)

    def _tell(self, fault: str) -> None:
        if fault != self._told:
            log.warning("cannot get a new token, the current one stays in use while it is valid: %s", fault)
        self._told = fault


async def obtain_token(config: WorkerConfig) -> str:
    """Return the token as it is now, whatever that costs.

    Raises:
        RefusedError: (code `token`) as `read_token`; or the command gives none.
        UsageError: no token is configured at all.
    """
    return read_token(config) if config.token_command is None else await run_command(config.token_command)


async def run_command(command: str, within_s: float = COMMAND_WITHIN_S) -> str:
    """Return the token that a command writes to its standard output; no shell is between.

    What it writes elsewhere is thrown away, for that must reach no log; what it leaves running is killed.

    Raises:
        RefusedError: (code `token`) it cannot be run, fails, takes too long, or gives no token.
    """
    words = shlex.split(command)
    origin = f"the token command {words[0]}"
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise RefusedError(Refusal.TOKEN.value, f"{origin} cannot be run: {why}") from error
    assert process.stdout is not None
    output = bytearray()
    try:
        async with asyncio.timeout(within_s):
            while len(output) <= MAX_TOKEN_BYTES and (some := await process.stdout.read(MAX_TOKEN_BYTES)):
                output += some
            if len(output) <= MAX_TOKEN_BYTES:
                await process.wait()
    except TimeoutError:
        raise RefusedError(Refusal.TOKEN.value, f"{origin} takes longer than {within_s:g} s") from None
    finally:
        # All that it has started: its group is its own.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # asyncio takes a process for ended once its output is read to the end: what is left of it is
        # thrown away. A descendant in a session of its own may hold it open for longer.
        with anyio.move_on_after(1.0, shield=True):
            while await process.stdout.read(MAX_TOKEN_BYTES):
                pass
            await process.wait()
    if len(output) <= MAX_TOKEN_BYTES and process.returncode != 0:
        raise RefusedError(Refusal.TOKEN.value, f"{origin} failed with exit code {process.returncode}")
    return checked_token(bytes(output), origin)
