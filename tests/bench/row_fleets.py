"""Fleets at work and at rest: drained jobs, idle cost, memory, coming back after a restart."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tests.bench.machine import Load, Meter, pss_bytes
from tests.bench.report import Result, middle
from tests.bench.site import CONNECTING, PATIENCE_S, SETTLE_S, Bench, fleet_of, server_of
from tests.bench.stand import make_jobs
from tests.bench.statements import counted
from tests.support.waiting import free_port


def drain(bench: Bench) -> list[Result]:
    """Jobs per second from the commit of all of them to the last acknowledged end."""
    plan = bench.plan
    rates: dict[str, list[float]] = {"edge_ws": [], "edge3": []}
    costs: dict[str, dict[str, list[float]]] = {
        part: {"edge_ws": [], "edge3": []} for part in ("gateway", "postgres")
    }
    for _ in range(plan.rounds):
        for system in bench.systems:
            rate, load, count = _drain(bench, system)
            rates[system].append(rate)
            costs["gateway"][system].append(load.cpu_s[server_of(system)] / count * 1e6)
            costs["postgres"][system].append(load.cpu_s["postgres"] / count * 1e6)
    fleet = f"{plan.drain_workers} workers x {plan.drain_slots} slots"
    results = [
        Result(
            name=f"jobs drained, {fleet}",
            unit="jobs/s",
            edge_ws=middle(rates["edge_ws"]),
            edge3=middle(rates["edge3"]),
            more_is_better=True,
            goal=">= 2,500, >= 50 x edge3",
        )
    ]
    for part, what in (("gateway", "CPU of the gateway or api-server"), ("postgres", "CPU of PostgreSQL")):
        ours, theirs = middle(costs[part]["edge_ws"]), middle(costs[part]["edge3"])
        results.append(Result(name=f"drain, {what}", unit="us/job", edge_ws=ours, edge3=theirs))
    return results


def _drain(bench: Bench, system: str) -> tuple[float, Load, int]:
    plan = bench.plan
    count = plan.drain_jobs if system == "edge_ws" else plan.drain_edge3_jobs
    # Airflow's own tokens: what minting costs is the same for both then.
    with fleet_of(bench, system, plan.drain_workers, slots=plan.drain_slots, tokens="airflow") as site:
        warm = make_jobs(2, ["q0"])
        site.inserter.insert(warm)
        site.fleet.ask("wait_ended", count=len(warm), within_s=PATIENCE_S)
        site.fleet.ask("reset")
        jobs = make_jobs(count, ["q0"])
        with Meter(site.pids) as meter:
            sent_ns, _ = site.inserter.insert(jobs, meter.start)
            done = site.fleet.ask("wait_ended", count=count, within_s=PATIENCE_S)
    took_s = (done["last_ns"] - sent_ns) / 1e9
    if done["ended"] < count:
        bench.say(f"drain: {system}: ONLY {done['ended']} of {count} ended")
    if done["stale"] or done["said_again"]:
        bench.say(
            f"drain: {system}: {done['stale']} claims went stale, {done['said_again']} reports had no answer in time"
        )
    rate = done["ended"] / took_s
    bench.say(f"drain: {system}: {done['ended']} jobs in {took_s:.2f} s = {rate:.0f}/s; {meter.load}")
    return rate, meter.load, max(1, done["ended"])


def idle(bench: Bench) -> list[Result]:
    """What fleets that do nothing cost: CPU of server and database, and statements."""
    results = []
    for count in bench.plan.idle_workers:
        cpu: dict[str, float] = {}
        rates: dict[str, float] = {}
        for system in bench.systems:
            if system == "edge_ws" or count in bench.plan.idle_edge3_workers:
                cpu[system], rates[system] = _idle(bench, system, count)
        results.append(
            Result(
                name=f"{count:,} idle workers, CPU of gateway and database",
                unit="CPU-s/min",
                edge_ws=cpu.get("edge_ws"),
                edge3=cpu.get("edge3"),
                goal="<= 3" if count == 1000 else "",
            )
        )
        results.append(
            Result(
                name=f"{count:,} idle workers, statements",
                unit="1/s",
                edge_ws=rates.get("edge_ws"),
                edge3=rates.get("edge3"),
                goal="<= 2" if count == 1000 else "",
            )
        )
    return results


def _idle(bench: Bench, system: str, count: int) -> tuple[float, float]:
    with fleet_of(bench, system, count, queues="each") as site:
        return at_rest(bench, system, site.pids, f"idle: {system} {count}")


def at_rest(bench: Bench, system: str, pids: Mapping[str, int], what: str) -> tuple[float, float]:
    """Watch a system that does nothing; return CPU-s/min of server and database, and statements a second."""
    server = server_of(system)
    with Meter(pids) as meter:
        # The time that is measured.
        time.sleep(bench.plan.idle_s)
    counts = counted(bench.stand, system, bench.plan.count_s)
    load = meter.load
    cpu = (load.cpu_s[server] + load.cpu_s["postgres"]) / load.wall_s * 60
    rate = counts.statements / counts.seconds
    parts = ", ".join(f"{load.cpu_s[part] / load.wall_s * 60:.2f} {part}" for part in (server, "postgres"))
    bench.say(
        f"{what}: {cpu:.2f} CPU-s/min ({parts}); {rate:.2f} statements/s and "
        f"{counts.control / counts.seconds:.2f} BEGIN/COMMIT/ROLLBACK; {load}"
    )
    for text, times in counts.commonest(8):
        bench.say(f"    {times / counts.seconds:7.2f}/s {text}")
    return cpu, rate


def memory(bench: Bench) -> list[Result]:
    """Proportional memory of the gateway for each connection."""
    if not bench.has("edge_ws"):
        return []
    stand, results = bench.stand, []
    stand.clear(stand.url)
    with stand.gateway(stand.url) as gateway, stand.fleet(stand.url, gateway.port) as fleet:
        empty, connected, took_s = pss_bytes(gateway.pid), 0, 0.0
        pids = {"gateway": gateway.pid, "generator": fleet.pid, "postgres": stand.postgres.pid}
        for count in bench.plan.memory_workers:
            with Meter(pids) as meter:
                took_s += fleet.ask(
                    "connect",
                    count=count - connected,
                    queues="each",
                    slots=8,
                    **CONNECTING,
                )
            connected = count
            time.sleep(min(SETTLE_S, bench.plan.idle_s))
            used = pss_bytes(gateway.pid)
            each = (used - empty) / count / 1024
            bench.say(
                f"memory: {count} connections: {empty / 2**20:.1f} -> {used / 2**20:.1f} MiB PSS;"
                f" connected in {took_s:.1f} s; {meter.load}"
            )
            name = f"{count:,} connected workers"
            results.append(Result(name=f"{name}, memory each", unit="KiB PSS", edge_ws=each, goal="<= 40"))
            results.append(Result(name=f"{name}, all connected within", unit="s", edge_ws=took_s))
    return results


def reconnect(bench: Bench) -> list[Result]:
    """A gateway ends and starts again; its workers come back by the daemon's own pauses."""
    if not bench.has("edge_ws"):
        return []
    stand, count, port = bench.stand, bench.plan.reconnect_workers, free_port()
    stand.clear(stand.url)
    with stand.fleet(stand.url, port) as fleet:
        with stand.gateway(stand.url, port=port):
            fleet.ask("connect", count=count, queues="each", slots=8, **CONNECTING)
            time.sleep(min(SETTLE_S, bench.plan.idle_s))
            ended_ns = time.monotonic_ns()
        fleet.ask("wait_gone", within_s=30.0)
        with stand.gateway(stand.url, port=port) as gateway:
            serving_ns = time.monotonic_ns()
            pids = {"gateway": gateway.pid, "generator": fleet.pid, "postgres": stand.postgres.pid}
            with Meter(pids) as meter:
                back = fleet.ask("wait_ready", count=count, within_s=3 * PATIENCE_S)
    from_start, from_end = (back["at_ns"] - serving_ns) / 1e9, (back["at_ns"] - ended_ns) / 1e9
    bench.say(
        f"reconnect: {count} workers: {from_start:.1f} s after the new gateway serves, {from_end:.1f} s after "
        f"the old one was told to end; {back['errors']}; {meter.load}"
    )
    unexpected = sum(
        times
        for error, times in back["errors"].items()
        # 503: told when to come back.
        if error not in {"closed 1012", "closed 1001", "ConnectionRefusedError", "HTTP 503"}
    )
    name = f"{count:,} workers after a gateway's restart"
    return [
        Result(name=f"{name}, all are back", unit="s", edge_ws=from_start),
        Result(name=f"{name}, errors but closes and refused connections", unit="", edge_ws=unexpected),
    ]
