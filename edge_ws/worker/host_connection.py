"""One life of a job host as the daemon knows it: its process, its connection and what waits to be said to it.

Knows nothing of events or of the other hosts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import NoReturn

import anyio
from anyio.abc import ByteStream, SocketAttribute

from edge_ws.ownership import peer_uid
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.worker import host_process
from edge_ws.worker.host_process import HostFiles


class HostConnection:
    """One life of a host, as far as the daemon knows it. Says nothing by itself, and decides nothing."""

    def __init__(self, files: HostFiles, *, child: int | None, wanted: bool, patience_s: float) -> None:
        self.files = files
        self.child = child
        """Its process id if this process has started it: then it must be reaped."""
        self.launched = child is not None
        self.wanted = wanted
        """New jobs shall go there."""
        self.patience_s = patience_s
        """How long its first answer may take."""
        self.ready_since: float | None = None
        self.attended = False
        self.preparing: set[ClaimId] = set()
        self.forgotten: deque[ClaimId] = deque(maxlen=1000)
        """The last claims that it was told to forget: it may die before it reads that."""
        self.ponged = 0
        self.heard = anyio.Event()
        """Set and replaced at each answer."""
        self.unwanted = anyio.Event()
        """It takes no new jobs any more, or is dead."""
        self._pings = 0
        self._unsent: deque[bytes] = deque()
        self._more = anyio.Event()

    @property
    def host(self) -> HostId:
        """Its id."""
        return self.files.host

    @property
    def accepts(self) -> bool:
        """Whether new jobs go there now."""
        return self.wanted and self.ready_since is not None

    def say(self, op: str, **words: object) -> None:
        """Queue a wish; it is sent once the host listens."""
        self._unsent.append(json.dumps({"op": op, **words}).encode() + b"\n")
        self._more.set()

    async def send_all(self, stream: ByteStream) -> NoReturn:
        """Send each wish as it comes."""
        while True:
            while not self._unsent:
                self._more = anyio.Event()
                await self._more.wait()
            # Taken off when it is sent, as this may be cancelled: a host takes any wish twice without harm.
            await stream.send(self._unsent[0])
            self._unsent.popleft()

    async def answers_ping(self, within_s: float) -> bool:
        """Ping the host, and tell whether it answers."""
        self._pings += 1
        number = self._pings
        # Two, not one: after this machine was asleep, the first one's time is over before its answer is read.
        for _ in range(2):
            self.say("ping", n=number)
            if await self.in_time(lambda: self.ponged >= number, within_s / 2):
                return True
        return False

    def answered(self) -> None:
        """Wake whoever waits for an answer."""
        self.heard.set()
        self.heard = anyio.Event()

    def retire(self) -> None:
        """Have it take nothing new and leave when all is done."""
        self.wanted = False
        self.unwanted.set()
        self.say("retire")

    def lives(self) -> bool:
        """Tell whether its process is there."""
        if self.child is not None:
            if not host_process.has_exited(self.child):
                return True
            self.child = None
        return host_process.lock_holder(self.files) is not None

    def kill(self) -> None:
        """SIGKILL its process."""
        pid = self.child or host_process.lock_holder(self.files)
        if pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    async def connect(self) -> ByteStream | None:
        """Connect to the host's socket, however long its path is; None if nobody of this user listens there.

        A socket's address holds 107 bytes; through /proc the directory costs about 20 of them.

        Raises:
            OSError: the fault is not the host's: this process has no descriptor left, for example.
        """
        folder = os.open(self.files.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            stream = await anyio.connect_unix(f"/proc/self/fd/{folder}/{self.files.path('.sock').name}")
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        finally:
            os.close(folder)
        if peer_uid(stream.extra_attributes[SocketAttribute.raw_socket]()) == os.geteuid():
            return stream
        await stream.aclose()
        return None

    async def in_time(self, is_true: Callable[[], bool], within_s: float) -> bool:
        """Wait until an answer of the host makes that true; tell whether one has in time."""
        with anyio.move_on_after(within_s):
            while not is_true():
                await self.heard.wait()
        return is_true()
