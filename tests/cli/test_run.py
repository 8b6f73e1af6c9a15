"""Extras, exit codes, and what a fresh interpreter loads."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from edge_ws import errors
from edge_ws.cli.main import INTERRUPTED, require, run
from edge_ws.cli.verb import Side, Verb
from tests.support.programs import PACKAGE, clean_environment, run_python, start_python
from tests.support.waiting import wait_until

VERB = Verb(name="do", help="do it", side=Side.ANYWHERE, implementation="tests.support.verbs:do")


def _run(what: Callable[[], int]) -> int:
    return run(VERB, Namespace(what=what), "prog")


def _raise(error: BaseException) -> Callable[[], int]:
    def what() -> int:
        raise error

    return what


def test_the_verbs_code_is_the_exit_code() -> None:
    assert _run(lambda: 0) == 0
    assert _run(lambda: 7) == 7


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EdgeWsError("it failed"), 1),
        (errors.UsageError("it failed"), 2),
        (errors.RefusedError("token", "it failed"), 3),
        (errors.UnreachableError("it failed"), 4),
        (errors.SchemaError("it failed"), 5),
        (errors.TimedOutError("it failed"), 1),
        (errors.RemoteProtocolError("it failed"), 1),
    ],
)
def test_an_error_is_one_sentence_and_a_code(
    error: errors.EdgeWsError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(_raise(error)) == code
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "prog: it failed\n")


def test_an_error_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_raise(errors.EdgeWsError("x\r\x1b[2J\ny"))) == 1
    assert capsys.readouterr().err == "prog: x  [2J y\n"


def test_a_missing_extra_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_raise(errors.MissingExtraError("worker", "apache-airflow-task-sdk"))) == 6
    assert "pip install 'edge-ws[worker]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "is_needed"), [(None, True), (False, True), (True, False), ("http://x", False), ("", False)]
)
def test_with_its_switch_a_verb_needs_no_extra(value: object, is_needed: bool) -> None:
    verb = replace(VERB, extra="one that there is not", works_bare="url")
    arguments = Namespace(what=lambda: 0, url=value)
    with pytest.raises(KeyError) if is_needed else nullcontext():
        assert run(verb, arguments, "prog") == 0


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        _run(lambda: 1 // 0)


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_raise(KeyboardInterrupt())) == INTERRUPTED
    assert capsys.readouterr().err == ""


def test_extras_that_are_here_are_found_without_importing_them(tmp_path: Path) -> None:
    require("worker")
    require("server")
    done = run_python(
        "-c",
        "import sys; from edge_ws.cli.main import require; require('worker'); require('server');"
        "print([m for m in sys.modules if m.split('.')[0] in ('airflow', 'sqlalchemy', 'alembic')])",
        environment=clean_environment(tmp_path),
    )
    assert done.stdout == "[]\n", done.stderr


# On an install without any extra: the interpreter without its site-packages


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(PACKAGE, folder / "edge_ws", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _run_bare(bare: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(bare, **more) | {"PYTHONPATH": str(bare)}
    return run_python("-S", "-m", "edge_ws.cli", *words, environment=environment)


def test_bare_worker_names_its_extra(bare: Path) -> None:
    done = _run_bare(bare, "worker", "--url", "http://localhost:1")
    assert (done.returncode, done.stdout) == (6, "")
    assert (
        done.stderr
        == "edge-ws: apache-airflow-task-sdk is not installed; run: pip install 'edge-ws[worker]'\n"
    )


@pytest.mark.parametrize("words", ["token list", "db migrate", "list-workers", "demo"])
def test_bare_centre_names_its_extra(bare: Path, words: str) -> None:
    done = _run_bare(bare, *words.split())
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == "edge-ws: apache-airflow is not installed; run: pip install 'edge-ws[server]'\n"


def test_bare_worker_shows_its_configuration(bare: Path) -> None:
    done = _run_bare(bare, "worker", "--show-config", "--url", "http://x", EDGE_WS_TOKEN="geheim")
    assert (done.returncode, done.stderr) == (0, "")
    assert "http://x" in done.stdout
    assert "geheim" not in done.stdout


def test_an_airflow_folder_is_not_taken_for_airflow(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "airflow" / "dags").mkdir(parents=True)
    environment = clean_environment(bare) | {"PYTHONPATH": f"{bare}:{tmp_path}"}
    done = run_python("-S", "-m", "edge_ws.cli", "worker", "--url", "http://x", environment=environment)
    assert done.returncode == 6


# What is loaded


@pytest.mark.parametrize(
    "modules",
    [
        "edge_ws.worker.config, edge_ws.worker.sysinfo, edge_ws.worker.network, edge_ws.worker.settings",
        "edge_ws.cli",
        "edge_ws.cli.airflow",
        "edge_ws.cli.worker",
    ],
)
def test_imports_nothing_heavy(modules: str, tmp_path: Path) -> None:
    heavy = ("airflow", "sqlalchemy", "starlette", "pydantic", "alembic", "fastapi", "asyncio")
    done = run_python(
        "-c",
        f"import sys, {modules}; print({{m.split('.')[0] for m in sys.modules}} & set({heavy!r}))",
        environment=clean_environment(tmp_path),
    )
    assert done.stdout == "set()\n", done.stderr


# Output that nobody reads


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    program = "import sys; from edge_ws.cli import main; input(); sys.exit(main(['version']))"
    environment = clean_environment(tmp_path)
    with start_python("-c", program, environment=environment, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("to", "part"),
    [
        (">/dev/full", "the result cannot be written to standard output: No space left on device"),
        (">&-", "the result cannot be shown: standard output is closed"),
    ],
)
@pytest.mark.parametrize("size", [1, 100_000])
def test_what_cannot_be_written_is_a_sentence(tmp_path: Path, to: str, part: str, size: int) -> None:
    program = (
        "import sys; from argparse import Namespace; from edge_ws.cli.output import tell\n"
        "from edge_ws.cli.main import run; from edge_ws.cli.verb import Side, Verb\n"
        "verb = Verb(name='do', help='', side=Side.ANYWHERE, implementation='tests.support.verbs:do')\n"
        f"sys.exit(run(verb, Namespace(what=lambda: tell({size} * 'x')), 'prog'))"
    )
    done = _shell(tmp_path, program, to)
    assert (done.returncode, done.stderr) == (1, f"prog: {part}\n")


@pytest.mark.parametrize(("to", "code"), [(">/dev/full", 1), (">&-", 0)])
def test_nor_is_what_a_verb_has_left_to_be_written(tmp_path: Path, to: str, code: int) -> None:
    program = (
        "import sys; from argparse import Namespace\n"
        "from edge_ws.cli.main import run; from edge_ws.cli.verb import Side, Verb\n"
        "verb = Verb(name='do', help='', side=Side.ANYWHERE, implementation='tests.support.verbs:do')\n"
        "sys.exit(run(verb, Namespace(what=lambda: print('x') or 0), 'prog'))"
    )
    done = _shell(tmp_path, program, to)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, code)


def _shell(folder: Path, program: str, to: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {to}', sys.executable, program],
        env=clean_environment(folder),
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_ctrl_c_ends_with_its_code(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time; from argparse import Namespace; from edge_ws.cli.main import run\n"
        # A shell has its background jobs ignore it, and their children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from edge_ws.cli.verb import Side, Verb\n"
        "verb = Verb(name='do', help='', side=Side.ANYWHERE, implementation='tests.support.verbs:do')\n"
        "what = lambda: print('ready', flush=True) or time.sleep(60)\n"
        "sys.exit(run(verb, Namespace(what=what), 'prog'))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=clean_environment(tmp_path),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert wait_until(lambda: process.poll() is not None)
        assert process.stderr.read() == ""
    assert process.returncode == INTERRUPTED
