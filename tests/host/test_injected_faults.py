"""Odd messages, odd words of one job, odd files and no descriptors: each costs the job host that one thing.

A real host, with a real task that runs from before the first fault to after the last one.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.execution_api import ExecutionApi
from tests.support.host_jobs import go, job_of, prepare
from tests.support.jobs import Site, task_workload
from tests.support.raw_host import Line, RawHost, raw_host
from tests.support.waiting import wait_until

C = "11111111-1111-4111-8111-111111111111"
TOO_LONG = 17 * 1024 * 1024
_PIDFD_GETFD = 438


def line_of(op: str, **words: object) -> bytes:
    return json.dumps({"op": op, **words}).encode()


ODD_LINES = {
    "nothing": b"",
    "torn": b'{"op": "canc',
    "no-text": b"\xff\xfe\x00",
    "null": b"null",
    "a-list": b"[]",
    "a-text": b'"hello"',
    "a-number": b"5",
    "deep": b"[" * 200_000,
    "no-kind": b"{}",
    "kind-of-another-type": b'{"op": ["hello"]}',
    "no-claim": line_of("go", token="t"),
    "claim-of-another-type": line_of("drop", claim=[C]),
    "no-token": line_of("go", claim=C),
    "token-of-another-type": line_of("go", claim=C, token=5),
    "no-number": line_of("ping"),
    "number-of-another-type": line_of("ping", n="1"),
    "no-payload": line_of("prepare", claim=C, server="http://x"),
    "payload-of-another-type": line_of("prepare", claim=C, payload={}, server="http://x"),
    "settings-of-another-type": line_of("prepare", claim=C, payload="{}", server="http://x", settings=[1]),
    "settings-of-numbers": line_of("prepare", claim=C, payload="{}", server="http://x", settings={"a": 1}),
    "proxy-of-another-type": line_of("prepare", claim=C, payload="{}", server="http://x", proxy=7),
    "endless-grace": b'{"op": "cancel", "claim": "%b", "reason": "r", "grace_s": Infinity}' % C.encode(),
    "no-grace": b'{"op": "cancel", "claim": "%b", "reason": "r", "grace_s": NaN}' % C.encode(),
    "vast-grace": b'{"op": "cancel", "claim": "%b", "reason": "r", "grace_s": 1%b}'
    % (C.encode(), b"0" * 400),
    "negative-grace": line_of("cancel", claim=C, reason="r", grace_s=-1),
    "grace-of-another-type": line_of("cancel", claim=C, reason="r", grace_s="5"),
}


@pytest.fixture(scope="module")
def host(shared_host: RawHost) -> RawHost:
    return shared_host


@pytest.fixture(scope="module")
def witness(host: RawHost, site: Site, api: ExecutionApi) -> Iterator[Callable[[], None]]:
    """A task that runs all the time; the value makes sure of it."""
    line, workload = host.connect(), task_workload("wait")
    claim = go(line, api, workload)
    wait_until((site.notes / "wait").exists, 60)
    pid = int((site.notes / "wait").read_text())

    def lives() -> None:
        assert host.process.poll() is None, host.log
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE

    yield lives
    lives()
    (site.notes / "enough").touch()
    line = host.connect()
    wait_until(lambda: job_of(host, claim)["phase"] == "ended", 60)
    assert (job_of(host, claim)["exit_code"], job_of(host, claim)["detail"]) == (0, "")
    assert api.states_of(workload.id) == ["success"]


def send(line: Line, data: bytes) -> None:
    line._sock.sendall(data)


def faults_of(host: RawHost) -> dict[str, int]:
    """Return how often each fault has come, by what it says, as a daemon that attaches is told."""
    line = host.connect()
    line.hello()
    line.say("ping", n=1)
    line.hear("pong")
    told = [event for event in line._kept if event["ev"] == "faults"]
    line.close()
    return {f"{one['what']}: {one['error']}": one["count"] for one in (told[-1]["faults"] if told else ())}


def newer(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return what has come since, and how often."""
    return {what: count - before.get(what, 0) for what, count in after.items() if count != before.get(what)}


@pytest.mark.parametrize("odd", list(ODD_LINES.values()), ids=list(ODD_LINES))
def test_an_odd_message_costs_itself_and_is_counted(
    host: RawHost, witness: Callable[[], None], odd: bytes
) -> None:
    before = faults_of(host)
    line = host.connect()
    # In one piece: what comes behind it must not be lost with it.
    send(line, odd + b"\n" + line_of("ping", n=7) + b"\n")
    assert line.hear("pong")["n"] == 7
    assert list(newer(before, faults_of(host)).values()) == [1]
    witness()


def test_a_message_of_an_unknown_kind_is_no_fault(host: RawHost, witness: Callable[[], None]) -> None:
    before, line = faults_of(host), host.connect()
    send(line, line_of("later", claim=[1]) + b"\n" + line_of("ping", n=8) + b"\n")
    assert line.hear("pong")["n"] == 8
    assert faults_of(host) == before
    witness()


def test_a_message_without_an_end_is_passed_over(host: RawHost, witness: Callable[[], None]) -> None:
    line = host.connect()
    send(line, b"x" * TOO_LONG)
    assert line.hear("faults")["faults"][-1]["error"].startswith("ValueError: a line of more than ")
    send(line, b"x" * 1000 + b"\n" + line_of("ping", n=9) + b"\n")
    assert line.hear("pong")["n"] == 9
    witness()


def test_a_message_that_breaks_off_is_nothing(host: RawHost, witness: Callable[[], None]) -> None:
    line = host.connect()
    send(line, line_of("retire")[:-1])
    line.close()
    assert not host.connect().hello()["closed"]
    witness()


def test_each_fault_is_printed_once(site: Site) -> None:
    """In a host of its own: which of several at one place is printed depends on which came first."""
    with raw_host(site.folder / "own", site.environment()) as host:
        for _ in range(3):
            line = host.connect()
            send(line, b'{"odd": "one and the same"}\n' + line_of("ping", n=1) + b"\n")
            line.hear("pong")
            line.close()
        assert faults_of(host) == {"a message of the daemon: KeyError: 'op'": 3}
        assert host.log.count("a message of the daemon: KeyError: 'op', at host/connection.py:") == 1


# One job's own data

ODD_WORDS = {
    "torn": b'{"end',
    "null": b"null",
    "a-list": b"[1]",
    "no-text": b"\xff",
    "no-word": b'{"hello": 1}',
    "half-a-word": b'{"ended": 0}',
    "types": b'{"ended": "0", "detail": null, "log_uploaded": 1}',
    "forked": b'{"forked": "1", "start_time": "now"}',
    "deep": b"[" * 50_000,
}


def sockets_of(pid: int) -> list[int]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # It was open for the moment only.
            if int(entry.name) > 2 and str(entry.readlink()).startswith("socket:"):
                found.append(int(entry.name))
    return found


def says_as(pid: int, words: bytes) -> None:
    """Say something to the host by the socket of a job's process that waits: it has no other."""
    # At first it has what the host had open.
    wait_until(lambda: len(sockets_of(pid)) == 1, 30)
    (number,) = sockets_of(pid)
    handle = os.pidfd_open(pid)
    ours = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, handle, number, 0)
    os.close(handle)
    if ours < 0:
        pytest.skip("no right to take another process's descriptor")
    with socket.socket(fileno=ours) as sock:
        sock.sendall(words + b"\n")


@pytest.mark.parametrize("odd", list(ODD_WORDS.values()), ids=list(ODD_WORDS))
def test_an_odd_word_of_a_jobs_process_costs_itself(
    host: RawHost, witness: Callable[[], None], api: ExecutionApi, odd: bytes
) -> None:
    line, workload = host.connect(), task_workload("hello")
    claim = prepare(line, api, workload)
    before = faults_of(host)
    line = host.connect()
    line.hello()  # It is let in by now.
    says_as(int(job_of(host, claim)["pid"]), odd)  # type: ignore[call-overload]
    line.hear("faults")
    assert list(newer(before, faults_of(host)).values()) == [1]
    line = host.connect()
    line.say("go", claim=claim, token="secret-token")
    assert (line.hear("ended", claim)["exit_code"], api.states_of(workload.id)) == (0, ["success"])
    witness()


def test_a_job_whose_last_word_is_odd_ends_all_the_same(
    host: RawHost, witness: Callable[[], None], api: ExecutionApi
) -> None:
    line = host.connect()
    claim = prepare(line, api, task_workload("hello"))
    pid = int(job_of(host, claim)["pid"])  # type: ignore[call-overload]
    says_as(pid, b'{"ended": [], "detail": {}}')
    os.kill(pid, signal.SIGKILL)
    never = line.hear("not_started", claim)
    assert (never["fault"], never["reason"]) == (
        "host",
        "the job's process was killed by SIGKILL before the task began",
    )
    witness()


ODD_PAYLOADS: dict[str, Callable[[dict[str, Any]], object]] = {
    "log-path-of-5000-characters": lambda body: body.update(log_path="x" * 5000),
    "log-path-with-a-nul": lambda body: body.update(log_path="a\0b"),
    "log-path-without-text": lambda body: body.update(log_path="a\udcffb"),
    "log-path-elsewhere": lambda body: body.update(log_path="/proc/none/log"),
    "no-dag-there": lambda body: body.update(dag_rel_path="\0"),
    "names-without-end": lambda body: body["ti"].update(dag_id="x" * 100_000),
    "half": lambda body: body["ti"].clear(),
}


@pytest.mark.parametrize("spoil", list(ODD_PAYLOADS.values()), ids=list(ODD_PAYLOADS))
def test_a_job_with_odd_data_comes_to_an_end_of_its_own(
    host: RawHost, witness: Callable[[], None], api: ExecutionApi, spoil: Callable[[dict[str, Any]], object]
) -> None:
    body, claim, line = json.loads(task_workload("hello").payload), str(uuid.uuid4()), host.connect()
    spoil(body)
    line.say("prepare", claim=claim, payload=json.dumps(body), server=api.url)
    line.say("go", claim=claim, token="secret-token")
    last = wait_until(lambda: _last_word(line, claim), 60)
    assert last in {"refused", "not_started", "ended"}
    witness()


def _last_word(line: Line, claim: str) -> str:
    line.say("ping", n=2)
    line.hear("pong")
    found = [one["ev"] for one in line._kept if one.get("claim") == claim]
    return next((kind for kind in found if kind in {"refused", "ended", "not_started"}), "")
