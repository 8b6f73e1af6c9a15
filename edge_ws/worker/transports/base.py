"""What the link needs of a transport: open a channel, send and receive frames, close."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from edge_ws.errors import RefusedError
from edge_ws.protocol.frames import Refusal, ServerFrame, WorkerFrame
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import Close
from edge_ws.worker.transports.sizes import Sizes


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


def refused_by(where: str, code: str, sentence: str, retry_after_s: float | None = None) -> RefusedError:
    """Return a gateway's refusal as an error whose sentence says where it came from and what to do."""
    if code == Refusal.TOKEN.value:
        sentence = f"token refused by {where} ({sentence}); at the centre: airflow edge-ws token create"
    else:
        sentence = f"refused by {where}: {sentence}"
    return RefusedError(code, sentence, retry_after_s=retry_after_s)
