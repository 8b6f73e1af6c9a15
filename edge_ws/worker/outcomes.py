"""Outcomes of tasks that Airflow has not taken yet, and their delivery to the Execution API.

A job's process keeps the request that Airflow has not answered; it is repeated here word for word, with a
token that the gateway mints for the claim. One try for each token: after a failed one the table is told, and
asks for another. Knows neither the table nor the link.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NoReturn, Protocol

import anyio
import orjson

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import ClaimId
from edge_ws.worker.network import Network, http_client

if TYPE_CHECKING:
    import httpx2

    from edge_ws.worker.actions import Action

log = logging.getLogger("edge_ws.worker")

TRY_WITHIN_S = 30.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
_NOT_OURS = frozenset({404, 409, 410, 422})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to the Execution API, but for its token."""

    method: str
    path: str
    """Below the API's base URL."""
    headers: dict[str, str]
    body: str


class Fate(Enum):
    """What a try has come to."""

    TAKEN = "taken"
    REFUSED = "refused"
    """Airflow answers that the task is not this claim's any more: there is nothing to deliver."""
    FAILED = "failed"
    """No answer of Airflow's."""


class Table(Protocol):
    """What hears of deliveries, and says what is to be done then."""

    def delivered(self, claim: ClaimId, fate: Fate, why: str) -> Sequence[Action]:
        """Airflow has answered; `why`: if it has refused."""

    def not_delivered(self, claim: ClaimId) -> Sequence[Action]:
        """A try has failed, and it is time for another one."""


class Deliveries:
    """Tries that are under way or wait for their turn."""

    def __init__(
        self, way: Callable[[], Network], table: Table, do: Callable[[Sequence[Action]], None]
    ) -> None:
        """`way`: to the Execution API as it is now, its base URL included; `do` carries actions out."""
        self._way = way
        self._table = table
        self._do = do
        self._tries: dict[ClaimId, int] = {}
        """Tries that have failed."""
        self._due: list[tuple[ClaimId, Call, str]] = []
        self._news = anyio.Event()

    def deliver(self, claim: ClaimId, call: Call, token: str) -> None:
        """Make one try."""
        self._due.append((claim, call, token))
        self._news.set()

    def forget(self, claim: ClaimId) -> None:
        """Nobody waits for the outcome any more."""
        self._tries.pop(claim, None)

    async def run(self) -> NoReturn:
        """Make the tries, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                due, self._due = self._due, []
                for claim, call, token in due:
                    tasks.start_soon(self._attempt, claim, call, token)
        raise AssertionError

    async def _attempt(self, claim: ClaimId, call: Call, token: str) -> None:
        fate, why = await self._try(call, token)
        if fate is not Fate.FAILED:
            self._tries.pop(claim, None)
            self._do(self._table.delivered(claim, fate, why))
            return
        failed = self._tries[claim] = self._tries.get(claim, 0) + 1
        log.log(
            logging.WARNING if failed == 1 else logging.DEBUG,
            "the outcome of claim %s is not delivered yet: %s; it is tried again until it is",
            claim,
            why,
        )
        pause_s = min(FIRST_PAUSE_S * 2 ** (failed - 1), LONGEST_PAUSE_S)
        await anyio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
        self._do(self._table.not_delivered(claim))

    async def _try(self, call: Call, token: str) -> tuple[Fate, str]:
        import httpx2  # noqa: PLC0415 - a worker whose line never breaks does not pay for it

        try:
            way = self._way()
            url = way.base_url.rstrip("/") + "/" + call.path
            headers = {**call.headers, "authorization": f"Bearer {token}"}
            async with http_client(way, timeout=TRY_WITHIN_S) as client:
                answer = await client.request(call.method, url, headers=headers, content=call.body.encode())
        except (httpx2.HTTPError, httpx2.InvalidURL, UsageError) as error:
            return Fate.FAILED, f"{type(error).__name__}: {error}"
        return judge(answer)


def judge(answer: httpx2.Response) -> tuple[Fate, str]:
    """Return what an answer means, and its words.

    A proxy or another server behind the same name may answer with any status, but not in Airflow's form: it
    has nothing to say to what it takes, and a reason for what it refuses.
    """
    status, content = answer.status_code, answer.content.strip()
    if status == 204 or (status == 200 and content in {b"", b"null"}):
        return Fate.TAKEN, ""
    try:
        detail = orjson.loads(content)["detail"]
    except (ValueError, LookupError, TypeError):
        return Fate.FAILED, f"the Execution API's URL answers with status {status}"
    is_reasoned = isinstance(detail, dict) and "reason" in detail
    if status in _NOT_OURS and (is_reasoned or (status == 422 and isinstance(detail, list))):
        words = detail.get("message", detail["reason"]) if isinstance(detail, dict) else "it is not valid"
        return Fate.REFUSED, str(words)
    return Fate.FAILED, f"the Execution API answers with status {status}: {str(detail)[:200]}"
