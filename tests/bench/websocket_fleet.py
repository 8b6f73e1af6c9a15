"""The generator whose workers come by WebSocket; see `fleet`."""

from __future__ import annotations

import time
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from edge_ws.protocol import codec
from edge_ws.protocol.frames import Status, Welcome, WorkerFrame
from edge_ws.protocol.session import WorkerSession
from tests.bench.fleet import Ended, Fleet, Worker, main

OPEN_WITHIN_S = 10.0


class WebSocketWorker(Worker):
    """A worker with a WebSocket."""

    def __init__(self, fleet: Fleet, name: str, queue: str, slots: int) -> None:
        super().__init__(fleet, name, queue, slots)
        self._session = WorkerSession(0.0)
        self._connection: ClientConnection | None = None

    async def serve(self) -> None:
        try:
            await self._serve()
        except InvalidStatus as error:
            come_back = error.response.headers.get("retry-after")
            raise Ended(
                f"HTTP {error.response.status_code}", None if come_back is None else float(come_back)
            ) from error
        except ConnectionClosed as error:
            raise Ended(f"closed {error.rcvd.code if error.rcvd else 1006}") from error
        except WebSocketException as error:
            raise Ended(type(error).__name__) from error

    async def _serve(self) -> None:
        headers = {"edge-ws-token": self.fleet.token, "edge-ws-worker": self.name}
        async with connect(
            f"ws{self.fleet.url.removeprefix('http')}/v1/ws",
            additional_headers=headers,
            compression=None,
            max_size=codec.MAX_FRAME,
            open_timeout=OPEN_WITHIN_S,
            close_timeout=1.0,
            ping_interval=None,
        ) as connection:
            self._session = WorkerSession(time.monotonic())
            self.outgoing = []
            self._connection = connection
            self.send(self.hello())
            welcomed = False
            try:
                await self._flush()
                async for data in connection:
                    at_ns = time.monotonic_ns()
                    for frame in codec.decode_batch_from_server(data):
                        self._session.receive(frame, at_ns / 1e9)
                        if isinstance(frame, Welcome):
                            welcomed = True
                            self.fleet.ready += 1
                        self.take(frame, at_ns)
                    await self._flush()
            finally:
                self._connection = None
                if welcomed:
                    self.fleet.ready -= 1
            # The iteration ends in silence where the server said 1000 or 1001.
            raise ConnectionClosed(connection.protocol.close_rcvd, connection.protocol.close_sent)

    def send(self, frame: WorkerFrame) -> None:
        self._session.sending(frame, time.monotonic())
        super().send(frame)

    async def _flush(self) -> None:
        """Send what is waiting, as the real worker does: together."""
        frames, self.outgoing = self.outgoing, []
        if self._connection is not None:
            for message in codec.pack(frames):
                await self._connection.send(message, text=True)

    async def tick(self, now: float) -> None:
        """Send the heartbeat if it is due, and what was not acknowledged."""
        if self._connection is None:
            return
        with suppress(ConnectionClosed):
            self.say_again(now)
            due = self._session.tick(now)
            if due.close is not None:
                self.fleet.errors["the gateway is silent"] += 1
                await self._connection.close(due.close.code.value)
                return
            if due.beat:
                self.send(Status(inventory=self.stated(), sysinfo={"status": 20}))
            await self._flush()


if __name__ == "__main__":
    main(WebSocketWorker)
