"""The last hour of all gateways in one: what each has written down, added up minute by minute. Pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from edge_ws.protocol.ids import GatewayId
from edge_ws.server.figures import BOUNDS, MINUTES, TRANSPORTS, VERSION
from edge_ws.store.figures import GatewayFigures

log = logging.getLogger(__name__)

Row = dict[str, object]
_BY = {
    "connects": "connects",
    "drops": "drops",
    "refusals": "refusals",
    "offer_results": "offer_results",
    "ends": "ends",
}
"""Counters that are told apart by a label."""
_PLAIN = ("offers", "cancels", "log_bytes")
_DURATIONS = {
    "push_latency": ("push_latency",),
    "start_latency": ("start_latency",),
    "wish_latency": ("wish_latency",),
    "loop_lag": ("loop_lag",),
    "database": ("database_read", "database_write"),
}


@dataclass(slots=True)
class Spread:
    """Durations of several gateways in their common buckets."""

    buckets: Counter[int] = field(default_factory=Counter)
    total: float = 0.0
    longest: float = 0.0

    def add(self, told: Sequence[float]) -> None:
        """Add what one gateway has written down of a minute."""
        total, longest, *pairs = told
        self.total += total
        self.longest = max(self.longest, longest)
        for bucket, count in zip(pairs[::2], pairs[1::2], strict=True):
            self.buckets[int(bucket)] += int(count)

    def merge(self, other: Spread) -> None:
        """Add another one."""
        self.buckets += other.buckets
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def quantile(self, part: float) -> float | None:
        """Return the duration that this part of all does not exceed, from within its bucket; None: no one."""
        left = part * self.buckets.total()
        for bucket in sorted(self.buckets):
            count = self.buckets[bucket]
            if left <= count:
                low = BOUNDS[bucket - 1] if bucket else 0.0
                high = BOUNDS[bucket] if bucket < len(BOUNDS) else self.longest
                return min(low + (high - low) * left / count, max(self.longest, low))
            left -= count
        return None

    def row(self) -> Row:
        """Return it as it is shown."""
        count = self.buckets.total()
        if not count:
            return {"count": 0, **dict.fromkeys(("p50", "p99", "max", "mean"))}
        told = {"p50": self.quantile(0.5), "p99": self.quantile(0.99), "max": self.longest}
        told["mean"] = self.total / count
        return {"count": count, **{name: round(value or 0.0, 6) for name, value in told.items()}}


@dataclass(slots=True)
class _Sum:
    """A minute, or an hour, of all gateways."""

    counts: Counter[str] = field(default_factory=Counter)
    durations: dict[str, Spread] = field(default_factory=dict)
    connections: Counter[str] | None = None

    def add(self, minute: Mapping[str, Any]) -> None:
        self.counts.update({str(name): int(count) for name, count in minute["c"].items()})
        for name, told in minute["d"].items():
            self.durations.setdefault(name, Spread()).add(told)

    def connect(self, connections: Mapping[str, int]) -> None:
        self.connections = (self.connections or Counter()) + Counter(
            {name: int(connections.get(name, 0)) for name in TRANSPORTS}
        )

    def merge(self, other: _Sum) -> None:
        self.counts += other.counts
        for name, spread in other.durations.items():
            self.durations.setdefault(name, Spread()).merge(spread)

    def row(self, minute: int) -> Row:
        return {
            "minute": _iso(minute * 60),
            **_levels(self.connections),
            **{shown: self._labelled(name) for shown, name in _BY.items()},
            **{name: self.counts[name] for name in _PLAIN},
            "database_errors": sum(self._labelled("database_errors").values()),
            **{shown: self._spread(names).row() for shown, names in _DURATIONS.items()},
        }

    def _labelled(self, name: str) -> dict[str, int]:
        begin = f"{name}:"
        return {one.removeprefix(begin): n for one, n in sorted(self.counts.items()) if one.startswith(begin)}

    def _spread(self, names: Iterable[str]) -> Spread:
        whole = Spread()
        for name in names:
            whole.merge(self.durations.get(name) or Spread())
        return whole


def _levels(connections: Counter[str] | None) -> Row:
    if connections is None:
        return {"connections": dict.fromkeys(TRANSPORTS), "longpoll_share": None}
    every = connections.total()
    share = round(connections["longpoll"] / every, 4) if every else None
    return {"connections": {name: connections[name] for name in TRANSPORTS}, "longpoll_share": share}


def figures_row(
    gateways: Sequence[GatewayFigures], now: float, own: tuple[GatewayId, Mapping[str, Any]] | None = None
) -> Row:
    """Return the last hour of all gateways by minute, and as a whole.

    Args:
        gateways: what each has written down.
        now: the database's time, seconds since the epoch.
        own: of this process's gateway what it has in memory, which is newer.
    """
    this = int(now // 60)
    sums = {number: _Sum() for number in range(this - MINUTES + 1, this + 1)}
    shown = []
    for one in gateways:
        told = own[1] if own is not None and own[0] == one.id else _read(one)
        if told is not None:
            try:
                _add(sums, told, this, goes_on=one.is_alive)
            except (KeyError, TypeError, ValueError, AttributeError):
                log.warning("The figures of gateway %s cannot be read, and are left out", one.id)
        if not one.has_ended:
            shown.append(_gateway_row(one, told))
    hour = _Sum()
    for one_minute in sums.values():
        hour.merge(one_minute)
    hour.connections = sums[this].connections
    return {
        "at": _iso(now),
        "gateways": shown,
        "minutes": [sums[number].row(number) for number in sorted(sums)],
        "hour": hour.row(min(sums)),
    }


def _read(one: GatewayFigures) -> Mapping[str, Any] | None:
    try:
        told = orjson.loads(one.figures or "null")
    except orjson.JSONDecodeError:
        return None
    return told if isinstance(told, dict) and told.get("version") == VERSION else None


def _add(sums: Mapping[int, _Sum], told: Mapping[str, Any], this: int, *, goes_on: bool) -> None:
    levels: dict[int, Mapping[str, int]] = {}
    for minute in told["minutes"]:
        number = int(minute["t"])
        if number in sums:
            sums[number].add(minute)
            levels[number] = minute["n"]
    if goes_on and levels:
        # It has not written this minute down yet; its workers are not gone meanwhile.
        for number in range(max(levels) + 1, this + 1):
            levels[number] = told["connections"]
    for number, connections in levels.items():
        sums[number].connect(connections)


def _gateway_row(one: GatewayFigures, told: Mapping[str, Any] | None) -> Row:
    told = told or {}
    return {
        "id": one.id,
        "hostname": one.hostname,
        "pid": one.pid,
        "alive": one.is_alive,
        "started_at": _iso(one.started_at),
        "seen_s": round(max(0.0, one.seen_s), 1),
        "wakeup": told.get("wakeup"),
        "connections": told.get("connections"),
        "loop_lag_s": told.get("loop_lag_s"),
        "metrics": one.has_metrics,
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
