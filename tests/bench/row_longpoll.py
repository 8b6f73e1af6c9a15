"""Workers that come by long-poll: their jobs, what they cost while they wait, what others notice of them."""

from __future__ import annotations

import http.client
import random
import time
from contextlib import closing

import psutil

from tests.bench.machine import Meter, pss_bytes
from tests.bench.report import Result, percentile
from tests.bench.row_fleets import at_rest
from tests.bench.row_offer import offers, percentiles, workers
from tests.bench.site import CONNECTING, SETTLE_S, Bench
from tests.bench.stand import Server

WARM_WORKERS = 60
"""Connected before threads are counted: as many as make the gateway start all that it shares."""


def longpoll(bench: Bench) -> list[Result]:
    """From commit to offer, then polls at rest, then another route beside them."""
    if not bench.has("edge_ws"):
        return []
    results: list[Result] = []
    for count, queues in bench.plan.poll_offers:
        found: dict[str, list[float]] = {"edge_ws": [], "edge3": []}
        for _ in range(bench.plan.rounds):
            found["edge_ws"] += offers(bench, "edge_ws", count, queues, transport="longpoll")
        name = f"long-poll, commit -> offer, {workers(count, queues)}"
        results += percentiles(name, found, {"p99": "<= 50"})
    return results + _held(bench) + _beside(bench)


def _held(bench: Bench) -> list[Result]:
    """One gateway's polls while there is nothing to say."""
    stand, count = bench.stand, bench.plan.polls_held
    stand.clear(stand.url)
    with (
        stand.gateway(stand.url) as gateway,
        stand.fleet(stand.url, gateway.port, "longpoll") as fleet,
    ):
        process, empty = psutil.Process(gateway.pid), pss_bytes(gateway.pid)
        warm = min(WARM_WORKERS, count // 2)
        fleet.ask("connect", count=warm, queues="each", slots=8, **CONNECTING)
        threads = process.num_threads()
        took_s = fleet.ask("connect", count=count - warm, queues="each", slots=8, **CONNECTING)
        # What letting them in has left to do is no part of their rest.
        time.sleep(min(SETTLE_S, bench.plan.idle_s))
        pids = {"gateway": gateway.pid, "generator": fleet.pid, "postgres": stand.postgres.pid}
        cpu, rate = at_rest(bench, "edge_ws", pids, f"longpoll: {count} held polls")
        used, threads_then = pss_bytes(gateway.pid), process.num_threads()
        still = fleet.ask("wait_ready", count=count, within_s=1.0)
    each = (used - empty) / count / 1024
    bench.say(
        f"longpoll: {count} held polls: {empty / 2**20:.1f} -> {used / 2**20:.1f} MiB PSS; {threads} threads "
        f"with {warm}, {threads_then} with all; the last {count - warm} connected in {took_s:.1f} s; "
        f"errors: {still['errors']}"
    )
    name = f"{count:,} held polls"
    return [
        Result(name=f"{name}, CPU of gateway and database", unit="CPU-s/min", edge_ws=cpu),
        Result(name=f"{name}, statements", unit="1/s", edge_ws=rate, goal="<= 2" if count == 1000 else ""),
        Result(name=f"{name}, memory each", unit="KiB PSS", edge_ws=each),
        Result(
            name=f"{name}, threads of the gateway",
            unit="",
            edge_ws=threads_then,
            goal=f"{warm} have {threads}",
        ),
    ]


def _beside(bench: Bench) -> list[Result]:
    """Another route of the process, with and without held polls; the rounds alternate."""
    stand, count = bench.stand, bench.plan.polls_beside
    found: dict[int, list[float]] = {0: [], count: []}
    for _ in range(bench.plan.rounds):
        stand.clear(stand.url)
        with (
            stand.gateway(stand.url) as gateway,
            stand.fleet(stand.url, gateway.port, "longpoll") as fleet,
        ):
            pids = {"gateway": gateway.pid, "generator": fleet.pid}
            found[0] += _route(bench, gateway, pids, 0)
            fleet.ask("connect", count=count, queues="each", slots=8, **CONNECTING)
            # As above: measured beside polls that are held, not beside workers that are let in.
            time.sleep(min(SETTLE_S, bench.plan.idle_s))
            found[count] += _route(bench, gateway, pids, count)
    results = []
    for held, took in found.items():
        goal = {label: "as with 0" for label in ("p50", "p95", "p99") if held}
        name = f"GET /edge-ws/health, {held:,} held polls"
        results += percentiles(name, {"edge_ws": took, "edge3": []}, goal)
    return results


def _route(bench: Bench, gateway: Server, pids: dict[str, int], held: int) -> list[float]:
    """Ask now and then, over one connection; return milliseconds."""
    rng, took = random.Random(), []
    asking = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30.0)
    with closing(asking) as connection, Meter(pids) as meter:
        for _ in range(bench.plan.route_samples):
            # Far enough apart that no request waits for the one before, at no regular beat.
            time.sleep(rng.uniform(0, 2 * bench.plan.route_gap_s))
            began_ns = time.monotonic_ns()
            connection.request("GET", "/edge-ws/health")
            response = connection.getresponse()
            response.read()
            took.append((time.monotonic_ns() - began_ns) / 1e6)
            assert response.status == 200
    shown = " / ".join(f"{percentile(took, share):.2f}" for share in (0.5, 0.95, 0.99))
    bench.say(f"longpoll: health with {held} held polls: {shown} ms of {len(took)}; {meter.load}")
    return took
