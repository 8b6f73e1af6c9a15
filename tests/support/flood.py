"""A worker that floods its gateway with frames, in a process of its own: `python -m tests.support.flood`.

It says what a worker may say, as fast as it is taken. Each line of its input names the kind from then on; once
it floods with that it prints `flooding <kind>`. The kind `nothing` is a pause. It ends with its input.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial

import httpx2
from websockets.asyncio.client import ClientConnection, connect

from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Accept,
    Applied,
    Asked,
    Bye,
    Finished,
    Hello,
    HostDead,
    Inventory,
    Log,
    NotStarted,
    Offer,
    PhaseIs,
    Refuse,
    Started,
    Status,
    Welcome,
    WorkerFrame,
)
from edge_ws.protocol.http import CONNECTION_HEADER, HOLD_HEADER, TOKEN_HEADER, WORKER_HEADER
from edge_ws.protocol.ids import ClaimId, HostId, SiteId, WorkerName, new_id
from edge_ws.protocol.states import Phase

NOTHING = "nothing"
AT_ONCE = 20
"""Requests that are open at a time, by long-poll."""
FRAMES = 100
"""In one message, but for logs."""
HOST = HostId("5f0c7f0e-0000-4000-8000-000000000003")
SITE = SiteId("5f0c7f0e-0000-4000-8000-000000000004")
"""The same for each flood: one worker comes again."""
INVENTORY = Inventory(
    site=SITE,
    hosts=(HOST,),
    dead_hosts=(),
    claims=(),
    revision=0,
    concurrency=4,
    queues=("flood",),
    stale_slots=0,
    draining=False,
)


def _claim() -> ClaimId:
    """Return a claim of somebody else, or of nobody."""
    return ClaimId(new_id())


def _applied(number: int) -> WorkerFrame:
    return Applied(revision=0, concurrency=number % 2, queues=("flood",))


def _status(number: int) -> WorkerFrame:
    return Status(inventory=replace(INVENTORY, stale_slots=number % 2), sysinfo={"n": number})


def _asked(number: int) -> WorkerFrame:
    return Status(inventory=replace(INVENTORY, asked=Asked(number=number, maintenance=number % 2 == 0)))


def _graves(_: int) -> WorkerFrame:
    return Status(inventory=replace(INVENTORY, dead_hosts=tuple(HostId(new_id()) for _ in range(20))))


KINDS: dict[str, Callable[[int], WorkerFrame]] = {
    "applied": _applied,
    "status": _status,
    "asked": _asked,
    "dead_hosts": _graves,
    "host_dead": lambda _: HostDead(host=HostId(new_id())),
    "accept": lambda _: Accept(claim=_claim(), host=HOST),
    "refuse": lambda _: Refuse(claim=_claim(), reason="no"),
    "started": lambda _: Started(claim=_claim(), host=HOST),
    "finished": lambda _: Finished(claim=_claim(), exit_code=1, log_end=0, detail="x" * 1000),
    "not_started": lambda _: NotStarted(claim=_claim(), reason="no"),
    "phase_is": lambda _: PhaseIs(claim=_claim(), phase=Phase.UNKNOWN),
    "log": lambda _: Log(claim=_claim(), offset=0, data=b"x" * codec.LOG_CHUNK),
}
"""What one kind of flood says; beside these there are `own_log` and `hello`."""
BY_POLL = ("status", "asked", "dead_hosts", "hello")
"""What comes by `v1/poll`; the rest comes by `v1/send`."""


def _own_log(claim: ClaimId) -> Iterator[bytes]:
    """Yield the log of its own job, a line of 64 KiB a chunk, without waiting to be acknowledged."""
    line = b"x" * (codec.LOG_CHUNK - 1) + b"\n"
    for number in itertools.count():
        yield codec.encode(Log(claim=claim, offset=number * codec.LOG_CHUNK, data=line))


def _messages(kind: str) -> Iterator[bytes]:
    numbers = itertools.count(1)
    frames = 1 if kind == "log" else FRAMES
    while True:
        yield codec.encode_batch([KINDS[kind](next(numbers)) for _ in range(frames)])


def _hello(name: str) -> Hello:
    return Hello(
        protocol=1,
        oldest_protocol=1,
        worker=WorkerName(name),
        team=None,
        concurrency=4,
        queues=("flood",),
        inventory=INVENTORY,
    )


async def by_websocket(url: str, headers: dict[str, str], kind: str) -> None:
    """Flood over one connection, or over one after the other."""
    address = url.replace("http", "ws", 1) + "/edge-ws/v1/ws"
    while True:
        async with connect(
            address, additional_headers=headers, compression=None, close_timeout=1
        ) as connection:
            await connection.send(codec.encode(_hello(headers[WORKER_HEADER])), text=True)
            (welcome, *_) = codec.decode_batch_from_server(await connection.recv())
            assert isinstance(welcome, Welcome), welcome
            if kind == "hello":
                await connection.send(codec.encode(Bye(reason="again")), text=True)
                _say(kind)
                continue
            messages = _own_log(await _own_claim(connection)) if kind == "own_log" else _messages(kind)
            reading = asyncio.create_task(_drain(connection))
            _say(kind)
            for message in messages:
                if reading.done():
                    break
                await connection.send(message, text=True)
                await asyncio.sleep(0)


async def _own_claim(connection: ClientConnection) -> ClaimId:
    """Take a job and start it."""
    while True:
        for frame in codec.decode_batch_from_server(await connection.recv()):
            if isinstance(frame, Offer):
                said: Sequence[WorkerFrame] = (
                    Accept(claim=frame.claim, host=HOST),
                    Started(claim=frame.claim, host=HOST),
                )
                for one in said:
                    await connection.send(codec.encode(one), text=True)
                return frame.claim


async def _drain(connection: ClientConnection) -> None:
    async for _ in connection:
        pass


async def by_longpoll(url: str, headers: dict[str, str], kind: str) -> None:
    """Flood by many requests at a time."""
    hello = _hello(headers[WORKER_HEADER])
    # Whatever the answer is, the next one is on its way.
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(limits=limits, timeout=60, headers=headers) as client:

        async def post(path: str, body: bytes, **more: str) -> httpx2.Response:
            told = {"content-type": "application/json", HOLD_HEADER: "0", **more}
            return await client.post(f"{url}/edge-ws/v1/{path}", content=body, headers=told)

        marks = {}
        if kind != "hello":
            greeted = await post("poll", codec.encode(hello))
            while CONNECTION_HEADER not in greeted.headers:
                # Requests of its last life are being taken in still.
                greeted = await post("poll", codec.encode(hello))
            marks = {CONNECTION_HEADER: greeted.headers[CONNECTION_HEADER]}
        messages = None if kind in BY_POLL else _messages(kind)
        numbers = itertools.count(1)

        async def flood() -> None:
            while True:
                if messages is not None:
                    await post("send", next(messages), **marks)
                    continue
                said = KINDS[kind](next(numbers)) if kind != "hello" else None
                inventory = said.inventory if isinstance(said, Status) else INVENTORY
                await post("poll", codec.encode(replace(hello, inventory=inventory)), **marks)

        _say(kind)
        await asyncio.gather(*(flood() for _ in range(AT_ONCE)))


def _say(kind: str) -> None:
    print(f"flooding {kind}", flush=True)


async def _follow(flood: Callable[[str], Coroutine[None, None, None]]) -> None:
    """Flood as the input says."""

    async def or_fail(kind: str) -> None:
        try:
            await flood(kind)
        except Exception:  # noqa: BLE001 - whoever started this reads it
            traceback.print_exc()
            os._exit(1)

    task: asyncio.Task[None] | None = None
    while kind := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            task = None
        if kind == NOTHING:
            _say(kind)
        else:
            task = asyncio.create_task(or_fail(kind))
    os._exit(0)


def main() -> None:
    """Flood until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--transport", choices=["websocket", "longpoll"], required=True)
    told = parser.parse_args()
    headers = {TOKEN_HEADER: told.token, WORKER_HEADER: told.worker}
    flood = by_websocket if told.transport == "websocket" else by_longpoll
    asyncio.run(_follow(partial(flood, told.url, headers)))


if __name__ == "__main__":
    main()
