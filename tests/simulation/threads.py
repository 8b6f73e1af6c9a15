"""How a gateway's code calls the store: in virtual time, each verb a moment later, by a gateway that may die meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from edge_ws.errors import UnreachableError

GoOn = Callable[[Any, Exception | None], None]


def settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


class Call:
    """A verb that a coroutine waits for."""

    def __init__(self, verb: Callable[[], Any]) -> None:
        self.verb = verb

    def __await__(self) -> Generator[Call, Any, Any]:
        return (yield self)


class ThreadLimit:
    """What `server.work.ThreadLimit` is: calls of verbs, but in virtual time, and by a gateway that may die meanwhile."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway

    async def run(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = Call(lambda: verb(*args, **kwargs))
        return await call if self._gateway.is_stepping else await self._gateway.called(call)


class Lane:
    """What `server.batches.Batches` is: what arrives while a batch is written goes into the next."""

    def __init__(
        self,
        gateway: Any,
        write: Callable[[list[Any]], list[Any]],
        answer: Callable[[Any, Any], None],
        most: int = 500,
        *,
        left: Callable[[Any], None],
    ) -> None:
        self._gateway, self._write, self._answer, self._most = gateway, write, answer, most
        self._left = left
        self._items: list[Any] = []
        self._busy = False

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._next()

    def _next(self) -> None:
        if self._items and not self._busy:
            self._busy = True
            batch, self._items = self._items[: self._most], self._items[self._most :]
            self._gateway.spawn(self._one(batch))

    async def _one(self, batch: list[Any]) -> None:
        try:
            answers = await Call(lambda: self._write(batch))
        except UnreachableError:
            pass
        else:
            for item, answer in zip(batch, answers, strict=True):
                self._answer(item, answer)
        for item in batch:
            self._left(item)
        self._busy = False
        self._next()
