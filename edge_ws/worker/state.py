"""The worker's state directory: whose it is, and what it remembers of site, credential and requests."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import orjson

from edge_ws.errors import EdgeWsError, UsageError
from edge_ws.protocol.frames import Asked
from edge_ws.protocol.ids import SiteId, new_id
from edge_ws.worker.files import lock_holder, write_durably
from edge_ws.worker.wishes import Request

log = logging.getLogger(__name__)

_LOCK = "lock"
_ASKED = "asked"
_ID = re.compile(r"[!-~]{1,36}")
"""What may be an id on the wire."""


def daemon_of(directory: Path) -> int | None:
    """Return the process id of the daemon that holds a state directory; see `files.lock_holder`."""
    return lock_holder(directory / _LOCK)


def held_beside(directory: Path) -> list[Path]:
    """Return the directories beside that one which daemons hold; those of other users cannot be seen."""
    found = []
    with suppress(OSError):
        for one in sorted(directory.parent.iterdir()):
            with suppress(OSError):
                if one != directory and daemon_of(one) is not None:
                    found.append(one)
    return found


class StateDirectory:
    """One state directory, held by one daemon at a time."""

    def __init__(self, path: Path) -> None:
        """Make the directory if it is absent, and lock it for this process.

        Raises:
            UsageError: another daemon holds it, or it cannot be made or written to.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            sentence = f"the state directory {path} cannot be used: {error.strerror}; see --state-dir"
            raise UsageError(sentence) from error
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"another worker runs with the state directory {path}; stop it, or give this one another "
                "--state-dir (and name)"
            ) from error
        self.site = SiteId(self._read_or_make("site", new_id()))

    def _read_or_make(self, name: str, value: str) -> str:
        path = self.path / name
        try:
            found = path.read_bytes().decode("ascii", "replace").strip()
        except FileNotFoundError:
            found = ""
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}; see --state-dir") from error
        if _ID.fullmatch(found):
            return found
        if found:
            log.error("%s holds no id; it is kept as %s.bad, and this is a new site now", path, name)
            with suppress(OSError):
                path.replace(path.with_suffix(".bad"))
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(value + "\n", encoding="ascii")
            temporary.replace(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}; see --state-dir") from error
        return value

    def is_proven(self, url: str) -> bool:
        """Tell whether a credential has worked from here at that URL."""
        return self._proof(url) in self._proofs()

    def prove(self, url: str) -> None:
        """Note that the credential has worked at that URL."""
        proofs = self._proofs() | {self._proof(url)}
        try:
            (self.path / "proven").write_text("\n".join(sorted(proofs)) + "\n", encoding="ascii")
        except OSError as error:
            log.warning("%s does not take that the token has worked: %s", self.path, error.strerror)

    def _proofs(self) -> set[str]:
        try:
            found = (self.path / "proven").read_bytes().decode("ascii", "replace").split()
        except OSError:
            return set()
        return {one for one in found if one.isascii()}

    def request(self) -> Request | None:
        """Return what was last asked for on this host; a file that cannot be read is kept as `.bad`."""
        path = self.path / _ASKED
        try:
            told = orjson.loads(path.read_bytes())
            asked = Asked(
                number=min(max(0, int(told["number"])), 2**31 - 1),
                maintenance=bool(told["maintenance"]),
                comment=str(told["comment"]),
            )
            # An older release writes no such mark.
            return Request(asked, settled=bool(told.get("settled")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, OverflowError):
            log.error("%s cannot be read; it is kept as asked.bad", path)  # noqa: TRY400 - no traceback
            with suppress(OSError):
                path.replace(path.with_suffix(".bad"))
            return None

    def keep_request(self, request: Request) -> None:
        """Keep it across restarts.

        Raises:
            EdgeWsError: the disk does not take it.
        """
        try:
            write_durably(
                self.path / _ASKED, orjson.dumps({**asdict(request.asked), "settled": request.settled})
            )
        except OSError as error:
            raise EdgeWsError(
                f"{self.path} does not take what was asked for ({error.strerror}); nothing has changed"
            ) from error

    @staticmethod
    def _proof(url: str) -> str:
        return hashlib.sha256(url.encode()).hexdigest()
