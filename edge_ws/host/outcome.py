"""What a task's supervisor tells Airflow of the task's end, and whether Airflow has taken it.

Airflow's supervisor gives up after some tries, swallows that and ends as if all were well: its exit code
tells how the process ended, and not whether Airflow knows the outcome. So its client is watched in the job's
process. An outcome that the Execution API has not answered is kept word for word; the worker's daemon
delivers it, and the supervisor goes on as if it were delivered. Imports no Airflow: it is handed the client's
class.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
from collections.abc import Callable
from typing import Any, Protocol

from edge_ws.host import task_log
from edge_ws.host.execution_api import Patience

_STATE = re.compile(r"(?:^|/)task-instances/[^/]+/state$")
_HEARTBEAT = re.compile(r"(?:^|/)task-instances/[^/]+/heartbeat$")
_START = re.compile(r"(?:^|/)task-instances/[^/]+/run$")
_KEPT_HEADERS = ("airflow-api-version", "content-type")
_GONE = frozenset({404, 410})

Call = dict[str, Any]
"""A request as the daemon repeats it: `method`, `path` below the Execution API's URL, `headers`, `body`."""


class Witness(Protocol):
    """Who is told of the task's outcome."""

    def telling(self, state: str, call: Call) -> None:
        """Airflow is being told that the task has come to that state."""

    def told(self) -> None:
        """Airflow has answered: it knows what became of the task."""

    def owed(self, why: str) -> None:
        """Airflow has not answered, and is not asked again from here."""


class Noted:
    """A witness that also tells the task's log of an outcome that waits; see `Witness`."""

    def __init__(self, witness: Witness, log_path: str | None) -> None:
        self._witness = witness
        self._log_path = log_path
        self._state = ""

    def telling(self, state: str, call: Call) -> None:
        """Pass it on."""
        self._state = state
        self._witness.telling(state, call)

    def told(self) -> None:
        """Pass it on."""
        self._witness.told()

    def owed(self, why: str) -> None:
        """Pass it on, and say so in the task's log."""
        self._witness.owed(why)
        if self._log_path is not None:
            sentence = f"Airflow has not taken the outcome {self._state} yet ({why}); the worker keeps it"
            with contextlib.suppress(Exception):  # Whatever it is, the outcome is kept.
                task_log.write(self._log_path, "warning", f"{sentence}, and delivers it as soon as it can")


class Watch:
    """Stands between the supervisor and its client."""

    def __init__(self, witness: Witness, patience: Patience) -> None:
        self._witness = witness
        self._patience = patience
        self.is_settled = False
        """Airflow knows the outcome, or will be told it, or has ended the task itself."""
        self._is_owed = False
        self._is_in_doubt = False
        """A try of the call under way broke off: it may have arrived."""

    def put_into(self, client: Any) -> None:  # noqa: ANN401 - Airflow's client class
        """Have all clients of that class go through this one."""
        send = client.send
        library = importlib.import_module(client.__bases__[0].__module__.partition(".")[0])

        def watching(request: Callable[..., Any]) -> Callable[..., Any]:
            def watched(this: Any, method: str, url: Any, *more: Any, **options: Any) -> Any:  # noqa: ANN401
                def go() -> Any:  # noqa: ANN401
                    with self._patience_for(method, str(url)):
                        return request(this, method, url, *more, **options)

                if method == "PATCH" and _STATE.search(str(url)):
                    call = _call(this, method, str(url), options)
                    taken = self._tell(call, go)
                    return taken or library.Response(204, request=library.Request(method, this.base_url))
                return self._beat(go) if method == "PUT" and _HEARTBEAT.search(str(url)) else go()

            return watched

        def sent(this: Any, *more: Any, **options: Any) -> Any:  # noqa: ANN401
            try:
                return send(this, *more, **options)
            except library.TransportError:
                self._is_in_doubt = True
                raise

        client.request, client.send = watching(client.request), sent

    def _patience_for(self, method: str, url: str) -> contextlib.AbstractContextManager[None]:
        if method == "PUT" and _HEARTBEAT.search(url):
            # The next one is sent in any case, and meanwhile the task is served; 3.4 does the same.
            return self._patience.tries(1)
        if self.is_settled or (method == "PATCH" and (_STATE.search(url) or _START.search(url))):
            # The daemon delivers the outcome, and the centre offers again what has not started. Once the
            # task is over, its slot is wanted.
            return self._patience.tries()
        return contextlib.nullcontext()

    def _tell(self, call: Call, go: Callable[[], Any]) -> Any | None:  # noqa: ANN401
        """Make the call; return the answer, None if the supervisor is to go on without one.

        Raises whatever the client makes of an answer with which Airflow itself refuses the outcome.
        """
        if self._is_owed:
            # Airflow takes the first outcome only: another one is what becomes of a process in its overtime.
            return None
        self._is_in_doubt = False
        self._witness.telling(_state_of(call), call)
        try:
            answer = go()
        except Exception as error:
            response = getattr(error, "response", None)
            if not is_verdict(response):
                self._owe(_why(error))
                return None
            self._settle()
            if self._is_in_doubt and getattr(response, "status_code", 0) in _GONE:
                # An earlier try has arrived: with the retry that it told the task has got another id.
                return None
            raise
        if not _is_acknowledgement(answer):
            self._owe(f"the answer of status {answer.status_code} is not Airflow's")
            return None
        self._settle()
        return answer

    def _settle(self) -> None:
        self.is_settled = True
        self._witness.told()

    def _owe(self, why: str) -> None:
        self.is_settled = self._is_owed = True
        self._witness.owed(why)

    def _beat(self, go: Callable[[], Any]) -> Any:  # noqa: ANN401
        try:
            return go()
        except Exception as error:
            # The supervisor stops the task now, and says no more of it.
            self.is_settled = self.is_settled or is_verdict(getattr(error, "response", None))
            raise


def is_verdict(response: Any) -> bool:  # noqa: ANN401 - the HTTP library's class
    """Tell whether Airflow itself answers that the task is not this process's (any more), or never was so.

    A proxy or another server behind the same name may answer with the same status, but not in Airflow's form.
    """
    status = getattr(response, "status_code", 0)
    if status not in {404, 409, 410, 422}:
        return False
    try:
        detail = response.json()["detail"]
    except Exception:  # noqa: BLE001 - no JSON, not read, another shape: not Airflow's in any case
        return False
    return (isinstance(detail, dict) and "reason" in detail) or (status == 422 and isinstance(detail, list))


def _is_acknowledgement(response: Any) -> bool:  # noqa: ANN401
    """Tell whether an answer of success is Airflow's: it has nothing to say; a login page has."""
    return response.status_code == 204 or response.content.strip() in {b"", b"null"}


def _call(client: Any, method: str, url: str, options: dict[str, Any]) -> Call:  # noqa: ANN401
    headers = {name: client.headers[name] for name in _KEPT_HEADERS if name in client.headers}
    body = options.get("content")
    if body is None:
        body = json.dumps(options.get("json"))
    text = body.decode() if isinstance(body, bytes) else str(body)
    return {
        "method": method,
        "path": url.lstrip("/"),
        "headers": {"content-type": "application/json", **headers},
        "body": text,
    }


def _state_of(call: Call) -> str:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return str(json.loads(call["body"])["state"])
    return "its state"


def _why(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the Execution API's URL answers with status {response.status_code}"
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
