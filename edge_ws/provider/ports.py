"""What the gateway asks of the centre, answered by Airflow: `server.ports`, implemented.

Knows Airflow's database, tokens, users and log folder through `compat`; nothing of claims or connections.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_ws.errors import EdgeWsError
from edge_ws.provider import compat
from edge_ws.provider.shared_log import SharedLog
from edge_ws.server.ports import ARCHIVED, RESTARTING, User
from edge_ws.store.database import Database

log = logging.getLogger(__name__)


class AirflowUsers:
    """Users as Airflow's auth manager, whichever it is, knows them."""

    def user(self, token: str) -> User:
        """Return the user of that token.

        Raises:
            RefusedError: the token is not valid.
            UnreachableError: the database is away.
            EdgeWsError: the auth manager failed.
        """
        try:
            found = compat.airflow_user(token)
            return User(
                name=str(found.get_name()),
                may_read=compat.may_see_jobs(found),
                may_manage=compat.may_edit_pools(found),
                read_right="Airflow's right to see jobs, which the roles Viewer, User, Op and Admin have",
                manage_right="Airflow's right to edit pools, which the roles Op and Admin have",
                expires_at=compat.token_expiry(token),
            )
        except EdgeWsError:
            raise
        except Exception as error:
            # A third party's code and its network, whatever that raises: not to be told to strangers.
            log.exception("Airflow's auth manager failed")
            raise EdgeWsError("Airflow's auth manager failed; the gateway's log says more") from error


class AirflowTaskStates:
    """Task instances' states, from Airflow's own table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def states(self, subjects: Collection[str]) -> dict[str, str | None]:
        """Return task instance id -> state of the ids that Airflow knows; two queries at the most."""
        if not subjects:
            return {}
        with self._database.read() as connection:
            states = compat.task_states(connection, subjects)
            # Asked after the states: an attempt that is put aside in between is found here.
            past = compat.past_attempts(connection, set(subjects) - states.keys())
        return {**states, **{one: RESTARTING if cleared else ARCHIVED for one, cleared in past.items()}}


class AirflowTaskTokens:
    """Tokens as Airflow makes them, but of a life that fits one start, or one report."""

    @cached_property
    def _signer(self) -> compat.TokenSigner:
        return compat.TokenSigner(compat.token_generator())

    def mint(self, subject: str, *, is_callback: bool, valid_s: float) -> str:
        """Return a token for that task instance (or callback), valid for `valid_s` seconds from now."""
        return self._signer.sign(subject, compat.token_scope(is_callback=is_callback), valid_s)

    def mint_for_outcome(self, subject: str, *, valid_s: float) -> str:
        """Return a token with which that task instance's outcome can be told."""
        return self._signer.sign(subject, compat.RUNNING_SCOPE, valid_s)


class AirflowFinishedLogs:
    """The folder in which Airflow's UI looks for task logs, and the remote store behind it."""

    def __init__(self, remote_store: Callable[[], Any | None] = compat.remote_log_store) -> None:
        self._remote_store = remote_store

    def size(self, log_path: str) -> int:
        """Return the bytes that the file has now, 0 if it is absent."""
        path = self._inside(log_path)
        try:
            found = path.stat()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise EdgeWsError(f"the task log {path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode):
            raise EdgeWsError(f"the task log {path} is no file; move it away")
        return found.st_size

    def write(self, log_path: str, base: int, chunks: Iterable[bytes]) -> None:
        """Cut the file to its first `base` bytes, then append; repeating the call changes nothing more.

        What is in the file already is neither cut nor written again: where the worker has this folder, too,
        its task's supervisor has written the log itself, and the next round's may be at it.
        """
        path = self._inside(log_path)
        there = self.size(log_path)
        try:
            compat.make_log_file(log_path)
            # For appending: a supervisor may append to it at the same time.
            with path.open("a+b", buffering=0) as file:
                shared = SharedLog(file.fileno(), base, chunks)
                if not shared.is_there:
                    # A file that somebody shortened or removed meanwhile is not filled up with zeros.
                    file.truncate(min(base, there))
                for chunk in shared.missing():
                    _write_all(file.fileno(), chunk)
        except OSError as error:
            raise EdgeWsError(
                f"the task log {path} cannot be written: {error.strerror}; its bytes wait in the database"
            ) from error

    def copied(self, log_path: str, claim: str) -> int:
        """Return the bytes that the running claim's copy has here, 0 if there is none."""
        return self.size(_copy_of(log_path, claim))

    def copy(self, log_path: str, claim: str, begin: int, data: bytes) -> None:
        """Write those bytes of the claim's log into its copy; repeating the call changes nothing more."""
        name = _copy_of(log_path, claim)
        path = self._inside(name)
        try:
            compat.make_log_file(name)
            # Another gateway may write the same bytes to the same place at this moment.
            with path.open("r+b", buffering=0) as file:
                file.seek(begin)
                _write_all(file.fileno(), data)
        except OSError as error:
            raise EdgeWsError(f"the running task's log {path} cannot be written: {error.strerror}") from error

    def drop_copy(self, log_path: str, claim: str) -> None:
        """Remove the claim's copy, if there is one."""
        path = self._inside(_copy_of(log_path, claim))
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                # Then there can be none, and the log itself must not wait for it.
                return
            raise EdgeWsError(f"the file {path} cannot be removed: {error.strerror}") from error

    def upload(self, log_path: str, command: str) -> None:
        """Send the file to the remote store, if one is configured; a failure is logged, never raised."""
        try:
            self._inside(log_path)
            store = self._remote_store()
            if store is not None:
                store.upload(log_path, compat.task_instance_of(command))
        except Exception:
            # Third parties' code, and their network: whatever it is, the log is in the folder.
            log.exception("The task log %s was not sent to the remote store", log_path)

    @staticmethod
    def _inside(log_path: str) -> Path:
        """Return the file's real path; the given one comes from a workload, and may be anything."""
        folder = compat.log_folder().resolve()
        try:
            path = (folder / log_path).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise EdgeWsError(f"the log path {log_path[:300]!r} is none: {error}") from error
        if path == folder or not path.is_relative_to(folder):
            raise EdgeWsError(
                f"the log path {log_path[:300]!r} leaves the log folder {folder}; it is not written"
            )
        return path


def _copy_of(log_path: str, claim: str) -> str:
    # Airflow shows all files whose names begin with the log's own.
    return f"{log_path}.edge-ws-{claim}"


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
