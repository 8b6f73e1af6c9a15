"""What tokens may admit, and how tokens are shown."""

from __future__ import annotations

import json

import pytest

from edge_ws.cli.centre import TokenRequest, parse_expires, token_request, token_rows
from edge_ws.errors import UsageError
from edge_ws.store.records import TokenRecord

# Tokens


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("1m", 60), ("3650d", 315_360_000)],
)
def test_expires(text: str, seconds: float) -> None:
    assert parse_expires(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "90",
        "d",
        "90 d",
        "90s",
        "-1d",
        "+1d",
        "1.5d",
        "1d12h",
        "0d",
        "0m",
        "3651d",
        "99999999h",
        "9" * 40 + "d",
        "٣d",
    ],
)
def test_absurd_expires(text: str) -> None:
    with pytest.raises(UsageError, match="--expires: "):
        parse_expires(text)


def _request(name: str, **more: str) -> TokenRequest:
    asked: dict[str, str | None] = {"pattern": None, "queues": None, "team": None, "expires": None}
    return token_request(name, **{**asked, **more})


def test_a_name_admits_the_worker_of_that_name() -> None:
    request = _request("press-2")
    assert (request.name, request.worker_pattern) == ("press-2", "press-2")
    assert (request.queues, request.team, request.expires_in_s) == (None, None, None)
    assert request.told() == (
        "token 'press-2' admits workers named press-2, every queue, any team, until it is revoked"
    )


def test_a_pattern_admits_others() -> None:
    request = _request("line 4", pattern="line4-*", queues="a, b,a", team="red", expires="2h")
    assert (request.worker_pattern, request.queues, request.team) == ("line4-*", ("a", "b"), "red")
    assert request.expires_in_s == 7200
    assert "line4-*, queues a, b, team red, until 20" in request.told()


@pytest.mark.parametrize("name", ["", "two words", "a*", "-x", "x" * 65, "größe", "a\nb"])
def test_without_a_pattern_the_name_must_be_a_workers(name: str) -> None:
    with pytest.raises(UsageError, match="--worker-name-pattern"):
        _request(name)


@pytest.mark.parametrize("name", ["", " a", "a\nb", "x" * 251])
def test_a_token_needs_a_printable_name(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a token"):
        _request(name, pattern="*")


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"pattern": ""}, "--worker-name-pattern: ''"),
        ({"pattern": "a b"}, "--worker-name-pattern: 'a b'"),
        ({"pattern": "[ab]"}, "--worker-name-pattern: "),
        ({"pattern": "x" * 251}, "--worker-name-pattern: "),
        ({"queues": ""}, "--queues: ''"),
        ({"queues": "a,,b"}, "--queues: ''"),
        ({"queues": "q" * 257}, "--queues: "),
        ({"team": ""}, "--team-name: ''"),
        ({"team": "t" * 65}, "--team-name: "),
        ({"expires": "soon"}, "--expires: 'soon'"),
    ],
)
def test_wrong_bounds_name_their_flag(more: dict[str, str], part: str) -> None:
    with pytest.raises(UsageError) as caught:
        _request("press-2", **more)
    assert str(caught.value).startswith(part)


def _token(**more: float | None) -> TokenRecord:
    return TokenRecord(
        id="i",
        name="n",
        worker_pattern="w*",
        queues=("a",),
        team=None,
        created_at=0.0,
        expires_at=more.get("expires_at"),
        revoked_at=more.get("revoked_at"),
    )


def test_tokens_are_shown_with_their_state() -> None:
    tokens = [
        _token(),
        _token(expires_at=100.0),
        _token(expires_at=99.0),
        _token(expires_at=99.0, revoked_at=5.0),
    ]
    rows = token_rows(tokens, now=99.5)
    assert [row["state"] for row in rows] == ["valid", "valid", "expired", "revoked"]
    assert rows[1]["expires"] == "1970-01-01T00:01:40+00:00"
    assert rows[0]["queues"] == ["a"]
    json.dumps(rows)
