"""What both sides of an HTTP request agree on: paths, headers, hold time, the form of a refusal.

PROTOCOL.md describes them; this is the only place in the code where they stand.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

PREFIX = "/edge-ws"
"""Below Airflow's base URL, where a gateway answers; the paths below follow it."""
WEBSOCKET_PATH = "/v1/ws"
POLL_PATH = "/v1/poll"
SEND_PATH = "/v1/send"
WHOAMI_PATH = "/v1/whoami"
ADMIN_PATH = "/v1/admin"
HEALTH_PATH = "/health"

TOKEN_HEADER = "edge-ws-token"  # noqa: S105 - a header's name
"""The worker's secret. Airflow's middlewares add and read `Authorization` themselves."""
WORKER_HEADER = "edge-ws-worker"
"""The name of the worker that sends the request."""
ERROR_HEADER = "edge-ws-error"
"""On every refusal of a gateway, with its code: an answer without it comes from something else on the way."""
CONNECTION_HEADER = "edge-ws-connection"
"""Names a worker's connection by long-poll; the gateway gives it in its first answer."""
ANSWER_HEADER = "edge-ws-answer"
"""The number of an answer to a poll; the next poll repeats it, which confirms that it arrived."""
HOLD_HEADER = "edge-ws-hold"
"""Seconds after which the worker wants an answer to its poll at the latest."""
ELSEWHERE_HEADER = "edge-ws-elsewhere"
"""On the answer to statements: the worker's poll is held by another gateway, which has not heard them."""
CLOSE_HEADER = "edge-ws-close"
"""On the last answer of a connection: the close code and its reason."""

HOLD_BEATS = 5 / 3
"""Heartbeat intervals for which a poll is held at most: 25 s by default."""
JSON = "application/json"
UPGRADE_REQUIRED = "upgrade_required"
"""The code of the answer to a plain GET where a WebSocket was meant."""


class RefusalBody(NamedTuple):
    """The body of an HTTP refusal, and its code in `ERROR_HEADER`."""

    code: str
    sentence: str
    retry_after_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the body."""
        return {"error": self.code, "sentence": self.sentence, "retry_after_s": self.retry_after_s}

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        marked = {ERROR_HEADER: self.code}
        if self.retry_after_s is not None:
            marked["retry-after"] = str(round(self.retry_after_s))
        return marked


def read_refusal(marker: str, body: bytes) -> RefusalBody:
    """Return the refusal that an answer with that `ERROR_HEADER` holds, as far as it can be read."""
    # A proxy may have repeated the header.
    code = marker.partition(",")[0].strip()
    sentence, retry_after_s = code, None
    with suppress(ValueError, LookupError, TypeError):
        told = orjson.loads(body)
        sentence = str(told["sentence"])
        retry_after_s = float(told["retry_after_s"])
    if retry_after_s is not None and not 0 <= retry_after_s < math.inf:
        retry_after_s = None
    return RefusalBody(code, sentence, retry_after_s)
