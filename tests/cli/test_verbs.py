"""The verbs' data is sound."""

from __future__ import annotations

import importlib
from importlib import metadata

import pytest

from edge_ws.cli.main import require
from edge_ws.cli.verb import Side, Verb, leaves
from edge_ws.cli.verbs import VERBS
from edge_ws.worker.settings import SETTINGS

ALL = dict(leaves(VERBS))


def _flags(words: str) -> set[str]:
    return {flag for argument in ALL[words].arguments for flag in argument.flags}


def test_the_verbs_there_are() -> None:
    assert {words: verb.side for words, verb in ALL.items()} == {
        "worker": Side.REMOTE,
        "doctor": Side.REMOTE,
        "status": Side.REMOTE,
        "maintenance": Side.REMOTE,
        "stop": Side.REMOTE,
        "token create": Side.CENTRE,
        "token list": Side.CENTRE,
        "token revoke": Side.CENTRE,
        "token show": Side.CENTRE,
        "token rotate": Side.CENTRE,
        "token narrow": Side.CENTRE,
        "list-workers": Side.CENTRE,
        "show-worker": Side.CENTRE,
        "list-queues": Side.CENTRE,
        "list-jobs": Side.CENTRE,
        "show-job": Side.CENTRE,
        "events": Side.CENTRE,
        "figures": Side.CENTRE,
        "set-worker-concurrency": Side.CENTRE,
        "add-worker-queues": Side.CENTRE,
        "remove-worker-queues": Side.CENTRE,
        "remote-edge-worker-request-maintenance": Side.CENTRE,
        "remote-edge-worker-exit-maintenance": Side.CENTRE,
        "remote-edge-worker-update-maintenance-comment": Side.CENTRE,
        "shutdown-remote-edge-worker": Side.CENTRE,
        "shutdown-all-workers": Side.CENTRE,
        "remove-remote-edge-worker": Side.CENTRE,
        "pause-queue": Side.CENTRE,
        "resume-queue": Side.CENTRE,
        "db migrate": Side.CENTRE,
        "db check": Side.CENTRE,
        "server": Side.CENTRE,
        "check": Side.CENTRE,
        "demo": Side.ANYWHERE,
        "completion": Side.ANYWHERE,
        "version": Side.ANYWHERE,
    }


@pytest.mark.parametrize("verb", ALL.values(), ids=ALL)
def test_each_has_an_implementation(verb: Verb) -> None:
    module, _, function = verb.implementation.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("verb", ALL.values(), ids=ALL)
def test_each_extra_is_one_of_the_packages(verb: Verb) -> None:
    if verb.extra:
        require(verb.extra)  # raises KeyError for an extra it does not know
    if verb.works_bare:
        assert f"--{verb.works_bare.replace('_', '-')}" in {
            flag for argument in verb.arguments for flag in argument.flags
        }


def test_no_verb_takes_a_token_from_the_command_line() -> None:
    assert not [words for words in ALL if "--token" in _flags(words)]


def test_each_setting_of_the_worker_is_a_flag() -> None:
    assert {setting.flag for setting in SETTINGS} <= _flags("worker") & _flags("doctor")


def test_flags_have_edge3s_names() -> None:
    assert {"-H", "--edge-hostname", "-c", "--concurrency"} <= _flags("set-worker-concurrency")
    assert {"-H", "--edge-hostname", "-c", "--concurrency", "-q", "--queues", "-t", "--team-name"} <= _flags(
        "worker"
    )
    assert {
        *("-o", "--output", "-s", "--state", "--worker-name-pattern", "-q", "--queues"),
    } <= _flags("list-workers")
    for words in ("add-worker-queues", "remove-worker-queues"):
        assert {"-H", "--edge-hostname", "-q", "--queues"} <= _flags(words)
    for words in ("request-maintenance", "update-maintenance-comment"):
        assert {"-H", "--edge-hostname", "-c", "--comments"} <= _flags(f"remote-edge-worker-{words}")
    assert {"maintenance", "-c", "--comments", "-w", "--wait"} <= _flags("maintenance")
    assert {"-w", "--wait"} <= _flags("stop")
    assert {"-y", "--yes"} <= _flags("shutdown-all-workers")
    assert {"-q", "--queues", "-t", "--team-name", "--worker-name-pattern"} <= _flags("token create")


def test_the_console_script_is_ours() -> None:
    scripts = [one for one in metadata.entry_points(group="console_scripts") if one.name == "edge-ws"]
    assert {one.value for one in scripts} <= {"edge_ws.cli:main"}
