"""The shell completes by the script that we print: asked of a real bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_ws.cli import main
from edge_ws.cli.completion import script
from edge_ws.cli.verbs import VERBS

_ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_edge_ws
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "script"
    path.write_text(script())
    return path


def complete(path: Path, *words: str) -> list[str]:
    """Return what bash offers for the last word."""
    command = ["bash", "--norc", "-euc", _ASK, "bash", str(path), "edge-ws", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("list-",), ["list-workers", "list-queues", "list-jobs"]),
        (("token", ""), ["create", "list", "revoke", "show", "rotate", "narrow"]),
        (("token", "create", "--exp"), ["--expires"]),
        (("list-workers", "--sor"), ["--sort"]),
        (("list-workers", "-o", ""), ["table", "json", "yaml", "plain"]),
        (("list-workers", "-o", "json", "--lim"), ["--limit"]),
        (("maintenance", "o"), ["on", "off"]),
        (("completion", ""), ["bash", "zsh", "--help"]),
        # What only the user knows: the shell offers files.
        (("worker", "--token-file", ""), []),
        (("nonsense", ""), []),
    ],
)
def test_what_is_offered(completed: Path, words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(completed, *words) == offered


def test_every_verb_is_offered(completed: Path) -> None:
    assert complete(completed, "") == [one.name for one in VERBS]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_it_is_printed(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    told = capsys.readouterr().out
    assert told.endswith(script())
    assert ("bashcompinit" in told) is (shell == "zsh")
    if (found := shutil.which(shell)) is not None:
        subprocess.run([found, "-n"], input=told, text=True, check=True, timeout=30)
