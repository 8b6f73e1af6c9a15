"""Rows in Airflow's own audit log, read by Airflow's own model."""

from __future__ import annotations

import json
import os
import pwd
from typing import Any

import pytest
from airflow.models.log import Log
from airflow.utils.session import create_session

from edge_ws.cli import main
from edge_ws.store.store import Store
from tests.support.centre import Centre
from tests.support.workers import register_worker

WHO = pwd.getpwuid(os.getuid()).pw_name


def rows() -> list[tuple[str, str | None, dict[str, Any]]]:
    with create_session() as session:
        found = session.query(Log).filter(Log.event.like("%edge_ws%")).order_by(Log.id).all()
        assert all(one.dttm is not None for one in found)
        return [(one.event, one.owner, json.loads(one.extra)) for one in found]


@pytest.mark.usefixtures("centre")
def test_the_command_lines_changes_are_in_airflows_audit_log(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    register_worker(Store(centre.engine), "oven", queues=("a",))
    before = len(rows())
    assert main(["list-workers"]) == 0
    assert main(["set-worker-concurrency", "-H", "oven", "-c", "3"]) == 0
    assert main(["remove-remote-edge-worker", "-H", "oven"]) != 0
    wished, removed, refused = rows()[before:]
    assert wished[:2] == ("cli_edge_ws_set_worker_concurrency", WHO)
    assert (wished[2]["worker_name"], wished[2]["concurrency"]) == ("oven", 3)
    assert removed[0] == refused[0] == "cli_edge_ws_remove_remote_edge_worker"
    assert "refused" in refused[2]
    assert "refused" not in removed[2]


@pytest.mark.usefixtures("centre")
def test_tokens_verbs_are_there_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    before = len(rows())
    assert main(["token", "create", "press-9", "-q", "a", "--expires", "1d"]) == 0
    secret = capsys.readouterr().out.strip()
    assert main(["token", "revoke", "press-9"]) == 0
    assert main(["token", "revoke", "nothing"]) != 0
    created, revoked, asked, refused = rows()[before:]
    assert created[:2] == ("cli_edge_ws_token_create", WHO)
    assert (created[2]["name"], created[2]["queues"]) == ("press-9", ["a"])
    assert (revoked[0], revoked[2]["token"]) == ("cli_edge_ws_token_revoke", "press-9")
    assert (asked[2]["token"], "refused" in refused[2]) == ("nothing", True)
    assert len(secret) > 20
    assert secret not in json.dumps(rows())
