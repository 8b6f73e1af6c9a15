"""argparse's parser, and the console script as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ws.cli import main
from edge_ws.cli.main import build
from edge_ws.cli.verb import Side, leaves
from edge_ws.cli.verbs import VERBS
from tests.support.programs import clean_environment, run_edge_ws


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        build().parse_args(words)
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert not told.out
    return told.err


def test_help_lists_every_verb_under_its_side(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    side = None
    found = {}
    for line in text.splitlines():
        side = next((one for one in Side if line == f"{one.value}:"), None if not line else side)
        if side and line.startswith("  "):
            found[line[2:].split("  ")[0]] = side
    assert found == {words: verb.side for words, verb in leaves(VERBS)}


@pytest.mark.parametrize("words", [words for words, _ in leaves(VERBS)])
def test_each_verb_explains_itself(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words.split(), "--help"])
    assert caught.value.code == 0
    # A long name has a line for itself.
    assert capsys.readouterr().out.split()[: len(words.split()) + 2] == ["usage:", "edge-ws", *words.split()]


def test_a_verb_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: VERB" in _refused(capsys)
    assert "required: VERB" in _refused(capsys, "token")


def test_unknown_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice: 'frobnicate'" in _refused(capsys, "frobnicate")
    assert "invalid choice: 'steal'" in _refused(capsys, "token", "steal")
    assert "invalid int value: 'x'" in _refused(capsys, "set-worker-concurrency", "-H", "w", "-c", "x")
    assert "required: -c/--concurrency" in _refused(capsys, "set-worker-concurrency", "-H", "w")


def test_a_flag_is_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments" in _refused(capsys, "worker", "--token", "x")
    assert "unrecognized arguments" in _refused(capsys, "worker", "--conc", "3")


@pytest.mark.parametrize("words", ["set-worker-concurrency -c 3", "shutdown-remote-edge-worker", "list-jobs"])
@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_name(capsys: pytest.CaptureFixture[str], words: str, name: str) -> None:
    assert "-H/--edge-hostname: name a worker" in _refused(capsys, *words.split(), "-H", name)


@pytest.mark.parametrize(
    "words",
    [
        "set-worker-concurrency -c 3 -H a -H a",
        "show-worker --edge-hostname a -H b",
        "list-jobs -H a -H b",
        "add-worker-queues -H a -q a -q b",
        "list-workers -q a -q b",
        "list-workers -s idle -s running",
        "token create n -q a -q b",
    ],
)
def test_what_would_be_lost_without_a_word_is_refused(capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert ": give it once: only the last one would count" in _refused(capsys, *words.split())


def test_values_reach_the_verb() -> None:
    found = build().parse_args(
        ["set-worker-concurrency", "-H", "w", "-c", "3", "-w", "--wait-timeout", "1.5"]
    )
    assert (found.edge_hostname, found.concurrency, found.wait, found.wait_timeout) == (["w"], 3, True, 1.5)
    assert found.output == "plain"
    assert found.verb.name == "set-worker-concurrency"


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path)
    assert run_edge_ws("version", environment=environment).stdout.startswith("edge-ws ")
    refused = run_edge_ws("frobnicate", environment=environment)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
