"""Records on disk: whole or not at all, and never lost."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.worker.job import Record
from edge_ws.worker.job_names import JobName
from edge_ws.worker.outbox import Outbox

RECORD = Record(
    claim=ClaimId("c"),
    slots=2,
    phase=Phase.ENDED,
    host=HostId("h"),
    log_path="/log",
    log_start=5,
    exit_code=3,
    detail="why",
    subject=JobName(dag_id="d", run_id="r", task_id="t", map_index=2, try_number=3),
)


def test_a_record_survives(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    assert outbox.save(replace(RECORD, exit_code=None))
    assert outbox.save(RECORD)
    assert Outbox(tmp_path / "outbox").load() == [RECORD]
    outbox.drop(RECORD.claim)
    outbox.drop(RECORD.claim)
    assert outbox.load() == []


def test_dead_hosts_survive(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    assert outbox.load_dead() == []
    assert outbox.save_dead([HostId("h"), HostId("i")])
    assert Outbox(tmp_path / "outbox").load_dead() == ["h", "i"]
    assert outbox.load() == []


def test_records_are_private(tmp_path: Path) -> None:
    Outbox(tmp_path / "outbox")
    assert (tmp_path / "outbox").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"claim":"c"}', b'{"claim":"c","phase":"?"}'])
def test_an_unreadable_file_is_put_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path)
    outbox.save(RECORD)
    (tmp_path / "bad.json").write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert outbox.load() == [RECORD]
    assert (tmp_path / "bad.bad").read_bytes() == content
    assert f"the record of a job ({tmp_path}/bad.json): its content is not valid: " in caplog.text
    assert "moved to bad.bad" in caplog.text


def test_a_newer_format_is_read(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.save(RECORD)
    path = tmp_path / "c.json"
    path.write_bytes(path.read_bytes().replace(b'{"format":1', b'{"format":2,"later":[1]'))
    assert outbox.load() == [RECORD]


def test_an_older_format_names_no_subject(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.save(RECORD)
    path = tmp_path / "c.json"
    told = json.loads(path.read_bytes())
    del told["subject"]
    path.write_text(json.dumps(told))
    assert outbox.load() == [replace(RECORD, subject=None)]


def test_a_disk_that_takes_nothing_is_said_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path / "outbox")
    (tmp_path / "outbox").rmdir()
    assert not outbox.save(RECORD)
    assert "cannot keep the report" in caplog.text


def test_what_waits_for_the_centre_is_known(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    running = replace(RECORD, claim=ClaimId("r"), phase=Phase.STARTED)
    assert outbox.save(running)
    assert outbox.save(RECORD)
    assert outbox.waiting().entries == 1
    assert outbox.waiting().size == sum(path.stat().st_size for path in (tmp_path / "outbox").iterdir())
    # A later life takes up when it began to wait.
    path = tmp_path / "outbox" / "c.json"
    os.utime(path, (path.stat().st_mtime - 600.0,) * 2)
    later = Outbox(tmp_path / "outbox")
    later.load()
    assert later.waiting().entries == 1
    assert 600.0 <= later.waiting().oldest_s < 660.0
    assert later.save(replace(RECORD, detail="again"))
    assert later.waiting().oldest_s >= 600.0
    later.drop(RECORD.claim)
    assert (later.waiting().entries, later.waiting().oldest_s) == (0, 0.0)
