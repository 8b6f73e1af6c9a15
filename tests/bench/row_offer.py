"""From a scheduler's COMMIT to the offer's bytes at the worker."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from tests.bench.machine import Meter
from tests.bench.report import Result, middle, percentile
from tests.bench.site import PATIENCE_S, Bench, fleet_of
from tests.bench.stand import id_of, make_jobs


def offer(bench: Bench) -> list[Result]:
    """From the instant a scheduler sends COMMIT until the offer's bytes are read at the worker; idle slots."""
    results: list[Result] = []
    plan = bench.plan
    for count in plan.offer_workers:
        for queues in ("each", "shared") if count > 1 else ("shared",):
            found: dict[str, list[float]] = {"edge_ws": [], "edge3": []}
            for _ in range(plan.rounds):
                for system in bench.systems:
                    if system == "edge_ws" or count in plan.offer_edge3_workers:
                        found[system] += offers(bench, system, count, queues)
            results += percentiles(f"commit -> offer, {workers(count, queues)}", found, _offer_goal(count))
    if bench.has("edge_ws"):
        count = plan.offer_sqlite_workers
        for queues in ("each", "shared"):
            found = {"edge_ws": [], "edge3": []}
            for _ in range(plan.rounds):
                found["edge_ws"] += offers(bench, "edge_ws", count, queues, url=bench.stand.sqlite_url)
            goal = {"p95": "<= 20"}
            results += percentiles(f"commit -> offer, SQLite, {workers(count, queues)}", found, goal)
    return results


def workers(count: int, queues: str) -> str:
    """Return how a row calls the fleet."""
    if count == 1:
        return "1 worker"
    return f"{count:,} workers, {'a queue each' if queues == 'each' else 'one queue'}"


def _offer_goal(count: int) -> dict[str, str]:
    p50, p95, p99 = (4, 10, 30) if count <= 200 else (6, 15, 40)
    return {"p50": f"<= {p50}", "p95": f"<= {p95}", "p99": f"<= {p99}"}


def percentiles(name: str, found: Mapping[str, list[float]], goal: Mapping[str, str]) -> list[Result]:
    """Return the rows of times; milliseconds."""
    return [
        Result(
            name=f"{name}, {label}",
            unit="ms",
            edge_ws=percentile(found["edge_ws"], share) if found["edge_ws"] else None,
            edge3=percentile(found["edge3"], share) if found["edge3"] else None,
            goal=goal.get(label, ""),
        )
        for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    ]


def offers(
    bench: Bench, system: str, count: int, queues: str, *, url: str = "", transport: str = "websocket"
) -> list[float]:
    """Measure once; return milliseconds."""
    plan, rng = bench.plan, random.Random()
    samples, gap_s = plan.offer_samples, plan.offer_gap_s
    if system == "edge3":
        samples, gap_s = plan.offer_edge3_samples, plan.offer_edge3_gap_s
        if count == 1:
            # One at a time: a worker that has fetched a job asks for another at once.
            samples, gap_s = max(1, samples // 6), gap_s * 20
    names = [f"q{rng.randrange(count)}" if queues == "each" else "q0" for _ in range(samples)]
    with fleet_of(bench, system, count, queues=queues, url=url, transport=transport) as site:
        warm = make_jobs(3, ["q0"])
        for job in warm:
            site.inserter.insert([job])
        site.fleet.ask("wait_ended", count=len(warm), within_s=PATIENCE_S)
        site.fleet.ask("reset")
        sent, commits = {}, []
        with Meter(site.pids) as meter:
            for job in make_jobs(samples, names):
                time.sleep(rng.uniform(0, 2 * gap_s))
                sent_ns, done_ns = site.inserter.insert([job])
                sent[id_of(job)] = sent_ns
                commits.append((done_ns - sent_ns) / 1e6)
            came = site.fleet.ask("wait_offers", count=samples, within_s=30.0)
    first: dict[str, int] = {}
    for ti_id, at_ns in came:
        first.setdefault(ti_id, at_ns)
    found = [(first[ti_id] - sent_ns) / 1e6 for ti_id, sent_ns in sent.items() if ti_id in first]
    lost = samples - len(found)
    where = "SQLite" if url else "PostgreSQL"
    said = f"offer: {system} {where} {transport if system == 'edge_ws' else 'http'} {count} {queues}: "
    if found:
        said += " / ".join(f"{percentile(found, share):.2f}" for share in (0.5, 0.95, 0.99)) + " ms"
    said += (
        f" of {len(found)}{f', {lost} NEVER CAME' if lost else ''}; COMMIT itself {middle(commits):.2f} ms"
    )
    bench.say(f"{said}; {meter.load}")
    return found
