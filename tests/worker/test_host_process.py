"""A host's process and files seen from outside, without Airflow."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ws.processes import boot_id, start_time
from edge_ws.protocol.ids import HostId, new_id
from edge_ws.worker.faults import Faults
from edge_ws.worker.host_process import (
    HostFiles,
    Journal,
    find_hosts,
    has_exited,
    kill_leftovers,
    last_words,
    launch,
    lock_holder,
    read_journal,
    remove,
)
from tests.support.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def files(tmp_path: Path) -> HostFiles:
    return HostFiles(tmp_path, HostId(new_id()))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        yield process
        process.kill()


def journal_of(
    supervisor: int | None, task: int | None, *, phase: str = "started", late_s: float = 0
) -> Journal:
    def since(pid: int | None) -> float | None:
        known = None if pid is None else start_time(pid)
        return None if known is None else known - late_s

    job = {
        "phase": phase,
        "pid": supervisor,
        "start_time": since(supervisor),
        "task_pid": task,
        "task_start_time": since(task),
    }
    return Journal(boot=boot_id(), jobs=(job,))


def test_leftovers_are_killed_by_id_and_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen(SLEEP) as supervisor:
        journal = journal_of(supervisor.pid, sleeper.pid)
        assert kill_leftovers(journal)
        assert supervisor.wait(10) == sleeper.wait(10) == -signal.SIGKILL
        assert not kill_leftovers(journal)


@pytest.mark.parametrize("phase", ["ended", "not_started"])
def test_an_ended_jobs_numbers_are_left_alone(sleeper: subprocess.Popen[bytes], phase: str) -> None:
    assert not kill_leftovers(journal_of(sleeper.pid, sleeper.pid, phase=phase))
    assert sleeper.poll() is None


def test_a_number_given_to_another_process_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    assert not kill_leftovers(journal_of(sleeper.pid, sleeper.pid, late_s=0.01))
    assert sleeper.poll() is None


def test_a_journal_of_another_boot_names_nobody(sleeper: subprocess.Popen[bytes]) -> None:
    journal = journal_of(sleeper.pid, sleeper.pid)
    assert not kill_leftovers(Journal(boot="another", jobs=journal.jobs))
    assert sleeper.poll() is None


def test_a_group_outlives_its_leader_and_a_session_its_parent() -> None:
    """The task is gone before the host's journal is read, but what it started is not."""
    script = (
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)'])\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        journal = journal_of(None, leader.pid)
        leader.kill()
        leader.wait(10)
        assert kill_leftovers(journal)
        wait_until(lambda: not kill_leftovers(journal))


@pytest.mark.parametrize("host", ["another", ""])
def test_what_has_lost_its_parents_is_known_by_its_hosts_mark(host: str) -> None:
    """Its supervisor and its task are dead, and it is in a session of its own."""
    environment = {**os.environ, "EDGE_WS_JOB_HOST": "h"}
    with subprocess.Popen(SLEEP, start_new_session=True, env=environment) as orphan:
        wait_until(lambda: b"EDGE_WS_JOB_HOST=h" in Path(f"/proc/{orphan.pid}/environ").read_bytes())
        dead = dataclasses.replace(journal_of(None, None), host=host)
        assert not kill_leftovers(dead)
        assert orphan.poll() is None
        assert kill_leftovers(dataclasses.replace(dead, host="h"))
        assert orphan.wait(10) == -signal.SIGKILL


def test_a_journal_that_cannot_be_read_is_torn(files: HostFiles) -> None:
    faults = Faults()
    assert read_journal(files, faults) == Journal()
    assert faults.count == 0
    for text in ("", "{", "[]", '{"jobs": []}', "[" * 100_000):
        files.path(".json").write_text(text)
        assert read_journal(files, faults) == Journal(host=files.host, boot=boot_id(), is_torn=True)
    assert faults.count == 5


def test_a_journal_is_read(files: HostFiles) -> None:
    told = {
        "host": "h",
        "fingerprint": "f",
        "boot": "b",
        "ready": True,
        "closed": False,
        "failure": None,
        "jobs": [],
        "more": 1,
    }
    files.path(".json").write_text(json.dumps(told))
    assert read_journal(files, Faults()) == Journal(host="h", fingerprint="f", boot="b", ready=True)


def test_who_holds_a_lock_is_known(files: HostFiles) -> None:
    assert lock_holder(files) is None
    files.path(".lock").touch()
    assert lock_holder(files) is None
    script = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX); print(1, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(files.path(".lock"))], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock_holder(files) == holder.pid
        holder.kill()
        holder.wait(10)
    assert lock_holder(files) is None


def test_looking_at_a_lock_takes_nothing_from_its_holder(files: HostFiles) -> None:
    with files.path(".lock").open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert find_hosts(files.directory) == [files.host]
        assert lock_holder(files) is None  # one's own lock does not count


def test_a_host_gets_no_setting_of_the_daemon(files: HostFiles, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\nenv\necho "arguments: $*"\necho "session: $(cut -d " " -f 6 /proc/$$/stat) $$"\n'
    )
    program.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "EDGE_WS_TOKEN": "secret", "AIRFLOW_HOME": "/af"}
    child = launch(files, python=str(program), environment=environment, fingerprint="f", worker_name="w")
    wait_until(lambda: has_exited(child))
    said = files.path(".log").read_text()
    assert "AIRFLOW_HOME=/af" in said
    assert f"EDGE_WS_JOB_HOST={files.host}" in said
    assert "secret" not in said
    assert f"--directory {tmp_path} --host {files.host} --fingerprint f --worker w" in said
    session, pid = said.rsplit("session: ")[1].split()
    assert session == pid == str(child)
    assert last_words(files).startswith("session: ")


def test_only_the_newest_logs_of_dead_hosts_stay(tmp_path: Path) -> None:
    hosts = [HostFiles(tmp_path, HostId(new_id())) for _ in range(6)]
    for number, files in enumerate(hosts):
        for suffix in (".lock", ".json", ".sock", ".log"):
            files.path(suffix).touch()
        os.utime(files.path(".log"), (number, number))
    for files in hosts[:5]:
        remove(files, keep_log=True)
    left = {path.name for path in tmp_path.iterdir()}
    kept = {files.path(".log").name for files in hosts[2:5]}
    alive = {hosts[5].path(suffix).name for suffix in (".lock", ".json", ".sock", ".log")}
    assert left == kept | alive
    remove(hosts[5], keep_log=False)
    assert {path.name for path in tmp_path.iterdir()} == kept
