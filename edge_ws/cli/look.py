"""The operators' verbs that only see: read their arguments, ask the centre, show.

What is seen is `edge_ws.server.views`'s, on the database or, with `--url`, at a gateway.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from edge_ws.cli import listing
from edge_ws.cli.output import Row, cells, printable, render, render_one, show, tell, terminal_width
from edge_ws.cli.reach import Centre, reach, split
from edge_ws.errors import EdgeWsError

_GAP = len(" | ")
_WORKERS = (
    "worker_name",
    "state",
    "takes_jobs",
    "queues",
    "jobs_active",
    "concurrency",
    "transport",
    "last_seen_s",
    "airflow_version",
    "edge_ws_version",
    "kind",
    "wished_concurrency",
    "applied",
    "team_name",
    "connection_losses",
    "disk_free_gb",
    "maintenance_comment",
)
"""The columns of tables, the most wanted first: as many are shown as the terminal is wide."""
_QUEUES = ("queue", "queued", "running", "workers", "free_slots", "oldest_wait_s")
_JOBS = (
    "dag_id",
    "run_id",
    "task_id",
    "state",
    "worker",
    "queue",
    "waited_s",
    "try_number",
    "map_index",
    "phase",
    "slots",
    "priority",
    "team_name",
    "queued_at",
)


def list_workers(arguments: Namespace) -> int:
    """List the workers."""
    given = {
        "state": arguments.state,
        "worker_name_pattern": arguments.worker_name_pattern,
        "queues": split(arguments.queues),
    }
    asked = listing.wanted(arguments, limit=arguments.limit)
    waiting = None
    with reach(arguments) as centre:
        rows = centre("list-workers", given, changes=False)
        if rows and arguments.output == "table":
            waiting = _queues_waiting(centre)
    shown = listing.arrange(rows, asked)
    if arguments.output in {"table", "plain"} and asked.columns is None:
        shown = listing.usual([{**row, "takes_jobs": _readiness(row)} for row in shown], _WORKERS)
    summary = listing.worker_summary(rows, waiting) if rows else ""
    _show(shown, arguments, {"queues": "all", "team_name": "any"}, _nothing("worker", given), summary)
    return 0


def _readiness(row: Mapping[str, Any]) -> str | None:
    """Return in a word or two whether a worker takes jobs; None: a gateway of an older release answers."""
    if row.get("takes_jobs") is None:
        return None
    return "yes" if row["takes_jobs"] else f"no: {row['no_jobs_code']}"


def _queues_waiting(centre: Centre) -> int | None:
    try:
        return sum(bool(row.get("queued")) for row in centre("list-queues", {}, changes=False))
    except EdgeWsError:
        # Of less account than the list: it is shown without.
        return None


def list_queues(arguments: Namespace) -> int:
    """List the queues."""
    asked = listing.wanted(arguments, limit=arguments.limit)
    with reach(arguments) as centre:
        rows = centre("list-queues", {}, changes=False)
    shown = listing.arrange(rows, asked)
    if arguments.output in {"table", "plain"} and asked.columns is None:
        shown = listing.usual(shown, _QUEUES)
    summary = listing.queue_summary(rows) if rows else ""
    _show(shown, arguments, {}, "there is no queue: no job, and no worker that names one", summary)
    return 0


def list_jobs(arguments: Namespace) -> int:
    """List the jobs."""
    only = {
        "state": arguments.state,
        "queue": arguments.queue,
        "worker": arguments.edge_hostname,
        "dag_id": arguments.dag_id,
    }
    asked = listing.wanted(arguments, limit=None)
    with reach(arguments) as centre:
        rows = centre("list-jobs", {**only, "limit": arguments.limit}, changes=False)
    shown = listing.arrange(rows, asked)
    if arguments.output in {"table", "plain"} and asked.columns is None:
        shown = listing.usual(shown, _JOBS)
    summary = listing.job_summary(rows) if rows else ""
    if len(rows) == arguments.limit:
        summary += "; there may be more: --limit"
    _show(shown, arguments, {"team_name": "none"}, _nothing("job", only), summary)
    return 0


def _show(
    rows: Sequence[Row], arguments: Namespace, absent: Mapping[str, str], nothing: str, summary: str
) -> None:
    """Print the rows; as a table no wider than the terminal, with a summary below."""
    if arguments.output != "table" or not rows:
        show(rows, arguments.output, absent, nothing)
        return
    width, left_out = terminal_width(), 0
    if width is not None and arguments.columns is None:
        lines = cells(rows, absent)
        left_out = len(lines[0]) - listing.fit(lines, width, _GAP)
    names = list(rows[0])[: len(rows[0]) - left_out]
    table = render([{name: row[name] for name in names} for row in rows], "table", absent)
    if left_out:
        columns = "1 more column" if left_out == 1 else f"{left_out} more columns"
        summary += f" ({columns} in a wider terminal; see --columns and -o json)"
    tell(f"{table}\n\n{printable(summary)}")


def show_worker(arguments: Namespace) -> int:
    """Show one worker, or all whose names are like a pattern."""
    with reach(arguments) as centre:
        found = centre("show-worker", {"worker": arguments.edge_hostname}, changes=False)
    if isinstance(found, list) and arguments.output != "text":
        tell(render(found, arguments.output, {}))
        return 0
    rows = found if isinstance(found, list) else [found]
    tell("\n\n".join(render_one(row, arguments.output) for row in rows))
    return 0


def show_job(arguments: Namespace) -> int:
    """Show one job, the verdict first."""
    names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
    with reach(arguments) as centre:
        row = centre("show-job", {name: getattr(arguments, name) for name in names}, changes=False)
    first = []
    if arguments.output == "text":
        said = (row.pop("verdict"), row.pop("advice"))
        first = [*(printable(one) for one in said if one is not None), ""]
    tell("\n".join([*first, render_one(row, arguments.output)]))
    return 0


def _nothing(what: str, only: dict[str, object]) -> str:
    """Return what to say where there are no rows, with these filters; None: not filtered."""
    is_filtered = any(value is not None for value in only.values())
    return f"there is no {what}{' like that' if is_filtered else ''}"
