"""What other users of the machine have prepared for a worker: links, folders, sockets and files of theirs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from edge_ws.errors import EdgeWsError, UsageError
from edge_ws.ownership import why_unsafe
from edge_ws.processes import boot_id
from edge_ws.protocol.ids import ClaimId, HostId, new_id
from edge_ws.protocol.states import Phase
from edge_ws.worker.config import Machine, resolve
from edge_ws.worker.control import NAME, ask
from edge_ws.worker.faults import Faults
from edge_ws.worker.files import write_durably
from edge_ws.worker.host_connection import HostConnection
from edge_ws.worker.host_process import HostFiles, lock_holder, read_journal
from edge_ws.worker.job import Record
from edge_ws.worker.logs import Logs
from edge_ws.worker.outbox import Outbox
from edge_ws.worker.state import StateDirectory
from tests.support.programs import clean_environment, run_edge_ws, run_python
from tests.support.services import missing
from tests.support.small_disk import small_disk
from tests.support.waiting import until

MALLORY = 65534
SECRET = "the victim's"


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        missing("the rights to become another user")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim"
    file.write_text(SECRET)
    return file


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder such as /tmp."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def of_mallory(path: Path) -> Path:
    os.chown(path, MALLORY, MALLORY, follow_symlinks=False)
    return path


def mallorys_folder(path: Path) -> Path:
    path.mkdir()
    return of_mallory(path)


def mallorys_link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return of_mallory(path)


# The state directory


def test_root_writes_through_no_link_that_another_user_has_laid_out(
    shared: Path, victim: Path, tmp_path: Path
) -> None:
    state = mallorys_folder(shared / "edge-ws")
    for name in ("lock", "site", "site.tmp", "asked.tmp", "proven.tmp", "sizes.tmp"):
        mallorys_link(state / name, victim)
    mallorys_link(state / "outbox", tmp_path / "taken")
    words = ("worker", "--url", "http://127.0.0.1:9", "-H", "w", "--state-dir", str(state))
    done = run_edge_ws(*words, environment=clean_environment(tmp_path, EDGE_WS_TOKEN="t"))
    assert done.returncode == UsageError.exit_code
    assert f"the state directory {state} is not safe from other users" in done.stderr
    assert "Traceback" not in done.stderr
    assert victim.read_text() == SECRET
    assert not (tmp_path / "taken").exists()


def test_nothing_is_made_behind_another_users_link(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    mallorys_link(shared / "link", tmp_path / "etc")
    with pytest.raises(UsageError, match="is a symbolic link of user"):
        StateDirectory(shared / "link" / "edge-ws" / "w")
    assert list((tmp_path / "etc").iterdir()) == []


def _own(path: Path, mode: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path


UNSAFE: dict[str, Callable[[Path], object]] = {
    "another's": lambda one: mallorys_folder(one / "s"),
    "open-to-a-group": lambda one: _own(one / "s", 0o770),
    "open-to-all": lambda one: _own(one / "s", 0o1777),
    "in-another's": lambda one: of_mallory(_own(one / "s", 0o755).parent),
    "below-another's-in-tmp": lambda one: (_own(one / "s", 0o700), of_mallory(one), one.parent.chmod(0o1777)),
    "open-parent": lambda one: _own(one / "s", 0o700).parent.chmod(0o777),
    "another's-link": lambda one: mallorys_link(one / "s", _own(one / "real", 0o700)),
    "link-by-another's-folder": lambda one: (one / "s").symlink_to(
        _own(mallorys_folder(one / "m") / "s", 0o700)
    ),
}
SAFE: dict[str, Callable[[Path], object]] = {
    "absent": lambda one: one,
    "absent-in-tmp": lambda one: _own(one, 0o1777),
    "private": lambda one: _own(one / "s", 0o700),
    "of-systemd": lambda one: _own(one / "s", 0o755),
    "volume-of-a-group": lambda one: (_own(one, 0o2775), os.chown(one, 0, 1000)),
    "own-link": lambda one: (one / "s").symlink_to(_own(one / "private" / "s", 0o700)),
}


@pytest.fixture
def above(tmp_path: Path) -> Path:
    return _own(tmp_path / "above", 0o755)


@pytest.mark.parametrize("make", UNSAFE.values(), ids=UNSAFE)
def test_a_folder_in_which_others_have_a_say_is_refused(above: Path, make: Callable[[Path], object]) -> None:
    make(above)
    with pytest.raises(UsageError, match="is not safe from other users"):
        StateDirectory(above / "s")
    assert not (above / "s" / "lock").exists()


@pytest.mark.parametrize("make", SAFE.values(), ids=SAFE)
def test_a_folder_of_ones_own_is_taken(above: Path, make: Callable[[Path], object]) -> None:
    make(above)
    was_there, umask = (above / "s").exists(), os.umask(0)
    try:
        StateDirectory(above / "s" / "w")
    finally:
        os.umask(umask)
    assert (above / "s" / "w").stat().st_mode & 0o777 == 0o700
    assert was_there or (above / "s").stat().st_mode & 0o777 == 0o755


def test_the_root_of_a_volume_may_be_open_to_all(tmp_path: Path) -> None:
    with small_disk(tmp_path / "volume", "1m") as volume:
        volume.path.chmod(0o777)
        StateDirectory(volume.path / "w")
        with pytest.raises(UsageError, match="others may write to it"):
            StateDirectory(volume.path)


_WITHOUT_ACCOUNT = """
import os, sys
from pathlib import Path
from edge_ws.worker.state import StateDirectory
volume = Path(sys.argv[1])
os.setgroups([2000])
os.setresuid(123456, 123456, 123456)
StateDirectory(volume / "w")
print(oct((volume / "w").stat().st_mode), flush=True)
StateDirectory(volume)
"""


def test_a_volume_for_a_container_may_be_the_state_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "volume", "1m") as volume:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        for mode, is_safe in ((0o777, True), (0o2775, True), (0o1777, False)):
            volume.path.chmod(mode)
            assert (why_unsafe(volume.path) == "") == is_safe


def test_a_user_without_an_account_makes_a_folder_in_a_volume_of_its_group(tmp_path: Path) -> None:
    # Other users get nowhere below `tmp_path`.
    with TemporaryDirectory() as base:
        _own(Path(base), 0o755)
        volume = _own(Path(base) / "volume", 0o2775)
        os.chown(volume, 0, 2000)
        done = run_python("-c", _WITHOUT_ACCOUNT, str(volume), environment=clean_environment(tmp_path))
    assert done.stdout.startswith("0o4"), done.stderr
    assert done.stdout.endswith("700\n")
    assert "belongs to user root, and the worker runs as user 123456" in done.stderr


# Files in it


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to], ids=["link", "hard-link"])
def test_nothing_is_written_over_what_has_another_name(
    tmp_path: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    claim = ClaimId(new_id())
    outbox = Outbox(tmp_path / "outbox")
    for suffix in ("json", "spare", "tmp"):
        plant(tmp_path / "outbox" / f"{claim}.{suffix}", victim)
    plant(tmp_path / "site.tmp", victim)
    write_durably(tmp_path / "site", b"x")
    record = Record(claim=claim, slots=1, phase=Phase.ENDED, host=None, log_path=None)
    assert outbox.save(record)
    assert victim.read_text() == SECRET
    assert outbox.load() == [record]


def test_another_users_file_is_not_believed(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    (state.path / "asked").write_text('{"number": 3, "maintenance": true, "comment": "x"}')
    assert state.request() is not None
    of_mallory(state.path / "asked")
    assert state.request() is None
    assert (state.path / "asked.bad").exists()


def test_another_users_folder_in_place_of_ours_is_set_aside(tmp_path: Path) -> None:
    mallorys_folder(tmp_path / "outbox")
    faults = Faults()
    Outbox(tmp_path / "outbox", faults)
    assert (tmp_path / "outbox").stat().st_uid == 0
    assert (tmp_path / "outbox").stat().st_mode & 0o777 == 0o700
    assert (faults.count, (tmp_path / "outbox.bad").stat().st_uid) == (1, MALLORY)


def test_another_users_journal_and_lock_make_no_host(tmp_path: Path) -> None:
    files = HostFiles(tmp_path, HostId(new_id()))
    jobs = [{"claim": "c", "phase": "started", "pid": 4, "start_time": 1.0}]
    head = {"host": files.host, "fingerprint": "f", "boot": boot_id(), "ready": True, "closed": False}
    files.path(".json").write_text(json.dumps({**head, "failure": None, "jobs": jobs}))
    assert read_journal(files, Faults()).jobs
    of_mallory(files.path(".json"))
    assert read_journal(files, Faults()).jobs == ()
    holding = "import fcntl, sys; held = open(sys.argv[1], 'w'); fcntl.lockf(held, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, files.path(".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock_holder(files) == holder.pid
        of_mallory(files.path(".lock"))
        assert lock_holder(files) is None  # nor is it killed in a host's place
        holder.kill()


@pytest.mark.anyio
async def test_a_log_that_is_a_link_is_not_read(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "log").symlink_to(victim)
    sent: list[object] = []
    flushed: list[int] = []
    logs = Logs(lambda frame: bool(sent.append(frame)) or True, lambda _claim, end: flushed.append(end))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.run)
        logs.tail(ClaimId("c"), str(tmp_path / "log"), 0)
        logs.flush(ClaimId("c"))
        await until(lambda: flushed, 10)
        tasks.cancel_scope.cancel()
    assert (sent, flushed) == ([], [0])


# Sockets


@contextmanager
def mallory_listens(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        os.seteuid(MALLORY)  # whose a socket is, is settled when it listens
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        listener.settimeout(10)
        yield listener


@pytest.mark.anyio
async def test_a_socket_of_another_user_is_no_job_host(short: Path) -> None:
    files = HostFiles(short, HostId(new_id()))
    life = HostConnection(files, child=None, wanted=True, patience_s=1)
    with mallory_listens(files.path(".sock")) as listener:
        life.say("prepare", payload=SECRET)
        assert await life.connect() is None
        with listener.accept()[0] as one:
            assert one.recv(100) == b""


def test_a_socket_of_another_user_is_no_daemon(short: Path, tmp_path: Path) -> None:
    holding = _HOLD.format(str(short))
    with (
        mallory_listens(short / NAME) as listener,
        subprocess.Popen(
            [sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder,
    ):
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(EdgeWsError, match="user nobody listens in"):
            ask(short, "stop")
        with listener.accept()[0] as one:
            assert one.recv(100) == b""
        holder.kill()


_HOLD = """
from pathlib import Path
from edge_ws.worker.state import StateDirectory
held = StateDirectory(Path({!r}))
print(flush=True)
input()
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that fits a socket's address."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


# The settings file, which says where the token goes


def test_settings_that_others_may_write_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('url = "https://x"')
    machine = Machine(hostname="w", is_root=True, default_file=tmp_path / "none")

    def url() -> str:
        return resolve({"config": str(file)}, {}, machine).config.url

    for mode in (0o600, 0o644, 0o444):
        file.chmod(mode)
        assert url() == "https://x"
    for mode in (0o664, 0o646):
        file.chmod(mode)
        with pytest.raises(UsageError, match=r"others may write to .*; run: chmod go-w"):
            url()
    file.chmod(0o600)
    of_mallory(file)
    with pytest.raises(UsageError, match="who is neither root nor runs this"):
        url()


def test_settings_may_come_by_a_pipe_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    machine = Machine(hostname="w", is_root=True, default_file=tmp_path / "none")
    reader, writer = os.pipe()
    os.write(writer, b'url = "https://x"')
    os.close(writer)
    assert resolve({"config": f"/dev/fd/{reader}"}, {}, machine).config.url == "https://x"
    os.close(reader)
    os.mkfifo(tmp_path / "pipe")
    for nothing in (str(tmp_path / "pipe"), os.devnull):
        with pytest.raises(UsageError, match="no URL"):
            resolve({"config": nothing}, {}, machine)
    with pytest.raises(UsageError, match="Larger than"):
        resolve({"config": "/dev/zero"}, {}, machine)
