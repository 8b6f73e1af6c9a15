"""The public keys of an identity provider, fetched from its JSON Web Key Set (RFC 7517) and kept for a while.

Who looks for a key never waits for the network; `refresh` alone goes there, seldom, however many ask for keys
that are not there. Knows no tokens.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

import httpx2
import jwt

from edge_ws.errors import UnreachableError
from edge_ws.provider.config import JWT_KEYS

log = logging.getLogger(__name__)

REFRESH_S = 300.0
"""Between two fetches while all is well: for so long a key counts that the provider has withdrawn."""
SOONEST_S = 10.0
"""Between two fetches at the least, after a failure or for a key that is not known."""
KEEP_S = 3600.0
"""For so long the keys that are known go on while the provider cannot be asked."""
ANSWER_WITHIN_S = 5.0
LONGEST = 256 * 1024
"""Bytes of an answer."""
MOST_KEYS = 100
SHORTEST_RSA = 2048
"""Bits (RFC 7518, 3.3)."""

Keys = Mapping[tuple[str, str], jwt.PyJWK]
"""By the key's id and the algorithm that it is used with."""


class Missing(Enum):
    """Why a key is not found."""

    UNKNOWN = "unknown"
    """The provider does not publish it, as far as it was asked a moment ago."""
    NOT_YET = "not_yet"
    """That will be known soon."""
    AWAY = "away"
    """The provider cannot be asked."""


@dataclass(slots=True)
class _State:
    keys: Keys = field(default_factory=dict)
    fetched_at: float = -math.inf
    tried_at: float = -math.inf
    is_wanted: bool = True
    """Somebody has asked for a key that is not there, or nothing was fetched yet."""
    fault: str = ""
    """Of the last fetch."""


class KeySet:
    """The keys at one URL that are good for some algorithms. Threads may share it."""

    def __init__(
        self,
        url: str,
        algorithms: Collection[str],
        *,
        fetch: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._algorithms = algorithms
        self._fetch = fetch or fetch_set
        self._clock = clock
        self._state = _State()
        self._lock = threading.Lock()
        """Held for moments, never while something is fetched."""

    def find(self, kid: str, algorithm: str) -> jwt.PyJWK | Missing:
        """Return the key of that id, for that algorithm; if it is missing, it is looked for soon."""
        with self._lock:
            state, now = self._state, self._clock()
            found = state.keys.get((kid, algorithm))
            if found is not None and now - state.fetched_at < KEEP_S:
                return found
            if state.fault:
                return Missing.AWAY
            if state.is_wanted or now - state.tried_at >= SOONEST_S:
                state.is_wanted = True
                return Missing.NOT_YET
            return Missing.UNKNOWN

    def is_due(self) -> bool:
        """Tell whether `refresh` would fetch."""
        with self._lock:
            state, now = self._state, self._clock()
            wait_s = SOONEST_S if state.is_wanted or state.fault else REFRESH_S
            return now - state.tried_at >= wait_s

    def refresh(self) -> None:
        """Fetch the keys anew, if that is due; a failure is logged once, and keeps those that are known."""
        if not self.is_due():
            return
        with self._lock:
            self._state.tried_at = self._clock()
        try:
            keys, fault = read_set(self._fetch(self._url), self._algorithms), ""
        except UnreachableError as error:
            keys, fault = {}, str(error)
        with self._lock:
            before, now = self._state.fault, self._clock()
            self._state.fault = fault
            if not fault:
                self._state.keys, self._state.fetched_at, self._state.is_wanted = keys, now, False
            kept_s = KEEP_S - (now - self._state.fetched_at)
            is_over = fault and kept_s <= 0 and bool(self._state.keys)
            if is_over:
                self._state.keys = {}
        self._tell(before, fault, kept_s, is_over=bool(is_over))

    def _tell(self, before: str, fault: str, kept_s: float, *, is_over: bool) -> None:
        if is_over or (fault and not before):
            on = f"its keys go on for {kept_s / 60:.0f} min" if kept_s > 0 else "no JWT is taken"
            log.error("%s; %s, and it is asked again every %g s", fault, on, SOONEST_S)
        elif before and not fault:
            log.warning("The keys at %s are there again", self._url)


def read_set(body: bytes, algorithms: Collection[str]) -> dict[tuple[str, str], jwt.PyJWK]:
    """Return the keys of a JSON Web Key Set that are good for the algorithms; others are left out.

    Raises:
        UnreachableError: it is none, or none of its keys is good.
    """
    try:
        entries = json.loads(body)["keys"]
    except (ValueError, LookupError, TypeError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise UnreachableError("the answer of the identity provider is no JSON Web Key Set (jwks)")
    keys: dict[tuple[str, str], jwt.PyJWK] = {}
    for entry in entries[:MOST_KEYS]:
        for algorithm in sorted(algorithms):
            key = _key(entry, algorithm)
            if key is not None:
                # Of two keys of one id the first counts.
                keys.setdefault((str(key.key_id), algorithm), key)
    if not keys:
        wanted = ", ".join(sorted(algorithms))
        raise UnreachableError(f"the identity provider publishes no key for {wanted}; see jwt_algorithm")
    return keys


def _key(entry: object, algorithm: str) -> jwt.PyJWK | None:
    """Return the key if it is a public one that the algorithm may be used with."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
        return None
    kind, curve = JWT_KEYS[algorithm]
    fits = entry.get("kty") == kind and (curve is None or entry.get("crv") == curve)
    if not fits or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK(entry, algorithm)
    except Exception:  # noqa: BLE001 - whatever two libraries make of somebody else's numbers
        return None
    return key if kind != "RSA" or key.key.key_size >= SHORTEST_RSA else None


def fetch_set(url: str) -> bytes:
    """Return what is at the URL; redirects are not followed.

    Raises:
        UnreachableError: it cannot be had, is too large, or takes too long.
    """
    try:
        # A loop of its own: only so all of it has one deadline, however slowly it is answered.
        return asyncio.run(_fetch(url))
    except TimeoutError:
        why = f"no complete answer within {ANSWER_WITHIN_S:g} s"
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        why = str(error) or type(error).__name__
    raise UnreachableError(f"the identity provider's keys at {url} cannot be fetched: {why}")


async def _fetch(url: str) -> bytes:
    body = bytearray()
    async with (
        asyncio.timeout(ANSWER_WITHIN_S),
        httpx2.AsyncClient(verify=ssl.create_default_context()) as client,
        client.stream("GET", url, headers={"accept": "application/json"}) as answer,
    ):
        if answer.status_code != httpx2.codes.OK:
            raise httpx2.HTTPError(f"HTTP status {answer.status_code}")
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > LONGEST:
                raise httpx2.HTTPError(f"it is larger than {LONGEST} bytes")
    return bytes(body)
