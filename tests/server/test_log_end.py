"""What the end of a log says."""

from __future__ import annotations

import json

import pytest

from edge_ws.server.log_end import LogEnd, log_end


def lines(*entries: object) -> bytes:
    """Return a log of JSON objects, and of texts as they are."""
    return "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in entries).encode()


MISSING = {"level": "error", "event": "Dag not found during start up"}
LIMIT = {"level": "error", "event": "Startup reschedule limit exceeded"}
FAILED = {
    "level": "error",
    "event": "Task failed with exception",
    "error_detail": [{"exc_type": "ValueError", "exc_value": "the press jams"}],
}
BEGIN = {"level": "info", "event": "::group::Pre Execute"}
INFO = {"level": "info", "event": "::endgroup::"}


@pytest.mark.parametrize(
    ("log", "line", "is_error"),
    [
        (b"", "", False),
        (lines(INFO, "plain words"), "plain words", False),
        (lines("[1]", "null", "{"), "{", False),
        (lines(FAILED, INFO), "Task failed with exception: ValueError: the press jams", True),
        # The cause and its consequence, each once.
        (
            lines(MISSING, MISSING, LIMIT, INFO),
            "Dag not found during start up; Startup reschedule limit exceeded",
            True,
        ),
        # An earlier round's error is over.
        (lines(MISSING, BEGIN, INFO), "::endgroup::", False),
        (lines(MISSING, *[INFO] * 20), "::endgroup::", False),
        (lines({"level": "critical", "event": "x" * 500}), "x" * 199 + "…", True),
        (lines("a\x1b[2J  b"), "a [2J b", False),
        (b"\xff\xfe cut", "�� cut", False),
    ],
)
def test_the_end(log: bytes, line: str, is_error: bool) -> None:
    assert log_end(log) == LogEnd(line, is_error)
