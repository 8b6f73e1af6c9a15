"""Tells systemd that the daemon's loop turns, where the unit has `WatchdogSec`: else it is restarted."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import anyio


class Watchdog:
    """What systemd wants to hear, and where, as its variables say (sd_watchdog_enabled(3), sd_notify(3))."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = ""
        self._every_s = 0.0
        address, every = environment.get("NOTIFY_SOCKET", ""), environment.get("WATCHDOG_USEC", "")
        is_for_us = environment.get("WATCHDOG_PID") in {None, str(os.getpid())}
        if is_for_us and address[:1] in {"/", "@"} and every.isdecimal() and int(every) > 0:
            # An @ stands for the NUL of an abstract name.
            self._address = "\0" + address[1:] if address.startswith("@") else address
            # Half of it, as systemd advises.
            self._every_s = int(every) / 2e6

    async def run(self) -> None:
        """Say so for ever; return if nobody wants to hear it."""
        while self._address:
            self._say()
            await anyio.sleep(self._every_s)

    def _say(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        # Silence is what systemd acts on; a full queue of its socket passes.
        with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as speaker:
            speaker.sendto(b"WATCHDOG=1", self._address)
