"""What the link needs of a transport: open a channel, send and receive frames, close."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol

import orjson

from edge_ws.errors import RefusedError
from edge_ws.protocol.frames import Refusal, ServerFrame, WorkerFrame
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import Close

ERROR_HEADER = "edge-ws-error"
"""On every refusal of a gateway, with its code: an answer without it is somebody else's."""
WRONG_URL = "wrong_url"
"""Code of a refusal by a server that is not ours."""


class Channel(Protocol):
    """An open way to one gateway."""

    @property
    def beats(self) -> bool:
        """Whether heartbeats must be sent; a way that asks all the time needs none."""
        ...

    async def send(self, frames: Sequence[WorkerFrame]) -> None:
        """Send frames in their order, waiting while the way is full.

        Raises:
            UnreachableError: the way is closed.
        """
        ...

    async def receive(self) -> Sequence[ServerFrame]:
        """Wait for the next frames.

        Raises:
            UnreachableError: the way is closed.
            RemoteProtocolError: the server sent what is no frame.
        """
        ...

    def retire(self) -> None:
        """Begin nothing new: another connection has taken over. What is on its way still arrives."""
        ...

    async def close(self, close: Close) -> None:
        """Close, saying why; never raises."""
        ...


class Transport(Protocol):
    """A kind of way, for one server."""

    name: str
    where: str
    """The server's base URL, for sentences."""

    def open(self, worker: WorkerName, token: str) -> AbstractAsyncContextManager[Channel]:
        """Open a channel, closed at the end of the block.

        Raises:
            UnreachableError: no answer, or none of ours.
            RefusedError: the server refused the credential or cannot serve now.
        """
        ...


def own_refusal(where: str, code: str, body: bytes) -> RefusedError:
    """Return the refusal that an HTTP answer with our marker holds."""
    sentence, retry_after_s = code, None
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        told = orjson.loads(body)
        sentence, retry_after_s = str(told["sentence"]), told.get("retry_after_s")
    return refusal(where, code, sentence, retry_after_s)


def stranger(status: str) -> RefusedError:
    """Return what the answer of a server that is not ours means; `status` says which answer that was."""
    return RefusedError(
        WRONG_URL,
        f"{status}: no edge-ws is there; --url is Airflow's base URL, and at the centre [edge_ws] "
        "api_enabled must be True (restart the api-server after a change)",
    )


def refusal(where: str, code: str, sentence: str, retry_after_s: float | None) -> RefusedError:
    """Return a server's refusal as an error whose sentence says where it came from and what to do."""
    if code == Refusal.TOKEN.value:
        sentence = f"token refused by {where} ({sentence}); at the centre: airflow edge-ws token create"
    else:
        sentence = f"refused by {where}: {sentence}"
    return RefusedError(code, sentence, retry_after_s=retry_after_s)
