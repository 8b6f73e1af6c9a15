"""What a row is given, and a system with its fleet connected."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from tests.bench.control import Program
from tests.bench.plans import Plan
from tests.bench.stand import Inserter, Stand
from tests.support.databases import using

AT_ONCE = 64
"""Workers that are being connected at a time."""
SETTLE_S = 2.0
"""After a fleet has connected."""
PATIENCE_S = 120.0
CONNECTING = {"at_once": AT_ONCE, "within_s": 5 * PATIENCE_S}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a row is given."""

    stand: Stand
    plan: Plan
    say: Callable[[str], None]
    systems: tuple[str, ...] = ("edge_ws", "edge3")

    def has(self, system: str) -> bool:
        """Tell whether that system is measured."""
        return system in self.systems


@dataclass(kw_only=True)
class Site:
    """A system with its fleet connected."""

    fleet: Program
    inserter: Inserter
    pids: dict[str, int] = field(default_factory=dict)


@contextmanager
def fleet_of(
    bench: Bench,
    system: str,
    count: int,
    *,
    queues: str = "shared",
    slots: int = 8,
    url: str = "",
    tokens: str = "plain",
    transport: str = "websocket",
) -> Iterator[Site]:
    """Run that system with a fleet, on empty tables."""
    stand = bench.stand
    if system == "edge3":
        stand.clear(stand.edge3_url)
        server = stand.edge3_server
        with stand.edge3_fleet() as fleet, using(stand.edge3_url) as engine:
            fleet.ask("connect", count=count, queues=queues, slots=slots, **CONNECTING)
            yield from _connected(bench, fleet, engine, {"api-server": server.pid})
        return
    url = url or stand.url
    stand.clear(url)
    with (
        stand.gateway(url, tokens=tokens) as gateway,
        stand.fleet(url, gateway.port, transport) as fleet,
        using(url) as engine,
    ):
        fleet.ask("connect", count=count, queues=queues, slots=slots, **CONNECTING)
        yield from _connected(bench, fleet, engine, {"gateway": gateway.pid})


def _connected(bench: Bench, fleet: Program, engine: sa.Engine, pids: dict[str, int]) -> Iterator[Site]:
    time.sleep(min(SETTLE_S, bench.plan.idle_s))
    inserter = Inserter(engine, is_edge3="api-server" in pids)
    pids["generator"] = fleet.pid
    if engine.dialect.name == "postgresql":
        pids["postgres"] = bench.stand.postgres.pid
    try:
        yield Site(fleet=fleet, inserter=inserter, pids=pids)
    finally:
        inserter.close()


def server_of(system: str) -> str:
    """Return the name of the process under test."""
    return "gateway" if system == "edge_ws" else "api-server"
