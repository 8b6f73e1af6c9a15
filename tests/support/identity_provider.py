"""An identity provider (OpenID Connect) as far as JWTs go: it publishes keys over HTTP, and signs with them."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from edge_ws.provider.config import IdentitySettings

ISSUER = "https://idp.example.com"
AUDIENCE = "edge-ws"


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """Return the RSA key of that name; to make one takes a moment."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    del name
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return pem


def jwk(kid: str, key: Any, **more: str) -> dict[str, Any]:
    """Return the public key as it is published."""
    public = key.public_key()
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    algorithm = jwt.algorithms.RSAAlgorithm if is_rsa else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(public, as_dict=True), "kid": kid, **more}


class Provider:
    """Signs by the key `r` (RS256) or `e` (ES256), and answers as a test sets it."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"r": rsa_key("r"), "e": ec_key("e")}
        """Those that it signs with."""
        self.published = ["r", "e"]
        self.status = 200
        self.garbage: bytes | None = None
        self.asked = 0
        self.url = ""
        self.serving = True

    def body(self) -> bytes:
        if self.garbage is not None:
            return self.garbage
        return json.dumps({"keys": [jwk(kid, self.keys[kid]) for kid in self.published]}).encode()

    def claims(self, worker: str = "w1", *, life_s: float = 600.0, **changes: Any) -> dict[str, Any]:
        now = time.time()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": worker,
            "iat": now - 5,
            "exp": now + life_s,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def sign(
        self,
        worker: str = "w1",
        *,
        kid: str = "r",
        key: Any = None,
        algorithm: str | None = None,
        headers: dict[str, Any] | None = None,
        life_s: float = 600.0,
        **changes: Any,
    ) -> str:
        """Return a JWT; `changes` are claims, None leaves one out."""
        algorithm = algorithm or ("ES256" if kid == "e" else "RS256")
        claims = self.claims(worker, life_s=life_s, **changes)
        return jwt.encode(claims, key or self.keys[kid], algorithm, {"kid": kid, **(headers or {})})


def settings(url: str = "http://127.0.0.1/keys", **changes: Any) -> IdentitySettings:
    values: dict[str, Any] = {
        "jwks_url": url,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": frozenset({"RS256", "ES256"}),
        "leeway_s": 0.0,
        "worker_claim": "sub",
        "worker_pattern": "<worker>",
        "queues_claim": "",
        "team_claim": "",
    }
    return IdentitySettings(**{**values, **changes})


@contextmanager
def providing(port: int = 0) -> Iterator[Provider]:
    """Serve a provider's keys for the length of the block."""
    provider = Provider()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked += 1
            body = provider.body()
            self.send_response(provider.status)
            self.send_header("content-length", str(len(body)))
            if provider.status == 302:
                self.send_header("location", "/elsewhere")
                provider.status = 200
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    provider.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
