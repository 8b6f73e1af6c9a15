"""Whose CPU went where while something was measured, and what was used up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

NEARLY_ALL = 0.9
"""Of a core, or of the machine: from here on something is called saturated."""


def tree_cpu_s(pid: int) -> float:
    """Return the CPU-seconds of a process, its living descendants, and those that it has reaped."""
    used = 0.0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
    return used


def pss_bytes(pid: int) -> int:
    """Return the process's proportional share of memory."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss in smaps_rollup")


def _busy_s() -> tuple[float, float]:
    """Return the machine's busy CPU-seconds, and those that a hypervisor took."""
    times = psutil.cpu_times()
    idle = times.idle + times.iowait
    return sum(times[:8]) - idle - times.steal, times.steal


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """CPU use over a span; cores."""

    wall_s: float
    cpu_s: dict[str, float]
    """CPU-seconds by part."""
    other: float
    """Of programs that are none of the benchmark's."""
    stolen: float
    cores: int

    def cores_of(self, part: str) -> float:
        """Return how many cores a part kept busy."""
        return self.cpu_s[part] / self.wall_s

    @property
    def saturated(self) -> str:
        """What was used up."""
        full = [part for part in self.cpu_s if self.cores_of(part) >= NEARLY_ALL and part != "postgres"]
        in_all = sum(self.cpu_s.values()) / self.wall_s + self.other + self.stolen
        if in_all >= NEARLY_ALL * self.cores:
            full.append("machine")
        return "+".join(full) or "-"

    def __str__(self) -> str:
        parts = " ".join(f"{part} {self.cores_of(part):.2f}" for part in self.cpu_s)
        stolen = f" stolen {self.stolen:.2f}" if self.stolen >= 0.01 else ""
        return f"cores: {parts} other {self.other:.2f}{stolen}; saturated: {self.saturated}"


class Meter:
    """Measures the load of a block, or of its part from `start` on: then `load`."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self.load = Load(wall_s=0.0, cpu_s={}, other=0.0, stolen=0.0, cores=1)

    def _now(self) -> tuple[float, dict[str, float], float, float]:
        parts = {name: tree_cpu_s(pid) for name, pid in self._pids.items()}
        own = psutil.Process().cpu_times()
        parts["bench"] = own.user + own.system
        return time.monotonic(), parts, *_busy_s()

    def start(self) -> None:
        """Measure from now on."""
        self._before = self._now()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        before, after = self._before, self._now()
        wall = max(1e-6, after[0] - before[0])
        used = {name: after[1][name] - before[1][name] for name in after[1]}
        self.load = Load(
            wall_s=wall,
            cpu_s=used,
            other=max(0.0, (after[2] - before[2] - sum(used.values())) / wall),
            stolen=(after[3] - before[3]) / wall,
            cores=psutil.cpu_count() or 1,
        )
