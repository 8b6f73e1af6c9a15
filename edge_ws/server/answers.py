"""A gateway's HTTP refusals: one form for workers, operators and the relay."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.responses import JSONResponse

from edge_ws.errors import RefusedError, UnreachableError
from edge_ws.protocol.frames import Refusal
from edge_ws.protocol.http import RefusalBody

log = logging.getLogger(__name__)

FAILED = "the gateway failed at what this worker says; the gateway's log says more"
"""Told to a worker whose connection has met a fault of this program."""
_STATUS = {Refusal.TOKEN: 401, Refusal.NOT_ADMITTED: 403, Refusal.UNAVAILABLE: 503}


def refusal(
    status: int,
    code: str,
    sentence: str,
    retry_after_s: float | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an HTTP answer that refuses, marked as ours."""
    told = RefusalBody(code, sentence, retry_after_s)
    return JSONResponse(told.as_json(), status_code=status, headers={**told.headers(), **(headers or {})})


def refuse_worker(
    code: Refusal, sentence: str, retry_after_s: float | None = None, *, status: int | None = None
) -> JSONResponse:
    """Return the answer to a worker; its status is the code's unless one is given."""
    return refusal(status or _STATUS.get(code, 400), code.value, sentence, retry_after_s)


def answer_to(error: RefusedError | UnreachableError) -> JSONResponse:
    """Return the answer to a worker whose request failed so."""
    if isinstance(error, RefusedError):
        return refuse_worker(Refusal(error.code), str(error), error.retry_after_s)
    # Strangers read the answer: where the database is, is for the log only.
    log.warning("Cannot register a worker now; it will try again: %s", error)
    return refuse_worker(Refusal.UNAVAILABLE, "the gateway cannot reach its database", 5.0)
