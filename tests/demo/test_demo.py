"""The real demo, from an installed wheel in an environment of its own, as a user would start it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from edge_ws.demo.sandbox import WORKER
from tests.support.programs import PACKAGE
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
DEMO_S = 240.0
"""Far beyond what it takes: a busy machine is no fault of the demo."""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`edge-ws` as an installer puts it there: from our wheel, and all else from where the tests run."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder)]
    done = subprocess.run([*build, str(PACKAGE.parent)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    # Its .pth files are not read from there, so that an editable edge-ws is not found.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = folder / "venv" / "bin" / "edge-ws"
    program.write_text(
        f"#!{program.parent / 'python'}\nimport sys\nfrom edge_ws.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    return program


class _Production:
    """An Airflow that the user's shell points to: whoever comes near it leaves traces."""

    def __init__(self, folder: Path) -> None:
        self._home = folder / "production"
        self._home.mkdir()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)

    def environment(self) -> dict[str, str]:
        address = f"127.0.0.1:{self._server.getsockname()[1]}"
        return {
            "AIRFLOW_HOME": str(self._home),
            "AIRFLOW_CONFIG": str(self._home / "airflow.cfg"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://airflow:secret@{address}/airflow",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self._home / "dags"),
            "AIRFLOW__EDGE_WS__API_ENABLED": "False",
            "EDGE_WS_URL": f"http://{address}",
            "EDGE_WS_TOKEN": "secret",
            "HTTP_PROXY": f"http://{address}",
            "http_proxy": f"http://{address}",
            "PYTHONPATH": str(self._home),
        }

    def is_untouched(self) -> bool:
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return not list(self._home.iterdir())
        return False

    def close(self) -> None:
        self._server.close()


class _Demo:
    """A demo that runs in the background, all its files below `folder`."""

    def __init__(self, program: Path, folder: Path, *words: str, **more: str) -> None:
        self.folder = folder / "tmp"
        self.folder.mkdir()
        self.environment = {**os.environ, "TMPDIR": str(self.folder), **more}
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [str(program), "demo", *words],
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        return self.process.wait(DEMO_S)

    def wait_for(self, words: str) -> None:
        def is_there() -> bool:
            assert self.process.poll() is None, self.out + self.err
            return words in self.out

        wait_until(is_there, DEMO_S, every_s=0.05)

    def left(self) -> list[str]:
        """Return the command lines of what still runs for it."""
        found = []
        for one in psutil.process_iter():
            try:
                if one.status() != psutil.STATUS_ZOMBIE and str(self.folder) in "\0".join(
                    [*one.environ().values(), *one.cmdline()]
                ):
                    found.append(" ".join(one.cmdline()))
            except psutil.Error:
                continue
        return found


_NEXT = "-- the next command --"


def _paste(demo: _Demo) -> list[str]:
    """Run the lines that the demo offers, in a shell as another terminal would have it; return what each said."""
    head, _, rest = demo.err.partition("In another shell:\n\n")
    assert head, demo.err
    lines = rest.partition("\n\n")[0].splitlines()
    done = subprocess.run(
        ["/bin/sh", "-ec", "".join(f"{line}\necho '{_NEXT}'\n" for line in lines)],
        env=demo.environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEMO_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    said = done.stdout.split(_NEXT + "\n")[:-1]
    assert len(said) == len(lines)
    return [words for line, words in zip(lines, said, strict=True) if line.startswith("edge-ws ")]


def test_an_installed_wheel_runs_it(program: Path, tmp_path: Path) -> None:
    with (
        closing(_Production(tmp_path)) as production,
        _Demo(program, tmp_path, "--keep", "-o", "json", **production.environment()) as demo,
    ):
        demo.wait_for("\n")
        wait_until(lambda: "Ctrl-C ends all processes" in demo.err)
        # What it offers to paste leads to it, and to nothing else that the shell may know.
        listed, changed, status, by_http = _paste(demo)
        demo.process.send_signal(signal.SIGINT)
        assert demo.end() == 0, demo.err
        assert demo.left() == []
        assert production.is_untouched()

    assert _row(listed)["concurrency"] == "12"
    assert changed.startswith(f"{WORKER}: concurrency 4; applied in ")
    assert status.startswith(f"worker       {WORKER}: idle\n")
    assert "0 of 4 in use" in status
    assert _row(by_http)["concurrency"] == "4"

    told: dict[str, Any] = json.loads(demo.out)
    assert demo.out.count("\n") == 1
    assert (told["tasks"], told["succeeded"], told["transport"]) == (10, 10, "websocket")
    assert 0 < told["push_ms_p50"] <= told["push_ms_max"]
    assert told["push_ms_p50"] < told["start_ms_p50"]
    assert told["concurrency_applied_ms"] > 0
    assert set(told) == {
        *("tasks", "succeeded", "transport"),
        *("push_ms_p50", "push_ms_max", "start_ms_p50", "concurrency_applied_ms"),
    }

    # For people, without a terminal: a line for each task, and where the logs are.
    assert f"connected: {WORKER} by websocket" in demo.err
    rows = [line.split() for line in demo.err.splitlines() if f" {WORKER} " in line and " success " in line]
    assert len(rows) == 10
    assert "transform [press-3]" in demo.err
    assert "\x1b" not in demo.err
    (root,) = demo.folder.glob("edge-ws-demo-*")
    assert demo.err.endswith(f"all processes have ended; left to read: {root}\n")
    for folder in (root / "logs", root / "centre" / "logs"):
        assert str(folder) in demo.err
    # The worker ran with --log-level debug: neither its token nor those of the tasks are in what it says.
    said = (root / "logs" / "worker.log").read_text()
    assert "offer: claim=" in said
    assert (root / "worker" / "token").read_text().strip() not in said
    assert "eyJ" not in said
    report = next((root / "centre" / "logs").rglob("task_id=aggregate/attempt=1.log")).read_text()
    assert "press-3" in report
    assert "Traceback" not in demo.err


def _row(table: str) -> dict[str, str]:
    """Read a table of one row; its summary stands below."""
    head, _, row = ([cell.strip() for cell in line.split("|")] for line in table.splitlines()[:3])
    return dict(zip(head, row, strict=True))


def test_a_part_that_fails_is_named(program: Path, tmp_path: Path) -> None:
    with _Demo(program, tmp_path) as demo:
        demo.wait_for("migrating the database")
        (migrate,) = wait_until(
            lambda: [one for one in psutil.Process(demo.process.pid).children() if "migrate" in one.cmdline()]
        )
        # Once it has said something: that is what is shown.
        log = next(demo.folder.glob("edge-ws-demo-*/logs")) / "migrate.log"
        wait_until(lambda: log.stat().st_size, 60.0)
        migrate.kill()
        assert demo.end() == 1
        assert demo.left() == []
    *shown, sentence = demo.err.splitlines()
    assert sentence == (
        f"edge-ws: the demo's migrate failed: it ended by signal 9; all logs are in {log.parent}"
    )
    assert f"The end of {log}:" in shown
    assert any(line.startswith("  | ") for line in shown)


def test_ctrl_c_amid_the_run(program: Path, tmp_path: Path) -> None:
    with _Demo(program, tmp_path) as demo:
        demo.wait_for("triggered a run")
        wait_until(lambda: list(demo.folder.rglob("task_id=transform/**/attempt=1.log")), 60.0)
        demo.process.send_signal(signal.SIGINT)
        assert demo.end() == 130
        assert demo.left() == []
    assert demo.out.splitlines()[-1].startswith("stopping; logs: ")
    assert demo.err == ""
