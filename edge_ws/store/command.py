"""What the store reads in a workload's JSON: its subject, its log path, and the JSON without the token.

Everything else in it is opaque.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Parsed:
    """The parts of a command that the store needs."""

    subject: str
    """The task instance's id, or the callback's."""
    log_path: str
    payload: str
    """The JSON with an empty token."""


def parse(command: str) -> Parsed | None:
    """Return the parts, None if the command is not a workload's JSON."""
    try:
        body = orjson.loads(command)
        subject = (body.get("ti") or body["callback"])["id"]
        log_path = body.get("log_path") or ""
        payload = orjson.dumps({**body, "token": ""}).decode()
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return None
    if not isinstance(subject, str) or not isinstance(log_path, str):
        return None
    return Parsed(subject, log_path, payload)
