"""The worker's state directory: whose it is, and what it remembers of site, credential and requests."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import re
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import orjson

from edge_ws.errors import EdgeWsError, UsageError
from edge_ws.ownership import make_own_folder
from edge_ws.protocol.codec import reader
from edge_ws.protocol.frames import Asked
from edge_ws.protocol.ids import SiteId, new_id
from edge_ws.worker.faults import Faults
from edge_ws.worker.files import lock_holder, open_lock, read_if_sound, read_sound, write_durably
from edge_ws.worker.wishes import COMMENT_LENGTH, Request

log = logging.getLogger(__name__)

_LOCK = "lock"
_ASKED = "asked"
_ID = re.compile(r"[!-~]{1,36}")
"""What may be an id on the wire."""
_ASKED_READER = reader(Asked)


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
            UsageError: another daemon holds it, other users have a say in it, or it cannot be made or written
                to.
        """
        self.path = path
        self.faults = Faults()
        """What is odd here, and all that goes wrong in this life of the process."""
        try:
            make_own_folder(path, "the state directory")
            self._lock = open_lock(path / _LOCK)
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
            found = read_sound(path, "this site's id; it is a new site now", self.faults, _id)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}; see --state-dir") from error
        if found is not None:
            return found
        try:
            write_durably(path, f"{value}\n".encode("ascii"))
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
            write_durably(self.path / "proven", ("\n".join(sorted(proofs)) + "\n").encode("ascii"))
        except OSError as error:
            log.warning("%s does not take that the token has worked: %s", self.path, error.strerror)

    def _proofs(self) -> set[str]:
        found = read_if_sound(
            self.path / "proven",
            "the list of centres that have taken the token",
            self.faults,
            lambda body: body.decode("ascii", "replace").split(),
        )
        return {one for one in found or () if one.isascii()}

    def request(self) -> Request | None:
        """Return what was last asked for on this host; what is no request is set aside as `.bad`."""
        return read_if_sound(self.path / _ASKED, "what was last asked for on this host", self.faults, _asked)

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


def _id(body: bytes) -> str:
    found = body.decode("ascii", "replace").strip()
    if not _ID.fullmatch(found):
        raise ValueError("no id")
    return found


def _asked(body: bytes) -> Request:
    told = orjson.loads(body)
    asked = _ASKED_READER(told, "asked")
    # An older release writes no such mark.
    return Request(replace(asked, comment=asked.comment[:COMMENT_LENGTH]), settled=bool(told.get("settled")))
