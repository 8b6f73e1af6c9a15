"""Keys of an identity provider: fetched seldom, kept for a while, and only those that are good for something."""

from __future__ import annotations

import json
import logging
import socket
import threading
from contextlib import closing

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from edge_ws.errors import UnreachableError
from edge_ws.provider import jwks
from edge_ws.provider.jwks import KEEP_S, REFRESH_S, SOONEST_S, KeySet, Missing, fetch_set, read_set
from tests.support.identity_provider import Provider, jwk, providing, rsa_key
from tests.support.waiting import free_port

BOTH = frozenset({"RS256", "ES256"})


class Kept:
    """A set of keys by a clock that the test moves, and a provider that is asked without a network."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.provider = Provider()
        self.is_away = False
        self.keys = KeySet("https://idp/keys", BOTH, fetch=self._fetch, clock=lambda: self.now)

    def _fetch(self, url: str) -> bytes:
        self.provider.asked += 1
        if self.is_away:
            raise UnreachableError("away")
        return self.provider.body()

    def go_on(self, seconds: float) -> None:
        """Let time pass; the gateway looks four times a second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            self.keys.refresh()

    def has(self, kid: str, algorithm: str = "RS256") -> bool:
        return isinstance(self.keys.find(kid, algorithm), jwt.PyJWK)


@pytest.fixture
def kept() -> Kept:
    made = Kept()
    made.keys.refresh()
    return made


def test_nobody_waits_for_the_first_fetch() -> None:
    kept = Kept()
    assert kept.keys.find("r", "RS256") is Missing.NOT_YET
    assert kept.provider.asked == 0
    kept.keys.refresh()
    assert kept.has("r")


def test_a_known_key_costs_a_fetch_every_five_minutes(kept: Kept) -> None:
    for _ in range(3):
        assert all(kept.has("r") for _ in range(1000))
        kept.go_on(REFRESH_S)
    assert kept.provider.asked == 4


def test_a_flood_of_unknown_keys_is_no_amplifier(kept: Kept) -> None:
    for second in range(60):
        for number in range(200):
            assert kept.keys.find(f"{second}-{number}", "RS256") in {Missing.UNKNOWN, Missing.NOT_YET}
        kept.go_on(1.0)
    # 12,000 look-ups.
    assert kept.provider.asked <= 2 + 60 / SOONEST_S


def test_a_new_key_is_found_at_its_first_use(kept: Kept) -> None:
    kept.provider.keys["new"] = rsa_key("new")
    kept.provider.published.append("new")
    kept.go_on(SOONEST_S)
    assert kept.keys.find("new", "RS256") is Missing.NOT_YET
    kept.keys.refresh()
    assert kept.has("new")
    assert kept.keys.find("newer", "RS256") is Missing.UNKNOWN


def test_a_withdrawn_key_counts_no_more(kept: Kept) -> None:
    kept.provider.published.remove("r")
    kept.go_on(REFRESH_S)
    assert (kept.has("r"), kept.has("e", "ES256")) == (False, True)


def test_known_keys_go_on_for_a_while_when_the_provider_is_away(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.is_away = True
    kept.go_on(KEEP_S - 1)
    assert kept.has("r")
    assert kept.keys.find("other", "RS256") is Missing.AWAY
    kept.go_on(2 * SOONEST_S)
    assert kept.keys.find("r", "RS256") is Missing.AWAY
    # Once when it began, once when no key was left.
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    kept.is_away = False
    kept.go_on(SOONEST_S)
    assert kept.has("r")
    assert caplog.records[-1].levelno == logging.WARNING


def test_a_provider_that_is_away_at_the_start_is_asked_again(kept: Kept) -> None:
    kept = Kept()
    kept.is_away = True
    kept.go_on(60.0)
    assert 1 < kept.provider.asked <= 7
    assert kept.keys.find("r", "RS256") is Missing.AWAY
    kept.is_away = False
    kept.go_on(SOONEST_S)
    assert kept.has("r")


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"keys": 3}',
        b'{"keys": []}',
        b'{"keys": [null, 3, {}]}',
        b"[" * 5000,
        b"\xff\x00",
    ],
)
def test_garbage_changes_nothing(kept: Kept, garbage: bytes) -> None:
    kept.provider.garbage = garbage
    kept.go_on(2 * REFRESH_S)
    assert kept.has("r")


# What is a good key


def _read(*entries: object, algorithms: frozenset[str] = BOTH) -> set[tuple[str, str]]:
    good = jwk("good", rsa_key("r"))
    return set(read_set(json.dumps({"keys": [*entries, good]}).encode(), algorithms)) - {("good", "RS256")}


def test_shared_secrets_short_keys_and_keys_for_other_uses_are_left_out() -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    secret = {"kty": "oct", "kid": "s", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldC0"}
    right = jwk("r", rsa_key("r"))
    assert _read(right) == {("r", "RS256")}
    for wrong in (
        secret,
        {**secret, "alg": "RS256"},
        jwk("r", short),
        {**right, "use": "enc"},
        {**right, "alg": "RS512"},
        {**right, "alg": "HS256"},
        {**right, "kty": "EC"},
        {**right, "n": "!"},
        {**right, "kid": 3},
        {name: value for name, value in right.items() if name != "kid"},
    ):
        assert _read(wrong) == set(), wrong


def test_a_key_without_an_algorithm_is_good_for_all_of_its_kind() -> None:
    several = frozenset({"RS256", "RS512", "PS256", "ES256"})
    found = _read(jwk("r", rsa_key("r")), algorithms=several)
    assert {one for one in found if one[0] == "r"} == {("r", "RS256"), ("r", "RS512"), ("r", "PS256")}


# By the network


def test_it_is_fetched() -> None:
    with providing() as provider:
        assert fetch_set(provider.url) == provider.body()


def test_what_is_no_plain_answer_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with providing() as provider:
        provider.status = 302
        with pytest.raises(UnreachableError, match="HTTP status 302"):
            fetch_set(provider.url)
        assert provider.asked == 1
        provider.garbage = b" " * (jwks.LONGEST + 1)
        with pytest.raises(UnreachableError, match="larger than"):
            fetch_set(provider.url)
    with pytest.raises(UnreachableError, match="cannot be fetched"):
        fetch_set(f"http://127.0.0.1:{free_port()}/keys")


def test_a_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte, within the head: no time-out of single reads ends that."""
    monkeypatch.setattr(jwks, "ANSWER_WITHIN_S", 0.5)
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            while not over.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        try:
            with pytest.raises(UnreachableError, match="no complete answer"):
                fetch_set(f"http://127.0.0.1:{listener.getsockname()[1]}/keys")
        finally:
            over.set()
            thread.join()
