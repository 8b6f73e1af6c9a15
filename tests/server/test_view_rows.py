"""Which queues a worker serves: those that both itself and its token name."""

from __future__ import annotations

import pytest

from edge_ws.server.view_rows import served
from tests.support.job_facts import a_token, a_worker


@pytest.mark.parametrize(
    ("own", "token", "both"),
    [
        (None, None, None),
        (("a", "b"), None, {"a", "b"}),
        (None, ("b",), {"b"}),
        (("a", "b"), ("b", "c"), {"b"}),
        (("a",), ("c",), set()),
    ],
)
def test_queues(own: tuple[str, ...] | None, token: tuple[str, ...] | None, both: set[str] | None) -> None:
    assert served(a_worker(queues=own, token=a_token(queues=token))) == both
    if token is None:
        assert served(a_worker(queues=own)) == both
