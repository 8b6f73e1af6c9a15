"""What must outlive the daemon: one small file per claim, kept until the server has acknowledged its end.

And one that names the hosts whose death cost jobs: nobody acknowledges that, so the newest are kept for good.

A file is replaced by rename, so that a crash leaves the old or the new one. The format is PROTOCOL-free JSON,
so that a newer or older daemon can read it. Knows neither the connection nor the job host.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.worker.files import write_durably
from edge_ws.worker.outcomes import Call
from edge_ws.worker.subject import Subject, read

log = logging.getLogger(__name__)

FORMAT = 1
ROOM = 8192
"""Bytes of a record on disk, filled up with spaces: each later one finds its room there."""
_DEAD = "dead-hosts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A claim as the worker must remember it."""

    claim: ClaimId
    slots: int
    phase: Phase
    host: HostId | None
    log_path: str | None
    log_start: int = 0
    """Size of the log file when the claim began: earlier rounds of the task write into the same file."""
    exit_code: int | None = None
    detail: str = ""
    log_uploaded: bool = False
    not_started: str | None = None
    """Why it never ran."""
    fault: str = ""
    """Whose fault that is; see `ids.HOST`."""
    stale: bool = False
    """The server wants to hear no more of it; its process runs on and holds its slots."""
    subject: Subject | None = None
    """For people; an older release writes none."""
    outcome: str = ""
    """The state that Airflow was told, or is to be told, that the task has come to."""
    owed: Call | None = None
    """The request that tells it, if Airflow has not answered it yet."""


class Outbox:
    """The folder of records. Writing blocks for a disk's flush; one small file at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

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
        return True

    def _make_spare(self, claim: ClaimId) -> None:
        path = self._spare(claim)
        try:
            with path.open("wb", buffering=0) as file:
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
        try:
            _put(path, spare, body)
        except OSError as error:
            # It still goes out from memory; only a restart before that would lose it.
            log.error("cannot keep the report of claim %s on disk: %s", record.claim, error)  # noqa: TRY400
            return False
        with suppress(OSError):  # Without one the next report is written over this one.
            self._make_spare(record.claim)
        return True

    def drop(self, claim: ClaimId) -> None:
        """Forget the claim."""
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
        try:
            return [HostId(str(host)) for host in orjson.loads((self._directory / _DEAD).read_bytes())]
        except (OSError, ValueError, TypeError):
            return []

    def load(self) -> list[Record]:
        """Return all records; an unreadable file is put aside as `.bad`, never deleted."""
        records = []
        for spare in self._directory.glob("*.spare"):
            if not spare.with_suffix(".json").exists():
                with suppress(OSError):
                    spare.unlink()
        for path in sorted(self._directory.glob("*.json")):
            record = _read(path)
            if record is None:
                log.error("%s is not a readable record; it is kept as %s.bad", path, path.stem)
                with suppress(OSError):
                    path.replace(path.with_suffix(".bad"))
            else:
                records.append(record)
        return records


def _put(path: Path, spare: Path, body: bytes) -> None:
    if spare.exists():
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
    with path.open("r+b") as file:
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


def _read(path: Path) -> Record | None:
    try:
        body = orjson.loads(path.read_bytes())
        known = {name: body[name] for name in Record.__slots__ if name in body}
        record = Record(
            **{
                **known,
                "phase": Phase(body["phase"]),
                "subject": read(body.get("subject")),
                "owed": Call.read(body.get("owed")),
            }
        )
    except (OSError, LookupError, TypeError, ValueError):
        return None
    return record if _is_sound(record) and record.claim == path.stem else None


def _is_sound(record: Record) -> bool:
    """Tell whether each value is of its kind, and within what may travel."""
    texts = (record.claim, record.detail, record.outcome, record.fault)
    perhaps = (record.host, record.log_path, record.not_started)
    numbers = (record.slots, record.log_start, 0 if record.exit_code is None else record.exit_code)
    return (
        all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in perhaps)
        and all(type(number) is int for number in numbers)
        and 0 <= record.slots < 2**31
        and record.log_start >= 0
        and "\0" not in (record.log_path or "")
    )
