"""One worker floods the gateway through every frame in turn; another one, beside it, must not feel it much.

NOISY=<seconds> floods for so long with each frame, in all ways, and prints what it measured; 10 is the full form.
That one judges each flood by the seconds just before it: the good worker's p99 is at most three times what it was
then (or FLOOR_OF_P99_S, where it was next to nothing) and a second, its wishes take 2 s, the gateway has 64 MiB more
and /health is never bad. The short form, which runs beside other tests, judges medians.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Accept, Ack, Applied, Go, Log, LogAck, Offer, Started, Wish
from edge_ws.protocol.ids import ClaimId
from edge_ws.store.store import Store
from edge_ws.store.tables import worker
from tests.support.databases import USUAL_KINDS, Databases, using
from tests.support.flood import BY_POLL, KINDS, NOTHING
from tests.support.gateway import LogFolder, Peer, RunningGateway, Tasks, connected, make_token
from tests.support.programs import clean_environment
from tests.support.rows import enqueue, new_job
from tests.support.waiting import free_port, until, wait_until

pytestmark = pytest.mark.anyio

IS_LONG = "NOISY" in os.environ
FLOOD_S = float(os.environ.get("NOISY", "0.2"))
ROUNDS = 10
"""Of the good worker, while it is quiet."""
FEWEST = 3
"""Beside a flood."""
MORE_MEMORY = 64 * 1024 * 1024
QUIET_TIMES = 3
"""The good worker's median beside a flood may be so many times its slowest round without one."""
FLOOR_S = 1.0
"""What no flood is blamed for: the machine may be busy with other things."""
WISH_FLOOR_S = 4.0
FLOOR_OF_P99_S = 0.25
"""Three times a p99 of a few milliseconds is what one hiccup of the machine takes."""
LONGEST_P99_S = 1.0
LONGEST_WISH_S = 2.0
HEALTH_S = 0.5
"""Between two looks at /health."""
FLOODS = {
    # The first one needs a job; one of the others has the worker in maintenance.
    "websocket": ("own_log", *KINDS, "hello"),
    "longpoll": tuple(
        kind for kind in (*KINDS, "hello") if IS_LONG or kind in {*BY_POLL, "applied", "started", "log"}
    ),
}


@dataclass
class Process:
    """A gateway that can be weighed."""

    gateway: RunningGateway
    popen: subprocess.Popen[bytes]
    log: Path

    def memory(self, of: str) -> int:
        """Return bytes: of `VmRSS` now, of `VmHWM` at most."""
        told = Path(f"/proc/{self.popen.pid}/status").read_text()
        found = re.search(rf"{of}:\s+(\d+) kB", told)
        assert found is not None
        return int(found[1]) * 1024

    def health(self) -> int:
        with urllib.request.urlopen(f"{self.gateway.base_url}/edge-ws/health", timeout=30) as answer:
            return int(answer.status)


@contextmanager
def gateway_process(folder: Path, url: str) -> Iterator[Process]:
    port, log = free_port(), folder / "gateway.log"
    command = [sys.executable, "-m", "tests.support.gateway_process", "--database", url, "--port", str(port)]
    # Nobody asks for the states of tasks.
    command += ["--execution-api", "http://127.0.0.1:9/", "--logs", str(folder / "logs")]
    with log.open("wb") as told:
        popen = subprocess.Popen(command, env=clean_environment(folder), stdout=told, stderr=told)
    process = Process(RunningGateway(port, Tasks(), LogFolder()), popen, log)

    def serves() -> bool:
        assert popen.poll() is None, log.read_text()
        try:
            return process.health() == 200
        except OSError:
            return False

    try:
        wait_until(serves, 60)
        yield process
    finally:
        popen.terminate()
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


@dataclass
class Flood:
    """A worker that floods, and goes on to the next frame when it is told."""

    popen: subprocess.Popen[bytes]
    log: Path

    def begin(self, kind: str) -> None:
        assert self.popen.stdin is not None
        said = self.log.read_text().count(f"flooding {kind}\n")
        self.popen.stdin.write(f"{kind}\n".encode())
        self.popen.stdin.flush()
        wait_until(
            lambda: self.log.read_text().count(f"flooding {kind}\n") > said or self.popen.poll() is not None,
            60,
        )
        assert self.popen.poll() is None, self.log.read_text()


@contextmanager
def flooding(folder: Path, url: str, token: str, transport: str) -> Iterator[Flood]:
    words = ["--url", url, "--token", token, "--worker", "bad", "--transport", transport]
    command, log = [sys.executable, "-m", "tests.support.flood", *words], folder / f"{transport}.log"
    with log.open("wb") as told:
        popen = subprocess.Popen(
            command, env=clean_environment(folder), stdin=subprocess.PIPE, stdout=told, stderr=told
        )
    try:
        yield Flood(popen, log)
    finally:
        popen.kill()
        popen.communicate()


@dataclass
class Good:
    """A worker that runs one job, and what it takes it to be heard."""

    peer: Peer
    store: Store
    claim: ClaimId
    log_end: int = 0

    async def round(self) -> float:
        """Have a report and a log chunk acknowledged; return how long that takes."""
        begun = time.perf_counter()
        await self.peer.send(Started(claim=self.claim, host=self.peer.host))
        await self.peer.expect(Ack, 60)
        await self.peer.send(Log(claim=self.claim, offset=self.log_end, data=b"x" * 1000))
        self.log_end = (await self.peer.expect(LogAck, 60)).log_end
        return time.perf_counter() - begun

    async def rounds(self, for_s: float) -> list[float]:
        """Go on for so long; return how long each round took, the shortest first."""
        rounds: list[float] = []
        end = time.monotonic() + for_s
        while time.monotonic() < end or len(rounds) < FEWEST:
            rounds.append(await self.round())
        return sorted(rounds)

    async def wish(self, slots: int) -> float:
        """Wish for that many slots; return how long it takes until the database has them in force."""
        begun = time.perf_counter()
        await anyio.to_thread.run_sync(self.store.operators.wish_concurrency, "good", slots)
        wish = await self.peer.expect(Wish, 60)
        await self.peer.send(Applied(revision=wish.revision, concurrency=slots, queues=("q",)))
        in_force = sa.select(worker.c.applied_concurrency).where(worker.c.worker_name == "good")

        def is_noted() -> bool:
            with self.store._database.read() as connection:
                return bool(connection.execute(in_force).scalar_one() == slots)

        await until(is_noted, 60)
        return time.perf_counter() - begun


def p99(rounds_s: list[float]) -> float:
    return rounds_s[int(0.99 * (len(rounds_s) - 1))]


@dataclass(frozen=True)
class Measured:
    """What the good worker feels beside one flood."""

    flood: str
    rounds_s: list[float]
    wish_s: float
    more: int
    """Bytes of the gateway's memory."""
    before_s: float
    """Its p99 just before; in the short form its slowest round while nobody floods."""
    before_wish_s: float
    is_well: bool

    def __str__(self) -> str:
        return (
            f"{self.flood} rounds {len(self.rounds_s):5}, median {1e3 * statistics.median(self.rounds_s):6.0f} ms,"
            f" p99 {1e3 * p99(self.rounds_s):6.0f} ms (before {1e3 * self.before_s:4.0f} ms), wish"
            f" {1e3 * self.wish_s:6.0f} ms, memory +{self.more / 2**20:.0f} MiB"
            f"{'' if self.is_well else ', /health bad'}"
        )

    @property
    def is_too_much(self) -> bool:
        if self.more > MORE_MEMORY or not self.is_well:
            return True
        if IS_LONG:
            most_s = min(LONGEST_P99_S, max(FLOOR_OF_P99_S, QUIET_TIMES * self.before_s))
            return p99(self.rounds_s) > most_s or self.wish_s > LONGEST_WISH_S
        median_s = statistics.median(self.rounds_s)
        return median_s > max(FLOOR_S, QUIET_TIMES * self.before_s) or self.wish_s > max(
            WISH_FLOOR_S, QUIET_TIMES * self.before_wish_s
        )


async def rounds_and_health(good: Good, process: Process) -> tuple[list[float], bool]:
    """Go on for the length of a flood; tell whether /health was good whenever it was asked."""
    well: list[bool] = []

    async def look() -> None:
        while True:
            # A failure is an error here, as it is for a balancer.
            well.append(await anyio.to_thread.run_sync(process.health) == 200)
            await anyio.sleep(HEALTH_S)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        rounds_s = await good.rounds(FLOOD_S)
        tasks.cancel_scope.cancel()
    return rounds_s, all(well) and await anyio.to_thread.run_sync(process.health) == 200


@asynccontextmanager
async def good_worker(store: Store, engine: sa.Engine, gateway: RunningGateway) -> AsyncIterator[Good]:
    async with connected(gateway, make_token(store, "good"), "good") as peer:
        enqueue(engine, new_job())
        offer = await peer.expect(Offer, 30)
        await peer.send(Accept(claim=offer.claim, host=peer.host))
        await peer.expect(Go, 30)
        yield Good(peer, store, offer.claim)


async def test_a_flood_of_any_frame_is_its_senders_own_trouble(databases: Databases, tmp_path: Path) -> None:
    with (
        databases.new(USUAL_KINDS[1], migrated=True) as url,
        using(url) as engine,
        gateway_process(tmp_path, url) as process,
    ):
        store = Store(engine)
        token = make_token(store, "bad")
        async with good_worker(store, engine, process.gateway) as good:
            quiet = sorted([await good.round() for _ in range(ROUNDS)])
            quiet_wish_s = await good.wish(5)
            before = process.memory("VmRSS")
            enqueue(engine, new_job("bad", queue="flood"))
            found, slots, quiet_s = [], 5, quiet[-1]
            for transport, kinds in FLOODS.items():
                with flooding(tmp_path, process.gateway.base_url, token, transport) as flood:
                    for kind in kinds:
                        if IS_LONG:
                            await anyio.to_thread.run_sync(flood.begin, NOTHING)
                            # What was sent until now is taken.
                            await good.rounds(FLOOD_S / 4)
                            quiet_s = p99(await good.rounds(FLOOD_S / 2))
                        await anyio.to_thread.run_sync(flood.begin, kind)
                        rounds_s, is_well = await rounds_and_health(good, process)
                        slots += 1
                        wish_s = await good.wish(slots)
                        measured = Measured(
                            f"{transport:9} {kind:11}",
                            rounds_s,
                            wish_s,
                            process.memory("VmHWM") - before,
                            quiet_s,
                            quiet_wish_s,
                            is_well,
                        )
                        if IS_LONG:
                            print(measured, flush=True)
                        if measured.is_too_much:
                            found.append(str(measured))
            quiet_line = f"quiet: at most {1e3 * quiet[-1]:.0f} ms, wish {1e3 * quiet_wish_s:.0f} ms"
            if IS_LONG:
                print(quiet_line)
            assert not found, "\n".join((quiet_line, *found))
