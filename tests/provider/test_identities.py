"""JWTs of an identity provider: whom they name, and each way to come by one that is not the provider's."""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from typing import Any

import jwt
import pytest

from edge_ws.errors import RefusedError, TokenRefusedError
from edge_ws.provider.identities import JwtIdentities, WorkerTokenContext
from edge_ws.provider.jwks import KeySet
from edge_ws.server.ports import Identity
from tests.support.identity_provider import ISSUER, Provider, ec_key, jwk, public_pem, rsa_key, settings


@pytest.fixture
def provider() -> Provider:
    return Provider()


def _identities(provider: Provider, verifier: Any = None, **changes: Any) -> JwtIdentities:
    told = settings(**changes)
    keys = KeySet(told.jwks_url, told.algorithms, fetch=lambda _: provider.body())
    identities = JwtIdentities(told, verifier, keys)
    identities.refresh()
    return identities


def _refused(identities: JwtIdentities, secret: str, worker: str = "w1") -> RefusedError:
    assert identities.takes(secret)
    with pytest.raises(RefusedError) as caught:
        identities.identify(secret, worker)
    assert secret not in str(caught.value)
    return caught.value


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_a_jwt_names_a_worker(provider: Provider) -> None:
    identities = _identities(provider, leeway_s=10.0)
    for kid in ("r", "e"):
        found = identities.identify(provider.sign(kid=kid), "w1")
        assert (found.queues, found.team) == (None, None)
        assert found.expires_at == pytest.approx(time.time() + 610, abs=30)


def test_tokens_of_ours_are_left_to_the_store(provider: Provider) -> None:
    assert not _identities(provider).takes("edgews_" + "x" * 43)


# Attacks


def test_the_public_key_is_no_shared_secret(provider: Provider) -> None:
    """Algorithm confusion: what everybody knows would sign for everybody."""
    pem = public_pem(provider.keys["r"])
    head, claims = {"alg": "HS256", "kid": "r", "typ": "JWT"}, provider.claims()
    signing = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    for secret in (pem, pem.strip(), json.dumps(jwk("r", provider.keys["r"])).encode()):
        message = f"{_part(head)}.{_part(claims)}"
        signature = base64.urlsafe_b64encode(signing.sign(message.encode(), secret)).decode().rstrip("=")
        error = _refused(_identities(provider), f"{message}.{signature}")
        assert "algorithm" in str(error)


def test_a_jwt_without_a_signature_is_none(provider: Provider) -> None:
    for none in ("none", "None", "NONE", "", None, ["RS256"], {"alg": "RS256"}, 1):
        secret = f"{_part({'alg': none, 'kid': 'r'})}.{_part(provider.claims())}."
        assert not isinstance(_refused(_identities(provider), secret), TokenRefusedError)


def test_a_key_that_the_jwt_brings_along_is_not_heeded(provider: Provider) -> None:
    own = rsa_key("attacker")
    for headers in (
        {"jwk": jwk("r", own)},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9/cert", "x5c": ["MIIB"]},
    ):
        assert "signature" in str(_refused(_identities(provider), provider.sign(key=own, headers=headers)))


def test_a_key_is_used_with_its_own_algorithm_only(provider: Provider) -> None:
    secret = provider.sign(kid="r", key=ec_key("e"), algorithm="ES256")
    assert "publishes no key" in str(_refused(_identities(provider), secret))
    secret = provider.sign(kid="r", algorithm="RS512")
    assert "algorithm" in str(_refused(_identities(provider), secret))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"life_s": -1.0}, "expired"),
        ({"nbf": time.time() + 3600}, "not valid yet"),
        ({"iat": time.time() + 3600}, "not valid yet"),
        ({"iss": "https://other.example.com"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"aud": "api"}, "audience"),
        ({"aud": None}, "aud"),
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"sub": "w2"}, "does not admit w1"),
        ({"sub": "*"}, "does not admit w1"),
        ({"sub": "W1"}, "does not admit w1"),
        ({"sub": None}, "does not admit w1"),
    ],
)
def test_wrong_claims(provider: Provider, changes: dict[str, Any], part: str) -> None:
    error = _refused(_identities(provider), provider.sign(**changes))
    assert part in str(error)
    # Its signature is right: who comes is worth a line in the log.
    assert isinstance(error, TokenRefusedError)


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "sub", "aud", "iss", "jti"])
@pytest.mark.parametrize("value", [1e400, -1e400, 10**400, "x", True, [], {}, [["a"]], "\0", "\x1b[2J"])
def test_odd_claims_of_the_provider_are_no_fault(provider: Provider, claim: str, value: Any) -> None:
    identities = _identities(provider, queues_claim="q", team_claim="t")
    claims = {**provider.claims(), "q": "a", "t": "red", claim: value}
    secret = jwt.api_jws.encode(json.dumps(claims).encode(), provider.keys["e"], "ES256", {"kid": "e"})
    with suppress(RefusedError):
        identities.identify(secret, "w1")
    assert str(_refused(identities, secret, "w2")).isprintable()


@pytest.mark.parametrize(
    "secret",
    [
        "..",
        "a.b.c",
        "\0.\0.\0",
        base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.e30",
        base64.urlsafe_b64encode(b'{"alg":"RS256","kid":' + b"[" * 9000).decode() + ".e30.e30",
        f"{_part({'alg': 'RS256'})}.e30.e30",
        f"{_part({'alg': 'RS256', 'kid': 'r', 'crit': ['b64'], 'b64': False})}..e30",
        "x" * 200_000 + ".e30.e30",
    ],
    ids=range(8),
)
def test_garbage(provider: Provider, secret: str) -> None:
    error = _refused(_identities(provider), secret)
    assert (error.code, isinstance(error, TokenRefusedError)) == ("token", False)


def test_leeway(provider: Provider) -> None:
    secret = provider.sign(life_s=-20.0)
    assert _identities(provider, leeway_s=60.0).identify(secret, "w1").expires_at > time.time()
    assert "expired" in str(_refused(_identities(provider, leeway_s=5.0), secret))


def test_without_an_audience_of_ours_only_a_jwt_without_one_is_taken(provider: Provider) -> None:
    identities = _identities(provider, audience=None)
    identities.identify(provider.sign(aud=None), "w1")
    assert "audience" in str(_refused(identities, provider.sign()))


# Keys that are not there


def test_what_cannot_be_known_now_is_no_wrong_token(provider: Provider) -> None:
    told = settings()
    identities = JwtIdentities(told, None, KeySet(told.jwks_url, told.algorithms, fetch=lambda _: b"garbage"))
    error = _refused(identities, provider.sign())
    assert (error.code, error.retry_after_s) == ("unavailable", 1.0)
    identities.refresh()
    error = _refused(identities, provider.sign())
    assert (error.code, error.retry_after_s) == ("unavailable", 10.0)


# What claims mean


def test_a_pattern_says_where_the_name_is(provider: Provider) -> None:
    identities = _identities(provider, worker_claim="spiffe", worker_pattern="spiffe://*/edge/<worker>")
    assert identities.identify(provider.sign(spiffe="spiffe://a.example/edge/w1"), "w1")
    for other in ("spiffe://a.example/edge/w10", "spiffe://a.example/edge/", "x spiffe://a/edge/w1", ["w1"]):
        _refused(identities, provider.sign(spiffe=other))


def test_one_identity_for_a_fleet(provider: Provider) -> None:
    identities = _identities(provider, worker_pattern="edge-fleet")
    for name in ("w1", "w2"):
        assert identities.identify(provider.sign("edge-fleet"), name)
    _refused(identities, provider.sign("w1"), "w1")


@pytest.mark.parametrize(("value", "queues"), [(["a", "b"], {"a", "b"}), ("a,b", {"a", "b"}), ("a", {"a"})])
def test_queues_and_team(provider: Provider, value: Any, queues: set[str]) -> None:
    identities = _identities(provider, queues_claim="edge_queues", team_claim="edge_team")
    found = identities.identify(provider.sign(edge_queues=value, edge_team="red"), "w1")
    assert (found.queues, found.team) == (queues, "red")


@pytest.mark.parametrize("value", [None, [], "", ["a", 3], ["a,b"], [" a"], {"a": 1}, True])
def test_a_claim_that_does_not_limit_refuses(provider: Provider, value: Any) -> None:
    identities = _identities(provider, queues_claim="edge_queues")
    assert "names no queues" in str(_refused(identities, provider.sign(edge_queues=value)))
    identities = _identities(provider, team_claim="edge_team")
    if value != ["a,b"]:
        assert "names no team" in str(_refused(identities, provider.sign(edge_team=value)))


def test_the_sites_own_verifier_has_the_last_word(provider: Provider) -> None:
    seen: list[tuple[str, WorkerTokenContext]] = []

    def verifier(claims: dict[str, Any], context: WorkerTokenContext) -> dict[str, Any]:
        seen.append((claims["iss"], context))
        return {"authorized": claims["client_id"] == "edge"}

    identities = _identities(provider, verifier, issuer=None)
    assert isinstance(identities.identify(provider.sign(client_id="edge"), "w1"), Identity)
    assert seen == [(ISSUER, WorkerTokenContext(method="connect", worker="w1"))]
    _refused(identities, provider.sign(client_id="other"))
    # What it raises, or returns besides a true `authorized`, refuses.
    _refused(identities, provider.sign())
    for answer in (None, {}, {"authorized": "no"}, {"authorized": False}):
        _refused(_identities(provider, lambda *_, told=answer: told), provider.sign())
    # It is asked about nobody whose signature is wrong.
    _refused(_identities(provider, verifier), provider.sign(key=rsa_key("attacker"), client_id="edge"))
    assert len(seen) == 3
