"""One worker floods the gateway through every frame in turn; another one, beside it, must not feel it much.

NOISY=<seconds> floods for so long with each frame, in all ways, and prints what it measured; 10 is the full form.
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
from tests.support.flood import BY_POLL, KINDS
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
        self.popen.stdin.write(f"{kind}\n".encode())
        self.popen.stdin.flush()
        wait_until(lambda: f"flooding {kind}" in self.log.read_text() or self.popen.poll() is not None, 60)
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
            found, slots = [], 5
            for transport, kinds in FLOODS.items():
                with flooding(tmp_path, process.gateway.base_url, token, transport) as flood:
                    for kind in kinds:
                        await anyio.to_thread.run_sync(flood.begin, kind)
                        rounds_s = await good.rounds(FLOOD_S)
                        slots += 1
                        wish_s = await good.wish(slots)
                        assert await anyio.to_thread.run_sync(process.health) == 200
                        more = process.memory("VmHWM") - before
                        line = (
                            f"{transport:9} {kind:11} rounds {len(rounds_s):5}, median"
                            f" {1e3 * statistics.median(rounds_s):6.0f} ms, p99"
                            f" {1e3 * rounds_s[int(0.99 * (len(rounds_s) - 1))]:6.0f} ms,"
                            f" wish {1e3 * wish_s:6.0f} ms, memory +{more / 2**20:.0f} MiB"
                        )
                        if IS_LONG:
                            print(line, flush=True)
                        if (
                            statistics.median(rounds_s) > max(FLOOR_S, QUIET_TIMES * quiet[-1])
                            or wish_s > max(WISH_FLOOR_S, QUIET_TIMES * quiet_wish_s)
                            or more > MORE_MEMORY
                        ):
                            found.append(line)
            quiet_line = f"quiet: at most {1e3 * quiet[-1]:.0f} ms, wish {1e3 * quiet_wish_s:.0f} ms"
            if IS_LONG:
                print(quiet_line)
            assert not found, "\n".join((quiet_line, *found))
