"""The generators of edge-ws's side: many workers in one process that speak the real protocol.

`python -m tests.bench.(websocket|longpoll)_fleet URL TOKEN`, then asked by lines (see `control`). The workers
run every job at once to its end: accept, `go`, started, its ack, finished, its ack. Knows no transport.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import uvloop

from edge_ws.errors import RemoteProtocolError
from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Applied,
    Finished,
    Go,
    Held,
    Hello,
    Inventory,
    Offer,
    PhaseIs,
    Query,
    Refused,
    ServerFrame,
    Stale,
    Started,
    Welcome,
    Wish,
    WorkerFrame,
)
from edge_ws.protocol.ids import PROTOCOL, ClaimId, HostId, SiteId, WorkerName, new_id
from edge_ws.protocol.states import Phase
from edge_ws.worker.transport_choice import READY_RESETS_S, Pauses
from tests.bench.control import obey, raise_file_limit, until

LOOK_S = 0.5
"""Between looks at whose heartbeat is due, and what has to be said again."""
RESEND_S = 10.0
"""What was not acknowledged for so long is said again, as the daemon does."""
_SUBJECT = re.compile(r'"ti":\{"id":"([^"]+)"')


class Record:
    """What the fleet has seen since it was last reset."""

    def __init__(self) -> None:
        self.offers: list[tuple[int, str]] = []
        self.applied: list[tuple[str, int, int]] = []
        self.ended = 0
        self.last_end_ns = 0
        self.stale = 0
        self.said_again = 0


@dataclass
class Job:
    """A claim at a worker: what was last reported of it, and when."""

    phase: Phase
    said_at: float


class Fleet:
    """All workers."""

    def __init__(self, url: str, token: str, make: type[Worker]) -> None:
        self.url = url
        self.token = token
        self.record = Record()
        self.errors: Counter[str] = Counter()
        self.workers: list[Worker] = []
        self._make = make
        self.ready = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, worker: Worker) -> None:
        task = asyncio.create_task(worker.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def connect(self, count: int, *, queues: str, slots: int, at_once: int, within_s: float) -> float:
        """Connect more workers, some at a time; return the seconds until all were ready."""
        begun = time.monotonic()
        first = len(self.workers)
        for number in range(first, first + count):
            queue = f"q{number}" if queues == "each" else "q0"
            worker = self._make(self, f"bench-{number}", queue, slots)
            self.workers.append(worker)
            self.spawn(worker)
            await until(lambda beyond=number + 1 - at_once: self.ready > beyond, within_s)
        await self.wait_ready(len(self.workers), within_s - (time.monotonic() - begun))
        return time.monotonic() - begun

    async def wait_ready(self, count: int, within_s: float) -> dict[str, Any]:
        """Wait until so many are ready."""
        if not await until(lambda: self.ready >= count, within_s):
            raise TimeoutError(f"{self.ready} of {count} workers are ready; errors: {dict(self.errors)}")
        return {"at_ns": time.monotonic_ns(), "errors": dict(self.errors)}

    async def wait_gone(self, within_s: float) -> int:
        """Wait until none is ready; return how many still are."""
        await until(lambda: self.ready == 0, within_s)
        return self.ready

    async def wait_ended(self, count: int, within_s: float) -> dict[str, Any]:
        """Wait until so many jobs have ended since the reset, or the time is up."""
        await until(lambda: self.record.ended >= count, within_s)
        record = self.record
        return {
            "ended": record.ended,
            "last_ns": record.last_end_ns,
            "stale": record.stale,
            "said_again": record.said_again,
        }

    async def wait_offers(self, count: int, within_s: float) -> list[tuple[str, int]]:
        """Wait for so many offers since the reset; return who was offered when, as far as they came."""
        await until(lambda: len(self.record.offers) >= count, within_s)
        found = [(_SUBJECT.search(payload), at_ns) for at_ns, payload in self.record.offers]
        return [(match[1], at_ns) for match, at_ns in found if match]

    async def wait_applied(
        self, wishes: list[tuple[str, int]], within_s: float
    ) -> list[tuple[str, int, int]]:
        """Wait until each was in force since the reset; return who had which concurrency in force when."""
        wanted = {(name, concurrency) for name, concurrency in wishes}
        await until(lambda: wanted <= {one[:2] for one in self.record.applied}, within_s)
        return self.record.applied

    async def reset(self) -> None:
        """Begin a new record."""
        self.record = Record()

    async def beat_for_ever(self) -> None:
        """Send every worker's heartbeat when it is due."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for worker in self.workers:
                await worker.tick(now)


class Ended(Exception):  # noqa: N818 - never leaves the fleet
    """A connection is over."""

    def __init__(self, why: str, come_back_s: float | None = None) -> None:
        super().__init__(why)
        self.come_back_s = come_back_s


class Worker(ABC):
    """One simulated worker."""

    def __init__(self, fleet: Fleet, name: str, queue: str, slots: int) -> None:
        self.fleet = fleet
        self.name = WorkerName(name)
        self.outgoing: list[WorkerFrame] = []
        self._host = HostId(new_id())
        self._held: dict[ClaimId, Job] = {}
        self._slots = slots
        self._inventory = Inventory(
            site=SiteId(new_id()),
            hosts=(self._host,),
            dead_hosts=(),
            claims=(),
            revision=0,
            concurrency=slots,
            queues=(queue,),
            stale_slots=0,
            draining=False,
        )

    # What a transport does

    @abstractmethod
    async def serve(self) -> None:
        """Connect, count as ready, and hand what arrives to `take`, until the connection is over."""

    @abstractmethod
    async def tick(self, now: float) -> None:
        """Do what is due by the clock."""

    def send(self, frame: WorkerFrame) -> None:
        """Queue a frame; `serve` and `tick` send what is queued."""
        self.outgoing.append(frame)

    # The worker

    async def run(self) -> None:
        """Connect for ever, with the daemon's own pauses."""
        pauses = Pauses()
        while True:
            opened_at = time.monotonic()
            try:
                await self.serve()
            except Ended as error:
                self.fleet.errors[str(error)] += 1
                if error.come_back_s is not None:
                    # As the daemon does (worker/link.py): the server's word goes before the backoff.
                    await asyncio.sleep(error.come_back_s * random.uniform(1.0, 1.5))
                    continue
            except (OSError, EOFError, RemoteProtocolError, TimeoutError) as error:
                self.fleet.errors[type(error).__name__] += 1
            if time.monotonic() - opened_at >= READY_RESETS_S:
                pauses.steady()
            await asyncio.sleep(pauses.next_s((), 0.0, time.monotonic()))

    def hello(self) -> Hello:
        """Return the greeting with what is held now."""
        concurrency, queues = self._inventory.concurrency, self._inventory.queues
        return Hello(
            protocol=PROTOCOL,
            oldest_protocol=PROTOCOL,
            worker=self.name,
            team=None,
            concurrency=concurrency,
            queues=queues,
            inventory=self.stated(),
            sysinfo={"concurrency": concurrency},
        )

    def stated(self) -> Inventory:
        """Return the inventory with what is held now."""
        held = tuple(
            Held(claim=claim, phase=job.phase, log_end=0, host=self._host)
            for claim, job in self._held.items()
        )
        return replace(self._inventory, claims=held)

    def say_again(self, now: float) -> None:
        """Queue what has had no answer for long."""
        for claim, job in list(self._held.items()):
            if now - job.said_at >= RESEND_S:
                self.fleet.record.said_again += 1
                self._report(claim, job.phase)

    def take(self, frame: ServerFrame, at_ns: int) -> None:
        """Do what the server says; it came at that time."""
        match frame:
            case Offer():
                self.fleet.record.offers.append((at_ns, frame.payload))
                self._report(frame.claim, Phase.OFFERED)
            case Go():
                self._report(frame.claim, Phase.STARTED)
            case Ack(phase=Phase.STARTED):
                self._report(frame.claim, Phase.ENDED)
            case Ack():
                if self._held.pop(frame.claim, None) is not None:
                    self.fleet.record.ended += 1
                    self.fleet.record.last_end_ns = time.monotonic_ns()
            case Stale():
                self.fleet.record.stale += 1
                self._held.pop(frame.claim, None)
            case Query():
                job = self._held.get(frame.claim)
                phase = job.phase if job else Phase.UNKNOWN
                self.send(PhaseIs(claim=frame.claim, phase=phase, host=self._host))
            case Welcome():
                self._apply(frame.wish)
                for claim, job in list(self._held.items()):
                    self._report(claim, job.phase)
            case Wish():
                self._apply(frame)
            case Refused():
                self.fleet.errors[f"refused: {frame.sentence}"] += 1
            case _:
                return

    def _report(self, claim: ClaimId, phase: Phase) -> None:
        """Say how far the job is: an offered one is accepted, a started one has started, an ended one ended."""
        self._held[claim] = Job(phase, time.monotonic())
        match phase:
            case Phase.STARTED:
                self.send(Started(claim=claim, host=self._host))
            case Phase.ENDED:
                self.send(Finished(claim=claim, exit_code=0, log_end=0))
            case _:
                self.send(Accept(claim=claim, host=self._host))

    def _apply(self, wish: Wish) -> None:
        slots = self._slots if wish.concurrency is None else wish.concurrency
        self._inventory = replace(self._inventory, revision=wish.revision, concurrency=slots)
        concurrency, queues = self._inventory.concurrency, self._inventory.queues
        self.fleet.record.applied.append((self.name, concurrency, time.monotonic_ns()))
        self.send(Applied(revision=wish.revision, concurrency=concurrency, queues=queues))


async def _serve(make: type[Worker], url: str, token: str) -> None:
    raise_file_limit()
    fleet = Fleet(url, token, make)
    beats = asyncio.create_task(fleet.beat_for_ever())
    verbs = ("connect", "wait_ready", "wait_gone", "wait_ended", "wait_offers", "wait_applied", "reset")
    await obey({name: getattr(fleet, name) for name in verbs})
    beats.cancel()


def main(make: type[Worker]) -> None:
    """Run a generator of such workers; its arguments are the gateway's URL and a token."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(make, sys.argv[1], sys.argv[2]))
