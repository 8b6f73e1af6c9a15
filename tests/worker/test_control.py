"""The local socket: requests, garbage, strangers, and what is said where nobody listens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from edge_ws.errors import EdgeWsError, UnreachableError, UsageError
from edge_ws.worker.control import CONNECTIONS, LONGEST, NAME, Condition, ControlServer, ask
from edge_ws.worker.faults import Faults
from tests.support.programs import clean_environment
from tests.support.services import missing
from tests.support.waiting import until, wait_until

pytestmark = pytest.mark.anyio

_HOLD = """
import sys
from pathlib import Path
from edge_ws.worker.state import StateDirectory
held = StateDirectory(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


class Controlled:
    """A daemon that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.disk_is_full = False

    def condition(self) -> Condition:
        return {"worker": "w1", "told": len(self.told)}

    def ask_maintenance(self, *, wanted: bool, comment: str) -> None:
        if self.disk_is_full:
            raise EdgeWsError("the disk is full; nothing has changed")
        self.told.append((wanted, comment))

    def drain(self, why: str) -> None:
        self.told.append(why)

    def stop_now(self, reason: str) -> None:
        self.told.append(reason)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state directory whose path is longer than a socket's address may be."""
    folder = tmp_path / ("x" * 80) / ("y" * 80)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def _held(folder: Path) -> Iterator[None]:
    """Another process has the directory's lock, as a daemon would."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)],
        env=clean_environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()


@asynccontextmanager
async def serving(folder: Path, controlled: Controlled) -> AsyncIterator[None]:
    before = _identity(folder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ControlServer(folder, controlled).run)
        await until(lambda: _identity(folder) not in {None, before})
        yield
        tasks.cancel_scope.cancel()


def _identity(folder: Path) -> tuple[int, int] | None:
    path = folder / NAME
    return (path.stat().st_ino, path.stat().st_ctime_ns) if path.exists() else None


def connect(folder: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(10)
    with _Short(folder) as path:
        one.connect(path)
    return one


class _Short:
    """The socket's address by way of its folder's descriptor."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder, os.O_PATH)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}/{NAME}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def exchange(folder: Path, *lines: bytes) -> list[dict[str, Any]]:
    with connect(folder) as one:
        one.sendall(b"".join(lines))
        one.shutdown(socket.SHUT_WR)
        with one.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


@pytest.mark.usefixtures("_held")
async def test_each_request_does_one_thing_and_is_answered(folder: Path) -> None:
    controlled = Controlled()
    async with serving(folder, controlled):
        assert await to_thread.run_sync(ask, folder, "status") == {"worker": "w1", "told": 0}
        for words in (
            {"do": "maintenance", "on": True, "comment": "new disk"},
            {"do": "maintenance", "on": False},
            {"do": "stop", "now": False},
            {"do": "stop", "now": True},
        ):
            await to_thread.run_sync(lambda words=words: ask(folder, **words))
        assert controlled.told == [(True, "new disk"), (False, ""), "edge-ws stop", "edge-ws stop --now"]


@pytest.mark.usefixtures("_held")
async def test_a_refusal_is_the_daemons_sentence(folder: Path) -> None:
    controlled = Controlled()
    controlled.disk_is_full = True
    async with serving(folder, controlled):
        with pytest.raises(EdgeWsError, match="the disk is full; nothing has changed"):
            await to_thread.run_sync(lambda: ask(folder, "maintenance", on=True, comment="x"))
        with pytest.raises(EdgeWsError, match="does not know 'dance'"):
            await to_thread.run_sync(ask, folder, "dance")


async def test_garbage_harms_nobody(folder: Path) -> None:
    controlled = Controlled()
    async with serving(folder, controlled):
        garbage = [
            b"\n",
            b"{}\n",
            b"[1]\n",
            b'"do"\n',
            b"null\n",
            b"\xff\xfe\n",
            b"[" * 9000 + b"\n",
            b'{"do": []}\n',
        ]
        answers = await to_thread.run_sync(exchange, folder, *garbage, b'{"do": "status"}\n')
        assert all("error" in answer for answer in answers[:-1])
        assert len(answers) == len(garbage) + 1
        assert answers[-1] == {"condition": {"worker": "w1", "told": 0}}
        # Half a request, and none.
        assert await to_thread.run_sync(exchange, folder, b'{"do": "st') == []
        assert await to_thread.run_sync(exchange, folder) == []
        # A line without an end.
        assert await to_thread.run_sync(_flood, folder)
        assert (await to_thread.run_sync(exchange, folder, b'{"do": "status"}\n'))[0]["condition"]
    assert controlled.told == []


def _flood(folder: Path) -> bool:
    """Send without end; return whether the other side has closed the connection."""
    with connect(folder) as one:
        try:
            for _ in range(1000):
                one.sendall(b"x" * LONGEST)
        except OSError:
            return True
    return False


async def test_of_too_many_connections_the_last_are_closed(folder: Path) -> None:
    async with serving(folder, Controlled()):
        silent = [await to_thread.run_sync(connect, folder) for _ in range(CONNECTIONS)]
        assert not await to_thread.run_sync(_answers, folder)
        silent.pop().close()
        await to_thread.run_sync(wait_until, lambda: _answers(folder))
        for one in silent:
            one.close()


def _answers(folder: Path) -> bool:
    try:
        return bool(exchange(folder, b'{"do": "status"}\n'))
    except OSError:
        return False


async def test_what_a_killed_daemon_left_is_replaced(folder: Path) -> None:
    with _Short(folder) as path, socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with serving(folder, Controlled()):
        assert await to_thread.run_sync(_answers, folder)
        assert (folder / NAME).stat().st_mode & 0o777 == 0o600
    assert not (folder / NAME).exists()


async def test_without_a_socket_the_worker_goes_on_and_makes_one_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ControlServer(tmp_path / "absent", Controlled(), faults).run)
        await until(lambda: "it cannot be made: No such file or directory" in caplog.text, 5)
        (tmp_path / "absent").mkdir()
        await until((tmp_path / "absent" / NAME).exists, 20)
        tasks.cancel_scope.cancel()
    assert faults.count >= 1


async def test_a_folder_in_the_sockets_place_is_set_aside(folder: Path) -> None:
    (folder / NAME).mkdir()
    (folder / NAME / "somebody's").touch()
    async with serving(folder, Controlled()):
        assert (folder / "control.bad" / "somebody's").exists()


async def test_a_stranger_is_not_let_in(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("the rights to become another user")
    folder = tmp_path / "state"
    folder.mkdir()
    controlled = Controlled()
    async with serving(folder, controlled):
        # By its mode alone nobody would come so far.
        (folder / NAME).chmod(0o666)
        code = _STRANGER.format(path=f"{NAME}")
        done = await anyio.run_process(
            [sys.executable, "-c", code], cwd=folder, env=clean_environment(tmp_path), check=False
        )
        assert (done.returncode, done.stdout) == (0, b"b''\n"), done.stderr
    assert controlled.told == []


_STRANGER = """
import os, socket
one = socket.socket(socket.AF_UNIX)
# Relative: the folders above are closed to others.
os.setresuid(65534, 65534, 65534)
one.settimeout(10)
try:
    one.connect("{path}")
    one.sendall(b'{{"do": "stop"}}\\n')
    print(one.recv(100))
except (ConnectionResetError, BrokenPipeError):
    print(b"")
"""


# Where nobody listens


def test_no_directory_and_no_daemon(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(UnreachableError, match="no worker runs with the state directory"):
            ask(folder, "status")


@pytest.mark.parametrize("name", ["file", "x" * 300])
def test_what_is_no_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be used: .*; see --state-dir"):
        ask(tmp_path / name, "status")


@pytest.mark.usefixtures("_held")
async def test_an_answer_that_breaks_off_is_none(folder: Path) -> None:
    def die_while_answering() -> None:
        with listener, listener.accept()[0] as one:
            one.recv(LONGEST)
            one.sendall(b'{"condition": {"wor')

    with _Short(folder) as path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(to_thread.run_sync, die_while_answering)
        with pytest.raises(UnreachableError, match="just starting or leaving"):
            await to_thread.run_sync(ask, folder, "status")


@pytest.mark.usefixtures("_held")
@pytest.mark.parametrize("left", [False, True])
def test_a_daemon_that_does_not_listen(folder: Path, left: bool) -> None:
    if left:
        with _Short(folder) as path, socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
    with pytest.raises(UnreachableError, match=r"does not listen in .* just starting or leaving"):
        ask(folder, "status")


@pytest.mark.usefixtures("_held")
def test_a_daemon_that_does_not_answer(folder: Path) -> None:
    with _Short(folder) as path, socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(path)
        stuck.listen(1)
        with pytest.raises(UnreachableError, match=r"has not answered within 0\.1 s"):
            ask(folder, "status", within_s=0.1)
