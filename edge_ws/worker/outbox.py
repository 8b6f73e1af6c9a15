"""What must outlive the daemon: one small file per claim, kept until the server has acknowledged its end.

And one that names the hosts whose death cost jobs: nobody acknowledges that, so the newest are kept for good.

A file is replaced by rename, so that a crash leaves the old or the new one. The format is PROTOCOL-free JSON,
so that a newer or older daemon can read it. Knows neither the connection nor the job host.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import orjson

from edge_ws.errors import UsageError
from edge_ws.protocol.codec import reader
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.streams import open_to_write
from edge_ws.worker.faults import Faults
from edge_ws.worker.files import make_folder, open_own, read_if_sound, write_durably
from edge_ws.worker.job import Record
from edge_ws.worker.job_names import read

log = logging.getLogger(__name__)

FORMAT = 1
ROOM = 8192
"""Bytes of a record on disk, filled up with spaces: each later one finds its room there."""
_DEAD = "dead-hosts"


@dataclass(frozen=True, slots=True)
class _DeadHosts:
    hosts: tuple[HostId, ...]


_RECORD, _HOSTS = reader(Record), reader(_DeadHosts)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for the centre's word."""

    entries: int
    """Ends of jobs that it has not confirmed."""
    size: int
    """Bytes of all records on disk, with the room that is kept for later ones."""
    oldest_s: float
    """Since the first of these ends; 0: there is none."""


class Outbox:
    """The folder of records. Writing blocks for a disk's flush; one small file at a time."""

    def __init__(self, directory: Path, faults: Faults | None = None) -> None:
        """Make the folder if it is absent.

        Raises:
            UsageError: it cannot be made.
        """
        self._directory = directory
        self._faults = faults or Faults()
        self._sizes: dict[ClaimId, int] = {}
        """Bytes on disk, about."""
        self._waits_since: dict[ClaimId, float] = {}
        """Ends that are not confirmed; seconds since 1970."""
        try:
            make_folder(directory, "the folder of records of jobs", self._faults)
        except OSError as error:
            raise UsageError(
                f"the folder {directory} cannot be made: {error.strerror}; choose another state directory"
            ) from error

    def _path(self, claim: ClaimId) -> Path:
        return self._directory / f"{claim}.json"

    def _spare(self, claim: ClaimId) -> Path:
        return self._directory / f"{claim}.spare"

    def reserve(self, claim: ClaimId) -> bool:
        """Make room on the disk for the claim's reports; False (and a log line) if there is none.

        What is written into it needs no new room: the end of a job can be kept however full the disk is then.
        """
        if self._path(claim).exists() or self._spare(claim).exists():
            return True
        try:
            self._make_spare(claim)
        except OSError as error:
            log.error("no room on disk for the reports of claim %s: %s", claim, error.strerror)  # noqa: TRY400
            return False
        self._sizes[claim] = ROOM
        return True

    def _make_spare(self, claim: ClaimId) -> None:
        path = self._spare(claim)
        try:
            with os.fdopen(open_to_write(path), "wb", buffering=0) as file:
                left = ROOM
                while left:
                    left -= file.write(bytes(left)) or 0
        except OSError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise

    def save(self, record: Record) -> bool:
        """Write the record durably; False (and a log line) if the disk does not take it."""
        body = orjson.dumps({"format": FORMAT, **asdict(record)}).ljust(ROOM)
        path, spare = self._path(record.claim), self._spare(record.claim)
        self._note(record, time.time())
        try:
            _put(path, spare, body)
        except OSError as error:
            # It still goes out from memory; only a restart before that would lose it.
            log.error("cannot keep the report of claim %s on disk: %s", record.claim, error)  # noqa: TRY400
            return False
        self._sizes[record.claim] = len(body) + ROOM
        with suppress(OSError):  # Without one the next report is written over this one.
            self._make_spare(record.claim)
        return True

    def _note(self, record: Record, now: float) -> None:
        if (record.phase is Phase.ENDED or record.not_started is not None) and not record.stale:
            self._waits_since.setdefault(record.claim, now)

    def waiting(self) -> Waiting:
        """Return what waits for the centre."""
        oldest = min(self._waits_since.values(), default=None)
        # The machine's clock may have been set meanwhile.
        oldest_s = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        return Waiting(len(self._waits_since), sum(self._sizes.values()), oldest_s)

    def drop(self, claim: ClaimId) -> None:
        """Forget the claim."""
        self._sizes.pop(claim, None)
        self._waits_since.pop(claim, None)
        try:
            self._path(claim).unlink(missing_ok=True)
            self._spare(claim).unlink(missing_ok=True)
        except OSError as error:
            # It is told again at the next start, and the server says that it knows.
            log.warning("the report of claim %s stays on disk: %s", claim, error.strerror)

    def save_dead(self, hosts: Sequence[HostId]) -> bool:
        """Write durably which hosts are dead; as `save`."""
        return _write(self._directory / _DEAD, orjson.dumps(list(hosts)), "the dead job hosts")

    def load_dead(self) -> list[HostId]:
        """Return the dead hosts, the newest last."""
        path, what = self._directory / _DEAD, "the names of dead job hosts"
        found = read_if_sound(path, what, self._faults, _read_dead)
        return [] if found is None else list(found.hosts)

    def load(self) -> list[Record]:
        """Return all records; what is none is set aside as `.bad`, never deleted."""
        records = []
        for spare in self._directory.glob("*.spare"):
            if not spare.with_suffix(".json").exists():
                with suppress(OSError):
                    spare.unlink()
        for path in sorted(self._directory.glob("*.json")):
            record = read_if_sound(path, "the record of a job", self._faults, partial(_read, path.stem))
            if record is not None:
                records.append(record)
                with suppress(OSError):
                    found = path.stat()
                    self._sizes[record.claim] = found.st_size
                    self._note(record, found.st_mtime)
        return records


def _put(path: Path, spare: Path, body: bytes) -> None:
    with suppress(OSError):  # Without one, or with an odd one, a new file is made.
        _overwrite(spare, body)
        spare.replace(path)
        return
    try:
        write_durably(path, body)
    except OSError:
        if not path.exists() or path.stat().st_size < len(body):
            raise
        # It has room for this one; a crash of the machine in the middle of it would tear it.
        _overwrite(path, body)


def _overwrite(path: Path, body: bytes) -> None:
    with os.fdopen(open_own(path, os.O_RDWR, in_place=True), "r+b") as file:
        file.write(body)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, body: bytes, what: str) -> bool:
    try:
        write_durably(path, body)
    except OSError as error:
        # It still goes out from memory; only a restart before that would lose it.
        log.error("cannot keep %s on disk: %s", what, error)  # noqa: TRY400
        return False
    return True


def _read_dead(body: bytes) -> _DeadHosts:
    return _HOSTS({"hosts": orjson.loads(body)}, "dead")


def _read(claim: str, body: bytes) -> Record:
    """Return the record of that claim.

    Raises:
        RemoteProtocolError, ValueError, TypeError: it is none.
    """
    told = orjson.loads(body)
    record = _RECORD({**told, "subject": None}, "record")
    if record.claim != claim:
        raise ValueError("it is named for another claim")
    # For people: of another shape it is left out.
    return replace(record, subject=read(told.get("subject")))
