"""Workers' JWTs of an identity provider (OpenID Connect): verified, and their claims made into limits.

Implements `server.ports.Identities`. PyJWT checks signature and times; which keys and algorithms it may use
is decided here, never by the JWT: its header names one of them, no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import jwt

from edge_ws.errors import RefusedError, TokenRefusedError
from edge_ws.protocol.frames import Refusal
from edge_ws.protocol.ids import is_queue_name, is_team_name
from edge_ws.provider.config import IdentitySettings
from edge_ws.provider.jwks import SOONEST_S, KeySet, Missing
from edge_ws.server.ports import Identity

log = logging.getLogger(__name__)

WORKER = "<worker>"
"""In the pattern: the worker's name."""
LONGEST = 16 * 1024
"""Bytes of a JWT."""
LATEST = 2**53
"""Seconds since the epoch; what comes later is as good as never."""
SHOWN = 100
"""Characters of a claim in a sentence."""
SOON_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerTokenContext:
    """What a `jwt_verifier` is told besides the claims; a superset of what edge3 tells it."""

    method: str
    """What is asked for: `connect`."""
    worker: str
    """The worker's name."""


Verifier = Callable[[dict[str, Any], WorkerTokenContext], Mapping[str, Any] | None]
"""As edge3's: what it returns must have a true `authorized`."""


class JwtIdentities:
    """Judges JWTs; see `server.ports.Identities`."""

    def __init__(
        self, settings: IdentitySettings, verifier: Verifier | None = None, keys: KeySet | None = None
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._keys = keys or KeySet(settings.jwks_url, settings.algorithms)

    def takes(self, secret: str) -> bool:
        """Tell whether it is three parts with a dot between, which no token of edge-ws is."""
        return secret.count(".") == 2

    def is_due(self) -> bool:
        """Tell whether keys are to be fetched."""
        return self._keys.is_due()

    def refresh(self) -> None:
        """Fetch them."""
        self._keys.refresh()

    def identify(self, secret: str, worker: str) -> Identity:
        """Return what the JWT admits a worker of that name to."""
        claims = self._verified(secret)
        issuer = _shown(claims.get("iss"))
        try:
            self._admit(claims, worker)
            return Identity(
                queues=self._queues(claims),
                team=self._team(claims),
                expires_at=min(int(claims["exp"]), LATEST) + self._settings.leeway_s,
            )
        except RefusedError as error:
            raise TokenRefusedError(error.code, str(error), f"a JWT of {issuer}") from None

    # Signature and times

    def _verified(self, secret: str) -> dict[str, Any]:
        """Return the claims of a JWT that the provider has signed, and that is good now."""
        settings = self._settings
        key, algorithm = self._key(secret)
        try:
            claims: dict[str, Any] = jwt.decode(
                secret,
                key,
                algorithms=[algorithm],
                issuer=settings.issuer,
                audience=settings.audience,
                leeway=settings.leeway_s,
                options={"require": ["exp", "iat", *(["iss"] if settings.issuer else [])]},
            )
        except jwt.InvalidSignatureError:
            raise _refuse("the JWT's signature is wrong") from None
        except (
            jwt.ExpiredSignatureError,
            jwt.ImmatureSignatureError,
            jwt.InvalidAudienceError,
            jwt.InvalidIssuerError,
            jwt.MissingRequiredClaimError,
        ) as error:
            # The signature was checked before.
            why = self._told(secret, error)
            raise TokenRefusedError(Refusal.TOKEN.value, why, "a JWT of the trusted provider") from None
        except Exception:  # noqa: BLE001 - a stranger's bytes in somebody else's code: none of that is a fault
            raise _refuse("it is no sound JWT") from None
        return claims

    def _key(self, secret: str) -> tuple[jwt.PyJWK, str]:
        """Return the key and the algorithm of a JWT by its header, of which nothing is true yet."""
        if len(secret) > LONGEST:
            raise _refuse(f"a JWT of more than {LONGEST} bytes")
        try:
            header = jwt.get_unverified_header(secret)
        except Exception:  # noqa: BLE001 - as above
            raise _refuse("it is no sound JWT") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._settings.algorithms:
            wanted = ", ".join(sorted(self._settings.algorithms))
            raise _refuse(f"the JWT's algorithm is {_shown(algorithm)}, not {wanted}")
        if not isinstance(kid, str):
            raise _refuse("the JWT does not name its key (kid)")
        found = self._keys.find(kid, algorithm)
        if not isinstance(found, Missing):
            return found, algorithm
        if found is Missing.UNKNOWN:
            raise _refuse(f"the identity provider publishes no key {_shown(kid)} for {algorithm}")
        away = found is Missing.AWAY
        sentence = "the identity provider's keys cannot be fetched" if away else "its keys are being fetched"
        raise RefusedError(
            Refusal.UNAVAILABLE.value,
            f"the JWT cannot be verified now: {sentence}",
            retry_after_s=SOONEST_S if away else SOON_S,
        )

    def _told(self, secret: str, error: jwt.InvalidTokenError) -> str:
        """Return what is wrong with a JWT whose signature is right."""
        match error:
            case jwt.ExpiredSignatureError():
                claims = jwt.decode(secret, options={"verify_signature": False})
                return f"the JWT expired {_time(claims.get('exp'))}"
            case jwt.ImmatureSignatureError():
                return "the JWT is not valid yet; do the clocks of the provider and this gateway agree?"
            case jwt.InvalidAudienceError():
                wanted = self._settings.audience
                return (
                    f"the JWT is for another audience than {wanted}" if wanted else "the JWT has an audience"
                )
            case jwt.InvalidIssuerError():
                return f"the JWT's issuer is not {self._settings.issuer}"
            case _:
                return f"the JWT has no claim {getattr(error, 'claim', '')}"

    # Claims

    def _admit(self, claims: dict[str, Any], worker: str) -> None:
        """Check that the JWT is for a worker of that name, and that the verifier agrees.

        Raises:
            RefusedError: it is not.
        """
        named = claims.get(self._settings.worker_claim)
        wanted = self._settings.worker_pattern.replace(WORKER, worker)
        if not isinstance(named, str) or not fnmatchcase(named, wanted):
            claim = self._settings.worker_claim
            raise _refuse(f"the JWT's claim {claim} is {_shown(named)}, which does not admit {worker}")
        if self._verifier is None:
            return
        try:
            answer = self._verifier(dict(claims), WorkerTokenContext(method="connect", worker=worker))
            is_authorized = answer is not None and answer.get("authorized") is True
        except Exception:
            # The site's own code, whatever it raises.
            log.exception("[edge_ws] jwt_verifier failed for worker %s", worker)
            is_authorized = False
        if not is_authorized:
            raise _refuse(f"[edge_ws] jwt_verifier does not admit {worker}")

    def _queues(self, claims: dict[str, Any]) -> frozenset[str] | None:
        claim = self._settings.queues_claim
        if not claim:
            return None
        found = claims.get(claim)
        names = found.split(",") if isinstance(found, str) else found
        if not isinstance(names, list) or not names or not all(_is_queue(one) for one in names):
            raise _refuse(f"the JWT's claim {claim} names no queues")
        return frozenset(names)

    def _team(self, claims: dict[str, Any]) -> str | None:
        claim = self._settings.team_claim
        if not claim:
            return None
        found = claims.get(claim)
        if not isinstance(found, str) or not is_team_name(found):
            raise _refuse(f"the JWT's claim {claim} names no team")
        return found


def _is_queue(name: object) -> bool:
    return isinstance(name, str) and is_queue_name(name)


def _refuse(sentence: str) -> RefusedError:
    return RefusedError(Refusal.TOKEN.value, sentence)


def _shown(value: object) -> str:
    """Return a stranger's value for a sentence: printable, and short."""
    text = value if isinstance(value, str) else "none" if value is None else "no text"
    return ascii(text[:SHOWN])


def _time(at: object) -> str:
    try:
        return datetime.fromtimestamp(float(at), UTC).isoformat(timespec="seconds")  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        return "long ago"
