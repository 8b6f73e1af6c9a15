"""From an operator's COMMIT of another concurrency until the worker has it in force."""

from __future__ import annotations

import random
import time

import sqlalchemy as sa

from edge_ws.store.tables import edge_worker
from tests.bench.machine import Meter
from tests.bench.report import Result, percentile
from tests.bench.row_offer import percentiles
from tests.bench.site import Bench, fleet_of
from tests.support.databases import using

FIRST = 10
"""The first concurrency that is wished for; each wish has another number, by which it is found again."""
EDGE3_WITHIN_S = 45.0
"""An edge3 worker hears of it with its next heartbeat, every 30 s."""


def applied(bench: Bench) -> list[Result]:
    """One wish after the other, each for one of the workers, by the statement that edge3's CLI sends."""
    results: list[Result] = []
    for transport, goal in (("websocket", "<= 50"), ("longpoll", "<= 100")):
        found: dict[str, list[float]] = {"edge_ws": [], "edge3": []}
        for _ in range(bench.plan.rounds):
            for system in bench.systems:
                if system == "edge_ws" or transport == "websocket":
                    found[system] += _wishes(bench, system, transport)
        name = "commit -> applied" if transport == "websocket" else "long-poll, commit -> applied"
        if found["edge_ws"] or found["edge3"]:
            results += percentiles(f"{name}, {bench.plan.applied_workers:,} workers", found, {"p99": goal})
    return results


def _wishes(bench: Bench, system: str, transport: str) -> list[float]:
    """Measure once; return milliseconds."""
    plan, rng = bench.plan, random.Random()
    count = plan.applied_workers
    with fleet_of(bench, system, count, transport=transport) as site:
        site.fleet.ask("reset")
        with Meter(site.pids) as meter:
            # The last wish wins, so that one which comes before the one before it was heard hides that one: an
            # edge3 worker, who hears every 30 s, is asked once. Its wishes are spread over a heartbeat, for all
            # workers beat soon after they have connected.
            samples = count if system == "edge3" else plan.applied_samples
            gap_s = plan.applied_edge3_gap_s if system == "edge3" else plan.applied_gap_s
            sent = _wish(bench, system, samples, gap_s, rng)
            within_s = EDGE3_WITHIN_S if system == "edge3" else 10.0
            came = site.fleet.ask("wait_applied", wishes=list(sent), within_s=within_s)
    at = {(name, concurrency): at_ns for name, concurrency, at_ns in came}
    found = [(at[wish] - sent_ns) / 1e6 for wish, sent_ns in sent.items() if wish in at]
    shown = " / ".join(f"{percentile(found, share):.2f}" for share in (0.5, 0.95, 0.99)) if found else "-"
    lost = samples - len(found)
    bench.say(
        f"applied: {system} {transport if system == 'edge_ws' else 'http'} {count}: {shown} ms of {len(found)}"
        f"{f', {lost} NEVER CAME' if lost else ''}; {meter.load}"
    )
    return found


def _wish(
    bench: Bench, system: str, samples: int, gap_s: float, rng: random.Random
) -> dict[tuple[str, int], int]:
    """Write the wishes; return when the COMMIT of each was sent (monotonic ns)."""
    url = bench.stand.edge3_url if system == "edge3" else bench.stand.url
    sent: dict[tuple[str, int], int] = {}
    with using(url) as engine, engine.connect() as connection:
        names = sorted(connection.scalars(sa.select(edge_worker.c.worker_name)))
        for number in range(samples):
            time.sleep(rng.uniform(0, 2 * gap_s))
            wish = names[number % len(names)], FIRST + number
            connection.rollback()
            with connection.begin() as transaction:
                here = edge_worker.c.worker_name == wish[0]
                connection.execute(edge_worker.update().where(here).values(concurrency=wish[1]))
                sent[wish] = time.monotonic_ns()
                transaction.commit()
    return sent
