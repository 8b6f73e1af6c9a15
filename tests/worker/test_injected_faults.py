"""Odd files, odd words of a job host and of operators, odd jobs: each costs the daemon that one thing.

Each is named once, with what to do, counted, and shown by `edge-ws status`; what runs goes on.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from edge_ws.errors import EdgeWsError
from edge_ws.protocol.ids import ClaimId, HostId, new_id
from edge_ws.worker.control import LONGEST, NAME, ask
from edge_ws.worker.faults import Faults
from edge_ws.worker.host_client import HostGone, JobEnded
from edge_ws.worker.host_events import HostUp
from edge_ws.worker.host_process import HostFiles, find_hosts, last_words, lock_holder, read_journal, remove
from edge_ws.worker.outbox import Outbox
from edge_ws.worker.state import StateDirectory
from tests.support.execution_api import ExecutionApi
from tests.support.jobs import Site, make_site, task_workload
from tests.support.meddler import meddling
from tests.support.programs import clean_environment
from tests.support.raw_host import end_tree
from tests.support.rows import enqueue, new_job
from tests.support.stand import Stand
from tests.support.waiting import until
from tests.worker.test_host_client import Watched

C = "11111111-1111-4111-8111-111111111111"
HUGE = 8 * 2**30
"""Bytes, none of which is on the disk."""


# Files


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, HUGE)


def bind(path: Path) -> None:
    folder = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


ODD_FILES: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: (path.mkdir(), (path / "x").touch()),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "empty": lambda path: path.touch(),
    "dangling-link": lambda path: path.symlink_to("nowhere"),
    "endless-link": lambda path: path.symlink_to(path.name),
    "pipe": os.mkfifo,
    "socket": bind,
    "huge": huge,
    "null": lambda path: path.write_text("null"),
    "list": lambda path: path.write_text('[{"a": [1, 2, {}]}, 1e999]'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "of-an-unknown-version": lambda path: path.write_text(
        '{"format": 99, "claim": 7, "host": {}, "jobs": 5}'
    ),
}
odd_files = pytest.mark.parametrize("make", list(ODD_FILES.values()), ids=list(ODD_FILES))


@odd_files
@pytest.mark.parametrize("name", ["site", "asked", "proven"])
def test_an_odd_file_of_the_state_directory_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, make: Callable[[Path], object]
) -> None:
    make(tmp_path / name)
    state = StateDirectory(tmp_path)
    assert state.request() is None
    assert not state.is_proven("http://x")
    state.prove("http://x")
    assert state.is_proven("http://x")
    assert state.site == StateDirectory(tmp_path).site
    assert (tmp_path / name).exists() or name == "asked"
    # Any text is a list of digests, and any word an id.
    is_sound = name == "proven" or state.site == "null"
    if not is_sound or state.faults.count:
        assert (state.faults.count, caplog.text.count(f"({tmp_path / name})")) == (1, 1)
        assert f"moved to {name}.bad" in caplog.text
        assert os.path.lexists(tmp_path / f"{name}.bad")


@odd_files
def test_an_odd_record_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], object]
) -> None:
    faults = Faults()
    outbox = Outbox(tmp_path / "outbox", faults)
    outbox.save_dead([HostId("h")])
    make(tmp_path / "outbox" / f"{C}.json")
    assert outbox.load() == []
    assert outbox.load_dead() == ["h"]
    assert (faults.count, caplog.text.count(f"{C}.json)")) == (1, 1)
    (tmp_path / "outbox" / "dead-hosts").unlink()
    make(tmp_path / "outbox" / "dead-hosts")
    assert outbox.load_dead() == []
    assert outbox.load() == []
    assert faults.count == 2
    assert outbox.reserve(ClaimId("c"))
    assert outbox.save_dead([HostId("i")])
    assert outbox.load_dead() == ["i"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slots", -1),
        ("slots", 2**31),
        ("exit_code", 2**40),
        ("exit_code", "0"),
        ("log_start", -1),
        ("log_path", 5),
        ("detail", "x" * 100_000),
        ("host", ""),
        ("host", "x" * 100),
        ("stale", "no"),
        ("owed", {"method": 1}),
        ("owed", []),
        ("phase", ["ended"]),
        ("claim", "another"),
    ],
)
def test_a_record_that_the_centre_would_refuse_is_none(tmp_path: Path, name: str, value: object) -> None:
    faults = Faults()
    outbox = Outbox(tmp_path, faults)
    sound = {"claim": C, "slots": 1, "phase": "ended", "host": "h", "log_path": None, "exit_code": 0}
    path = tmp_path / f"{C}.json"
    path.write_text(json.dumps(sound))
    assert len(outbox.load()) == 1
    path.write_text(json.dumps({**sound, name: value}))
    assert (outbox.load(), faults.count) == ([], 1)


@odd_files
@pytest.mark.parametrize("name", ["outbox", "hosts"])
def test_what_is_in_place_of_a_folder_is_set_aside(
    tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    make(tmp_path / name)
    was_folder, faults = (tmp_path / name).is_dir(), Faults()
    Outbox(tmp_path / name, faults)
    assert (tmp_path / name).is_dir()
    assert faults.count == (0 if was_folder else 1)


@odd_files
@pytest.mark.parametrize("suffix", [".lock", ".json", ".log", ".sock"])
def test_odd_files_of_a_dead_host_are_read_and_removed(
    tmp_path: Path, suffix: str, make: Callable[[Path], object]
) -> None:
    files = HostFiles(tmp_path, HostId(new_id()))
    if suffix != ".lock":
        files.path(".lock").touch()
    make(files.path(suffix))
    assert find_hosts(tmp_path) == [files.host]
    assert lock_holder(files) is None
    assert read_journal(files, Faults()).jobs == ()
    last_words(files)
    remove(files, keep_log=True)


def test_names_that_are_no_text_are_passed_over_and_can_be_shown(tmp_path: Path) -> None:
    faults = Faults()
    outbox = Outbox(tmp_path / "outbox", faults)
    (tmp_path / "outbox" / os.fsdecode(b"\xff\xfe.json")).touch()
    (tmp_path / "outbox" / os.fsdecode(b"\xff\xfe.lock")).touch()
    assert outbox.load() == []
    assert find_hosts(tmp_path / "outbox") == []
    assert faults.last is not None
    assert faults.last.place.encode().endswith(b"\\udcff\\udcfe.json")


ROUNDS: list[dict[str, str]] = [
    {
        "site": "folder",
        "asked": "pipe",
        "proven": "huge",
        NAME: "folder",
        f"outbox/{C}.json": "deep",
        "outbox/dead-hosts": "list",
        f"hosts/{C}.lock": "empty",
        f"hosts/{C}.json": "garbage",
        f"hosts/{C}.log": "dangling-link",
        ".edge-ws-probe": "pipe",
    },
    {
        "site": "endless-link",
        "asked": "null",
        "proven": "folder",
        NAME: "garbage",
        f"outbox/{C}.json": "pipe",
        "outbox/dead-hosts": "folder",
        f"hosts/{C}.lock": "pipe",
        f"hosts/{C}.json": "of-an-unknown-version",
        f"hosts/{C}.log": "huge",
        ".edge-ws-probe": "dangling-link",
    },
    {"outbox": "garbage", "hosts": "dangling-link", "asked": "endless-link", "site": "garbage"},
]


@pytest.mark.parametrize("files", ROUNDS, ids=["one", "two", "three"])
def test_a_worker_starts_on_whatever_it_finds_and_says_what_was_odd(
    stand: Stand, files: dict[str, str]
) -> None:
    for name, kind in files.items():
        path = stand.state_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ODD_FILES[kind](path)
    with stand.gateway():
        stand.start()
        job = stand.queue("hello")
        stand.until(lambda: stand.state_of(job) == "success")
        told = stand.condition()["faults"]
        for name in {"site", "asked", "outbox", "hosts"} & files.keys():
            assert stand.told.count(f"({stand.state_dir / name}): ") == 1
        assert told["count"] >= 4
        shown = stand.cli("status").stdout
        assert f"{told['count']}; the last " in shown
        assert told["last"]["advice"] in " ".join(shown.split())
        assert "Traceback" not in stand.told


def test_what_becomes_odd_while_a_task_runs_costs_no_more_than_itself(stand: Stand) -> None:
    with stand.gateway():
        stand.start()
        job = stand.queue("wait")
        stand.note("wait")
        outbox = stand.state_dir / "outbox"
        (record,) = outbox.glob("*.json")
        for path in (record, record.with_suffix(".spare"), stand.state_dir / "asked", outbox / "dead-hosts"):
            path.unlink(missing_ok=True)
            path.mkdir()
        refused = stand.cli("maintenance", "on", "--comments", "why")
        assert "does not take what was asked for (Is a directory); nothing has changed" in refused.stderr
        (log,) = stand.site.logs.rglob("task_id=*/*.log")
        log.unlink()
        os.mkfifo(log)
        second = stand.queue("hello")
        stand.until(lambda: stand.state_of(second) == "success")
        stand.let_go()
        stand.until(lambda: stand.state_of(job) == "success")
        assert f"cannot keep the report of claim {record.stem} on disk" in stand.told
        (stand.state_dir / "asked").rmdir()
        assert stand.cli("maintenance", "on", "--comments", "why").returncode == 0


# What operators say

ODD_REQUESTS = [
    b"",
    b"{",
    b"\xff\x00",
    b"null",
    b"[]",
    b"5",
    b"[" * 10_000,
    b"{}",
    b'{"do": null}',
    b'{"do": ["status"]}',
    b'{"do": "later"}',
    b'{"do": "maintenance"}',
    b'{"do": "maintenance", "on": "yes"}',
    b'{"do": "maintenance", "on": true, "comment": {}}',
    b'{"do": "maintenance", "on": true, "comment": "%b"}' % (b"x" * 2000),
]


def test_odd_requests_are_answered_and_change_nothing(stand: Stand) -> None:
    with stand.gateway():
        stand.start()
        before = stand.condition()
        for odd in ODD_REQUESTS:
            with _operator(stand) as (sock, answers):
                sock.sendall(odd + b'\n{"do": "status"}\n')
                assert "error" in json.loads(answers.readline()), odd
                assert json.loads(answers.readline())["condition"]["worker"] == "w1"
        with _operator(stand) as (sock, answers):
            sock.sendall(b'{"do": "maint')  # and it hangs up
        with _operator(stand) as (sock, answers):
            with pytest.raises(OSError, match=r".*"):  # noqa: PT012 - one of them meets the closed line
                for _ in range(1000):
                    sock.sendall(b"x" * LONGEST)
            answers.close()
        after = stand.condition()
        assert after["maintenance"] == before["maintenance"]
        assert not after["leaving"]["in_force"]
        job = stand.queue("hello")
        stand.until(lambda: stand.state_of(job) == "success")


class _operator:  # noqa: N801 - used as a function
    def __init__(self, stand: Stand) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(30)
        folder = os.open(stand.state_dir, os.O_PATH)
        self._sock.connect(f"/proc/self/fd/{folder}/{NAME}")
        os.close(folder)
        self._answers = self._sock.makefile("rb")

    def __enter__(self) -> tuple[socket.socket, object]:
        return self._sock, self._answers

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._sock.close()


# One job's own data


def test_jobs_with_odd_data_fail_alone(stand: Stand) -> None:
    body = json.loads(task_workload("hello").payload)
    odd = {
        "garbage": "{",
        "null": "null",
        "deep": "[" * 50_000,
        "no-type": "{}",
        "long": json.dumps({**body, "log_path": "x" * 5000}),
        "nul": json.dumps({**body, "log_path": "a\0b"}),
    }
    with stand.gateway():
        stand.start()
        jobs = [new_job(f"odd-{name}", command=command) for name, command in odd.items()]
        enqueue(stand.engine, *jobs)
        sound = stand.queue("hello")
        stand.until(lambda: stand.state_of(sound) == "success")
        stand.until(lambda: all(stand.state_of(job) in {"success", "failed", "queued"} for job in jobs))
        assert stand.answers()


# What a job host says


def about(**words: object) -> bytes:
    return json.dumps(words).encode()


ODD_WORDS = {
    "torn": b'{"ev": "pon',
    "nothing": b"",
    "no-text": b"\xff\x00",
    "null": b"null",
    "list": b"[]",
    "text": b'"hello"',
    "number": b"5",
    "deep": b"[" * 200_000,
    "no-kind": b"{}",
    "no-number": about(ev="pong"),
    "number-of-another-type": about(ev="pong", n="x"),
    "no-claim": about(ev="started"),
    "claim-of-another-type": about(ev="started", claim=[C]),
    "claim-with-spaces": about(ev="started", claim="a claim"),
    "half": about(ev="ended", claim=C),
    "types": about(ev="ended", claim=C, exit_code="0", detail="", log_uploaded=False),
    "vast-code": about(ev="ended", claim=C, exit_code=2**70, detail="", log_uploaded=False),
    "vast-detail": about(ev="ended", claim=C, exit_code=0, detail="x" * 100_000, log_uploaded=False),
    "odd-call": about(ev="owes", claim=C, outcome="success", owed={"method": 1}),
    "no-call": about(ev="owes", claim=C, outcome="success", owed=None),
    "odd-path": about(ev="prepared", claim=C, log_path=5),
    "no-reason": about(ev="refused", claim=C, reason=None, invalid=True),
    "odd-hello": about(ev="hello", ready="yes", closed=False, versions={}, jobs=[]),
    "hello-without-jobs": about(ev="hello", ready=True, closed=False, versions={}, jobs=5),
    "odd-faults": about(ev="faults", faults="none"),
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path / "site")
    yield made
    for journal in made.folder.glob("hosts/*.json"):
        end_tree(json.loads(journal.read_text())["pid"])


@pytest.mark.anyio
async def test_odd_words_of_a_job_host_cost_themselves(site: Site, api: ExecutionApi) -> None:
    async with Watched(site, api).running() as first:
        host = (await first.is_up()).host
        claim = await first.start(task_workload("wait"))
    watched, faults = Watched(site, api), Faults()
    watched.hosts._faults = faults
    with meddling(site.folder / "hosts" / f"{host}.sock") as meddler:
        async with watched.running():
            await watched.is_up()
            for name, odd in ODD_WORDS.items():
                before = faults.count
                meddler.say(odd + b"\n")
                await until(lambda before=before: faults.count == before + 1, 10)  # type: ignore[misc]
                assert watched.hosts.alive == (host,), name
            before = faults.count
            endless = about(ev="later", claim=[1]) + b"\n" + b"x" * (33 * 2**20)
            await anyio.to_thread.run_sync(meddler.say, endless)
            await until(lambda: faults.count == before + 1, 60)
            meddler.say(b"x\n")

            # An odd word about a job has its host asked for all of them again.
            watched.events.clear()
            meddler.say(about(ev="ended", claim=claim, exit_code="x", detail="", log_uploaded=False) + b"\n")
            assert [job.phase for job in (await watched.hears(HostUp)).jobs] == ["started"]

            # An odd job hides no other one, and is not taken for gone.
            jobs = [{"claim": C, "phase": {}, "exit_code": "x"}, {"claim": [1]}, 5]
            hello = about(ev="hello", ready=True, closed=False, versions={}, jobs=jobs)
            meddler.say(hello + b"\n")
            (job,) = (await watched.hears(HostUp)).jobs
            assert (job.claim, job.phase) == (C, "started")

            watched.hosts._claims.pop(ClaimId(C), None)
            (site.notes / "enough").touch()
            assert (await watched.hears_of(JobEnded, claim)).exit_code == 0
            assert not [event for event in watched.events if isinstance(event, HostGone)]
    assert faults.last is not None
    assert faults.last.place == f"job host {host}"


_ODD_DAEMON = """
import socket, sys
from pathlib import Path
from edge_ws.worker.control import NAME
from edge_ws.worker.state import StateDirectory
held = StateDirectory(Path(sys.argv[1]))
listener = socket.socket(socket.AF_UNIX)
listener.bind(str(held.path / NAME))
listener.listen()
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as lines:
        lines.readline()
        connection.sendall(sys.stdin.buffer.readline())
"""


def test_an_answer_that_is_none_is_said(short_folder: Path, tmp_path: Path) -> None:
    """The other end of the operator's socket."""
    with subprocess.Popen(
        [sys.executable, "-c", _ODD_DAEMON, str(short_folder)],
        env=clean_environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as daemon:
        assert daemon.stdout.readline() == b"listening\n"
        for odd in (b"\n", b"[]\n", b"null\n", b"{}\n", b"\xff\n", b'"error"\n'):
            daemon.stdin.write(odd)
            daemon.stdin.flush()
            with pytest.raises(EdgeWsError, match="is not understood"):
                ask(short_folder, "status")
        daemon.kill()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's address is bound to be short where it is given plainly."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
