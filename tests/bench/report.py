"""Results, as a table for people and as `build/bench.json`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def middle(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One number of each system."""

    name: str
    unit: str
    edge_ws: float | None
    edge3: float | None = None
    more_is_better: bool = False
    goal: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better edge-ws is."""
        if not self.edge_ws or not self.edge3:
            return None
        return self.edge_ws / self.edge3 if self.more_is_better else self.edge3 / self.edge_ws


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(results: Sequence[Result]) -> str:
    """Return the results as aligned text."""
    head = ("", "edge-ws", "edge3", "times better", "unit", "goal")
    lines = [
        (one.name, _shown(one.edge_ws), _shown(one.edge3), _shown(one.ratio), one.unit, one.goal)
        for one in results
    ]
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]

    def row(line: tuple[str, ...]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:4], widths[1:4], strict=True)]
        cells += [cell.ljust(width) for cell, width in zip(line[4:], widths[4:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([row(head), row(tuple("-" * width for width in widths)), *map(row, lines)])


def write_json(results: Sequence[Result], file: Path) -> None:
    """Write the results; rows of an earlier run that this one did not measure stay."""
    file.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(file.read_text()) if file.exists() else {}
    for one in results:
        ratio = None if one.ratio is None else round(one.ratio, 2)
        found[one.name] = {"edge_ws": one.edge_ws, "edge3": one.edge3, "ratio": ratio, "unit": one.unit}
    file.write_text(json.dumps(found, indent=2) + "\n")
