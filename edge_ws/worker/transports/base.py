"""What the link needs of a transport: open a channel, send and receive frames, close."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol

import orjson

from edge_ws.errors import RefusedError
from edge_ws.protocol.frames import Refusal, ServerFrame, WorkerFrame
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import Close
from edge_ws.worker.transports.sizes import Sizes

ERROR_HEADER = "edge-ws-error"
"""On every refusal of a gateway, with its code: an answer without it is somebody else's."""


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
    sizes: Sizes
    """What is known of messages on this way."""

    def open(self, worker: WorkerName, token: str) -> AbstractAsyncContextManager[Channel]:
        """Open a channel, closed at the end of the block.

        Raises:
            UnreachableError: no answer, or one that is not a gateway's.
            RefusedError: a gateway refused the credential or cannot serve now.
        """
        ...


def own_refusal(where: str, code: str, body: bytes) -> RefusedError:
    """Return the refusal that an HTTP answer with our marker holds, as far as it can be read."""
    # A proxy may have repeated the header.
    code = code.partition(",")[0].strip()
    sentence, retry_after_s = code, None
    with suppress(ValueError, LookupError, TypeError):
        told = orjson.loads(body)
        sentence = str(told["sentence"])
        retry_after_s = float(told["retry_after_s"])
    if retry_after_s is not None and not 0 <= retry_after_s < math.inf:
        retry_after_s = None
    return refusal(where, code, sentence, retry_after_s)


def refusal(where: str, code: str, sentence: str, retry_after_s: float | None) -> RefusedError:
    """Return a server's refusal as an error whose sentence says where it came from and what to do."""
    if code == Refusal.TOKEN.value:
        sentence = f"token refused by {where} ({sentence}); at the centre: airflow edge-ws token create"
    else:
        sentence = f"refused by {where}: {sentence}"
    return RefusedError(code, sentence, retry_after_s=retry_after_s)
