"""A worker as it says that it stands: what of that is in force, what is kept, what is news."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace

from edge_ws.protocol.frames import Applied, Inventory
from edge_ws.protocol.ids import WorkerName, is_setting
from edge_ws.server.hub import Link, Standing
from edge_ws.server.worker_log import WorkerLog

NEWS = 0.1
"""A change of a worker's free disk by less than this part is not written: idle workers cost no statements."""
_TREMBLES = {
    "cpu_usage": 10.0,
    "sys_load": 1.0,
    "memory_usage": 5.0,
    "memory_free_gb": 0.25,
    "disk_usage": 1.0,
    "loop_lag_ms": 50.0,
    "round_trip_ms": 20.0,
    "clock_skew_s": 0.5,
    "outbox_oldest_s": 30.0,
    "log_backlog_bytes": 65_536,
}
"""So much a fact moves without being news."""
SYSINFO_BYTES = 16 * 1024
"""Of what a worker says of its machine, as JSON; so much and no more is stored of each."""


def in_force(inventory: Inventory) -> Applied:
    """Return what the inventory says is in force."""
    return Applied(
        revision=inventory.revision,
        concurrency=inventory.concurrency,
        queues=inventory.queues,
        maintenance=inventory.maintenance,
        leaving=inventory.leaving,
    )


def standing(link: Link, applied: Applied) -> Standing:
    """Return what is in force with what the worker has last said besides."""
    inventory = link.inventory
    # Jobs keep the worker from being seen in maintenance, or gone, already.
    is_busy = (
        inventory is not None and (inventory.maintenance or inventory.leaving) and bool(inventory.claims)
    )
    return Standing(applied, is_busy, link.room, link.disk_gb)


def bounded(
    worker: WorkerName, sysinfo: Mapping[str, str | int | float], told: WorkerLog
) -> dict[str, str | int | float]:
    """Return what a worker says of its machine as far as it is stored; what is beyond is left out."""
    kept: dict[str, str | int | float] = {}
    left = SYSINFO_BYTES
    for key, value in sysinfo.items():
        # A character takes no more than four bytes, nor more than six of JSON.
        left -= len(json.dumps([key, value]))
        if left >= 0:
            kept[key] = value
    if left < 0:
        told.say(
            logging.WARNING,
            worker,
            "Worker %s says more of its machine than %d bytes; entries left out: %d",
            worker,
            SYSINFO_BYTES,
            len(sysinfo) - len(kept),
        )
    return kept


def without_settings(sysinfo: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """Return what a worker says of itself but for its settings, which do not change while it is connected."""
    return {key: value for key, value in sysinfo.items() if not is_setting(key)}


def are_news(before: Mapping[str, str | int | float], now: Mapping[str, str | int | float]) -> bool:
    """Tell whether the facts differ by more than a machine's that only ticks over."""
    return before.keys() != now.keys() or any(_is_far(key, before[key], value) for key, value in now.items())


def _is_far(key: str, before: str | float, now: str | float) -> bool:
    if isinstance(before, str) or isinstance(now, str):
        return before != now
    return abs(now - before) > max(_TREMBLES.get(key, 0.0), NEWS * max(abs(before), abs(now)))


def steady(before: float | None, now: object) -> float | None:
    """Return the number if it is far from the one before, else that one: what trembles is no news."""
    if not isinstance(now, int | float):
        return before
    return now if before is None or abs(now - before) > NEWS * max(before, now) else before


def as_wished(link: Link, applied: Applied) -> Applied:
    """Return what is in force; a worker that knows nothing of maintenance is in it by getting no jobs."""
    return applied if link.has_control else replace(applied, maintenance=link.wish.maintenance)
