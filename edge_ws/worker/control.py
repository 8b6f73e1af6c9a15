"""The daemon's local socket, both ends: one JSON request a line, one JSON answer a line.

Whoever runs the daemon, and root, may speak. Garbage closes the connection it came by, no more.
Knows no jobs and no gateway: what a request means is the daemon's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import orjson

from edge_ws.errors import EdgeWsError, Unreachable, UnreachableError, UsageError
from edge_ws.ownership import is_trusted, peer_uid, user_name
from edge_ws.worker.faults import Faults
from edge_ws.worker.files import set_aside
from edge_ws.worker.state import daemon_of
from edge_ws.worker.wishes import COMMENT_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("edge_ws.worker")

NAME = "control.sock"
"""In the state directory."""
LONGEST = 64 * 1024
"""Bytes of a request."""
IDLE_S = 30.0
"""For the next request to come, or an answer to be read."""
CONNECTIONS = 16
"""Open at once; further ones are closed."""
ANSWER_S = 10.0
"""How long the client waits for the daemon."""
_PAUSE_S = 1.0
_AGAIN_S = 5.0
LONGEST_ANSWER = 64 * 1024 * 1024
"""Bytes; more than any worker can mean."""

Condition = dict[str, Any]
"""How the worker is, as `condition.describe` has it."""


class Controlled(Protocol):
    """What requests do."""

    def condition(self) -> Condition:
        """Return how the worker is."""
        ...

    def ask_maintenance(self, *, wanted: bool, comment: str) -> None:
        """Begin or end maintenance.

        Raises:
            EdgeWsError: it cannot be kept on disk; nothing has changed.
        """
        ...

    def drain(self, why: str) -> None:
        """Take nothing new, and leave when all is done and reported."""
        ...

    def stop_now(self, reason: str) -> None:
        """Likewise, and stop what runs now."""
        ...


@contextmanager
def _address(directory: Path) -> Iterator[str]:
    """Yield the socket's address, however long its path is.

    An address holds 107 bytes; through /proc the directory costs about 20 of them.
    """
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{NAME}"
    finally:
        os.close(folder)


# The daemon's end


class ControlServer:
    """Listens in a state directory that this process holds the lock of."""

    def __init__(self, directory: Path, controlled: Controlled, faults: Faults | None = None) -> None:
        self._directory = directory
        self._controlled = controlled
        self._faults = faults or Faults()
        self._open = 0

    async def run(self) -> None:
        """Serve until cancelled. While no socket can be made, the worker does without."""
        while (listener := self._try_to_listen()) is None:  # noqa: ASYNC110 - nothing tells when it can be made
            await anyio.sleep(_AGAIN_S)
        try:
            await self._accept(listener)
        finally:
            listener.close()
            with suppress(OSError):  # a read-only disk keeps it; nobody listens there
                (self._directory / NAME).unlink(missing_ok=True)

    def _try_to_listen(self) -> socket.socket | None:
        try:
            return self._listen()
        except OSError as error:
            why = error.strerror or str(error)
            advice = "`edge-ws status`, `maintenance` and `stop` do not work here until that is mended"
            self._faults.odd("the local socket", self._directory / NAME, f"it cannot be made: {why}", advice)
            return None

    def _listen(self) -> socket.socket:
        # A daemon that was killed has left it; as this one holds the lock, nobody listens there.
        path = self._directory / NAME
        if path.is_dir() and not path.is_symlink():
            self._faults.odd("the local socket's name", path, "a folder is there", set_aside(path))
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with _address(self._directory) as address:
                listener.bind(address)
            # Nobody can connect before it listens, so nobody is let in by the mode that it was made with.
            (self._directory / NAME).chmod(0o600)
            listener.listen(CONNECTIONS)
        except OSError:
            listener.close()
            raise
        return listener

    async def _accept(self, listener: socket.socket) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(listener)
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    # No descriptor is left, perhaps: whoever waits is let in later.
                    log.warning("the local control socket accepts no connections: %s", error.strerror)
                    await anyio.sleep(_PAUSE_S)
                    continue
                if self._open >= CONNECTIONS or not is_trusted(peer_uid(connection)):
                    connection.close()
                    continue
                self._open += 1
                tasks.start_soon(self._converse, connection)

    async def _converse(self, connection: socket.socket) -> None:
        try:
            with (
                self._faults.contained("a connection to the local socket"),
                connection,
                suppress(OSError, TimeoutError),
            ):
                connection.setblocking(False)
                await self._answer_all(connection)
        finally:
            self._open -= 1

    async def _answer_all(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        unread = b""
        while len(unread) <= LONGEST:
            with anyio.fail_after(IDLE_S):
                data = await loop.sock_recv(connection, LONGEST)
            if not data:
                return
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                with anyio.fail_after(IDLE_S):
                    await loop.sock_sendall(connection, orjson.dumps(self._answer(line)) + b"\n")

    def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = _read_request(line)
        except (ValueError, LookupError, TypeError):
            return {"error": "the worker does not understand the request; is it of another release?"}
        try:
            self._do(request)
            return {"condition": self._controlled.condition()}
        except EdgeWsError as error:
            return {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - it costs this request
            self._faults.note("a request to the local socket", error)
            return {
                "error": f"a fault of the worker's own code, see its log: {type(error).__name__}: {error}"
            }

    def _do(self, request: _Request) -> None:
        match request.do:
            case "status":
                return
            case "maintenance":
                self._controlled.ask_maintenance(wanted=request.on, comment=request.comment)
            case "stop" if request.now:
                self._controlled.stop_now("edge-ws stop --now")
            case "stop":
                self._controlled.drain("edge-ws stop")
            case other:
                raise UsageError(f"the worker, of another release perhaps, does not know {other!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    do: str
    on: bool
    comment: str
    now: bool


def _read_request(line: bytes) -> _Request:
    """Return a request.

    Raises:
        ValueError: it is none; as are LookupError and TypeError.
    """
    told = orjson.loads(line)
    request = _Request(
        do=told["do"],
        on=told["on"] if told["do"] == "maintenance" else False,
        comment="" if told.get("comment") is None else told["comment"],
        now=bool(told.get("now")),
    )
    kinds = (request.do, str), (request.on, bool), (request.comment, str)
    # The centre keeps no longer comment, and a worker that says one would be refused there.
    if not all(isinstance(value, kind) for value, kind in kinds) or len(request.comment) > COMMENT_LENGTH:
        raise ValueError(line)
    return request


# The other end


def ask(directory: Path, do: str, *, within_s: float = ANSWER_S, **words: object) -> Condition:
    """Have the daemon of that state directory do something; return how it is then. Blocks.

    Raises:
        UnreachableError: no daemon runs there, or it does not answer.
        UsageError: it is no directory.
        EdgeWsError: it has refused, or somebody else listens in its place.
    """
    try:
        pid = daemon_of(directory)
    except FileNotFoundError:
        pid = None
    except PermissionError as error:
        raise _not_permitted(directory) from error
    except OSError as error:
        raise UsageError(
            f"the state directory {directory} cannot be used: {error.strerror}; see --state-dir"
        ) from error
    if pid is None:
        raise UnreachableError(
            f"no worker runs with the state directory {directory}; if one runs here with another, give that"
        )
    request = orjson.dumps({"do": do, **words}) + b"\n"
    try:
        with _address(directory) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(within_s)
            connection.connect(address)
            if peer_uid(connection) != directory.stat().st_uid:
                raise EdgeWsError(
                    f"{user_name(peer_uid(connection))} listens in {directory}, and not its owner; nothing "
                    f"was asked: remove {directory / NAME} and restart the worker"
                )
            connection.sendall(request)
            with connection.makefile("rb") as lines:
                line = lines.readline(LONGEST_ANSWER)
    except PermissionError as error:
        raise _not_permitted(directory) from error
    except TimeoutError as error:
        raise UnreachableError(
            f"the worker (process {pid}) has not answered within {within_s:g} s", kind=Unreachable.TIMED_OUT
        ) from error
    except OSError:
        line = b""
    if not line.endswith(b"\n"):
        # It has the lock and no socket: it is at one of its ends, or knows none.
        raise UnreachableError(
            f"the worker (process {pid}) does not listen in {directory}: it is just starting or leaving, or "
            "it is of a release without local control"
        )
    return _read(line)


def _read(line: bytes) -> Condition:
    try:
        answer = orjson.loads(line)
        if "error" in answer:
            raise EdgeWsError(str(answer["error"]))
        condition: Condition = answer["condition"]
    except (ValueError, LookupError, TypeError) as error:
        raise EdgeWsError("the worker's answer is not understood; is it of another release?") from error
    return condition


def _not_permitted(directory: Path) -> EdgeWsError:
    return EdgeWsError(f"{directory} is another user's: ask as the one who runs the worker, or as root")
