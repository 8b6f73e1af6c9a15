"""What a worker's secret looks like: a prefix by which scanners find leaked ones, and a checksum. Pure."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "edgews_"
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM = 43
"""Characters of base62: 256 bits."""
_CHECKSUM = 6
"""Characters of base62 that a CRC32 takes."""
_FORM = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{_RANDOM}}})([0-9A-Za-z]{{{_CHECKSUM}}})")
_OLD_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z_-]{{43}}")
"""Of secrets that were made before there was a checksum: they stay valid."""
_ANYWHERE = re.compile(rf"{PREFIX}[0-9A-Za-z_-]{{30,}}")
"""A secret within a text, or most of one."""


def new_secret() -> str:
    """Return a secret that nobody has seen."""
    body = "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return PREFIX + body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Tell whether that can be a secret at all; one that was cut or mistyped cannot."""
    found = _FORM.fullmatch(text)
    return found[2] == _checksum(found[1]) if found else _OLD_FORM.fullmatch(text) is not None


def hidden(text: str) -> str:
    """Return the text without the secrets in it: an operator may have given one where a name is meant."""
    return _ANYWHERE.sub(f"{PREFIX}***", text)


def hash_secret(secret: str) -> str:
    """Return what is stored of a secret. It has 256 random bits, so a fast hash without salt is safe."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM):
        rest, digit = divmod(rest, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
