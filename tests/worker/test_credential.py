"""The worker's token by a command: what may come of it, and when it is asked for another one."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from pathlib import Path

import anyio
import psutil
import pytest

from edge_ws.errors import EdgeWsError, RefusedError
from edge_ws.protocol.frames import Renewed
from edge_ws.worker import credential
from edge_ws.worker.credential import Credential, run_command
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


def _python(code: str) -> str:
    return shlex.join([sys.executable, "-S", "-c", code])


async def test_what_a_command_prints_is_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_WS_TOKEN", "geheim")
    monkeypatch.setenv("HINT", "a b")
    assert await run_command("printf ' abc \\n'") == "abc"
    # No shell is between, and the daemon's own token is not handed on.
    assert await run_command("printf %s $HOME;x") == "$HOME;x"
    code = "import os; print('EDGE_WS_TOKEN' in os.environ, os.environ['HINT'].replace(' ', '-'), sep='-')"
    assert await run_command(_python(code)) == "False-a-b"


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("/nowhere/jwt --secret geheim", "cannot be run: No such file"),
        ("false geheim", "failed with exit code 1"),
        ("printf ''", "is empty"),
        ("printf 'geheim geheim'", "does not hold one token"),
        ("sh -c 'echo geheim; echo geheim >&2; exit 3'", "failed with exit code 3"),
        ("yes geheim", "over 16384 bytes"),
        ("sh -c 'kill -9 $$'", "failed with exit code -9"),
    ],
)
async def test_a_command_that_gives_no_token(
    command: str, part: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RefusedError) as caught:
        await run_command(command)
    assert (caught.value.code, part in str(caught.value)) == ("token", True), str(caught.value)
    assert "geheim" not in str(caught.value) + caplog.text + "".join(capfd.readouterr())


async def test_a_command_that_hangs_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    begun = time.monotonic()
    with pytest.raises(RefusedError, match=r"takes longer than 0\.5 s"):
        await run_command(f"sh -c 'sleep 60 & echo $! $$ > {note}; wait'", within_s=0.5)
    assert time.monotonic() - begun < 20
    pids = [int(word) for word in note.read_text().split()]
    await until(lambda: not any(_lives(pid) for pid in pids))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Counting:
    """A command that gives one token after the other, as a test lets it."""

    def __init__(self) -> None:
        self.tokens = ["t1"]
        self.runs = 0
        self.fault = ""

    async def __call__(self) -> str:
        self.runs += 1
        if self.fault:
            raise RefusedError("token", self.fault)
        return self.tokens[-1]


def _unread() -> str:
    raise AssertionError


async def test_a_command_is_run_when_there_is_a_need() -> None:
    command = Counting()
    kept = Credential(_unread, command)
    for _ in range(3):
        assert await kept.current() == "t1"
        kept.good_for(600.0)
    assert command.runs == 1
    kept.refused()
    assert await kept.current() == "t1"
    assert command.runs == 2


async def test_it_is_asked_for_another_token_before_the_end_and_not_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(credential, "LOOK_S", 0.01)
    command = Counting()
    kept = Credential(_unread, command)
    await kept.current()
    command.tokens.append("t2")
    kept.good_for(2.0)
    begun = anyio.current_time()
    assert await kept.another("t1") == "t2"
    assert anyio.current_time() - begun >= 0.9
    assert command.runs == 2
    # What never expires is never asked for.
    kept.good_for(None)
    with pytest.raises(TimeoutError), anyio.fail_after(0.3):
        await kept.another("t2")
    assert command.runs == 2


async def test_a_command_that_fails_is_tried_ever_more_seldom_and_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in (("LOOK_S", 0.001), ("AGAIN_S", 0.02), ("LONGEST_AGAIN_S", 0.32)):
        monkeypatch.setattr(credential, name, value)
    caplog.set_level(logging.INFO, "edge_ws.worker")
    command = Counting()
    kept = Credential(_unread, command)
    await kept.current()
    kept.good_for(0.0)
    command.fault = "the provider is away"
    found: list[str] = []

    async def wait() -> None:
        found.append(await kept.another("t1"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        begun = anyio.current_time()
        await until(lambda: command.runs >= 6)
        # Ever more seldom: 0.02 + 0.04 + 0.08 + 0.16 s at the least between the last five.
        assert anyio.current_time() - begun >= 0.3
        command.fault, command.tokens = "", ["t2"]
        await until(lambda: found)
    kept.answered(Renewed(expires_in_s=600.0))
    assert found == ["t2"]
    assert [record.getMessage().count("the provider is away") for record in caplog.records] == [1, 0]


async def test_a_file_is_looked_at_and_its_faults_are_survived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(credential, "LOOK_S", 0.01)
    said: list[str | EdgeWsError] = ["a", RefusedError("token", "gone"), "a", "b"]

    def read() -> str:
        one = said.pop(0)
        if isinstance(one, EdgeWsError):
            raise one
        return one

    assert await Credential(read).another("a") == "b"
